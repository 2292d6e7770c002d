package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// The process clock is the sum that /proc/PID/stat tells in ticks of 10 ms.
func TestCPUTimeIsThatOfStat(t *testing.T) {
	t.Parallel()
	for range 5_000_000 { // some work
		_ = time.Duration(len(t.Name()))
	}
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	after, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	user, err1 := strconv.Atoi(string(fields[11]))
	system, err2 := strconv.Atoi(string(fields[12]))
	if err1 != nil || err2 != nil {
		t.Fatalf("/proc/self/stat: %s", b)
	}
	const tick = 10 * time.Millisecond
	if told := time.Duration(user+system) * tick; told < before-2*tick || told > after+2*tick {
		t.Errorf("/proc/self/stat says %v, the process clock %v to %v", told, before, after)
	}
	if _, err := cpuTime(1 << 22); err == nil {
		t.Error("a process that does not exist has a CPU time")
	}
}

func TestResidentBytes(t *testing.T) {
	t.Parallel()
	got, err := residentBytes(os.Getpid())
	if err != nil || got < 1<<20 || got > 8<<30 {
		t.Errorf("residentBytes = %d, %v", got, err)
	}
	if _, err := residentBytes(1 << 22); err == nil {
		t.Error("a process that does not exist has memory")
	}
}

func TestDiskUse(t *testing.T) {
	t.Parallel()
	before, err := diskOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const n = 1 << 20
	if err := os.WriteFile(filepath.Join(t.TempDir(), "f"), make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
	after, err := diskOf(os.Getpid())
	if err != nil || after.calls-before.calls < n {
		t.Errorf("writing %d bytes counts as %d, %v", n, after.calls-before.calls, err)
	}
	if _, err := diskOf(1 << 22); err == nil {
		t.Error("a process that does not exist writes")
	}
}
