package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what the process pid has used so far, user and system, all its threads.
func cpuTime(pid int) (time.Duration, error) {
	const scheduler = 2                 // CPUCLOCK_SCHED of the kernel: nanoseconds on a processor
	clock := int32(^pid)<<3 | scheduler // what clock_getcpuclockid(3) makes of a pid
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// residentBytes is the process's resident memory.
func residentBytes(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0, fmt.Errorf("memory of process %d: unexpected %q", pid, b)
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// diskUse is what a process has written since it started.
type diskUse struct {
	written int64 // write_bytes: what it made the kernel write to storage
	calls   int64 // wchar: what it gave to write(2), sockets included
}

func diskOf(pid int) (d diskUse, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return d, fmt.Errorf("writes of process %d: %w", pid, err)
	}
	for line := range bytes.Lines(b) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil {
			return d, fmt.Errorf("writes of process %d: unexpected %q", pid, line)
		}
		switch string(name) {
		case "write_bytes":
			d.written = n
		case "wchar":
			d.calls = n
		}
	}
	return d, nil
}
