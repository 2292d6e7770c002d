package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdCode runs a command that must end with the exit code given: code N CMD...
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// cmdExchange runs a receiving command and repeats a sending one until the receiver has ended:
// exchange TEXT RECEIVER... -- SENDER... The receiver's output must hold TEXT.
func cmdExchange(ts *testscript.TestScript, neg bool, args []string) {
	split := 0
	for i, a := range args {
		if a == "--" {
			split = i
		}
	}
	if split == 0 {
		ts.Fatalf("usage: exchange TEXT RECEIVER... -- SENDER...")
	}
	text, receiver, sender := args[0], args[1:split], args[split+1:]
	path := lookPath(ts, receiver[0])
	var out, errOut bytes.Buffer
	cmd := exec.Command(path, receiver[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), &out, &errOut
	cmd.Env = environment(ts)
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for {
		_, err := quiet(ts, sender[0], sender[1:]...)
		ts.Check(err)
		select {
		case err := <-ended:
			if err != nil || !strings.Contains(out.String(), text) {
				ts.Fatalf("%s: %v, printed %q (%q), want %q", strings.Join(receiver, " "), err, out.String(), errOut.String(), text)
			}
			return
		case <-limit.C:
			cmd.Process.Kill() //nolint:errcheck // it may have ended meanwhile
			<-ended
			ts.Fatalf("%s got nothing within 30 s; printed %q (%q)", strings.Join(receiver, " "), out.String(), errOut.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// cmdInterrupt starts a command, sends it SIGINT once it has printed a line, and wants exit code 0.
func cmdInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command(lookPath(ts, args[0]), args[1:]...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), environment(ts)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	limit := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() }) //nolint:errcheck // it may have ended
	defer limit.Stop()
	lines := bufio.NewScanner(out)
	printed := lines.Scan()
	ts.Check(cmd.Process.Signal(os.Interrupt))
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil || !printed {
		ts.Fatalf("%s: ended with %v after SIGINT; printed a line: %v; stderr %q", strings.Join(args, " "), err, printed, errOut.String())
	}
}

// cmdOnline waits until the device named is connected; `! online` until it is not.
func cmdOnline(ts *testscript.TestScript, neg bool, args []string) {
	poll(ts, 30*time.Second, func() error {
		out, err := quiet(ts, "gatewayctl", "device", "show", args[0], "--json", "--data", "data")
		if err != nil {
			return err
		}
		var dev struct{ Presence struct{ Online bool } }
		if err := json.Unmarshal([]byte(out), &dev); err != nil {
			return err
		}
		if dev.Presence.Online == neg {
			return fmt.Errorf("%s: online = %v", args[0], dev.Presence.Online)
		}
		return nil
	})
}

// cmdBridged waits until the first upstream is connected (or `! bridged`: is not).
func cmdBridged(ts *testscript.TestScript, neg bool, args []string) {
	poll(ts, 30*time.Second, func() error {
		s, err := bridgeStatus(ts)
		if err == nil && (s.State == "connected") == neg {
			err = fmt.Errorf("upstream is %s (%s)", s.State, s.LastError)
		}
		return err
	})
}

// cmdDrained waits until no rule of the first upstream has anything left to send.
func cmdDrained(ts *testscript.TestScript, neg bool, args []string) {
	poll(ts, 60*time.Second, func() error {
		s, err := bridgeStatus(ts)
		if err != nil {
			return err
		}
		for _, r := range s.Rules {
			if r.Depth > 0 {
				return fmt.Errorf("%d messages left in %s", r.Depth, r.Name)
			}
		}
		return nil
	})
}

type upstreamStatus struct {
	State     string
	LastError string `json:"last_error"`
	Rules     []struct {
		Name  string
		Depth int `json:"depth_messages"`
	}
}

func bridgeStatus(ts *testscript.TestScript) (upstreamStatus, error) {
	out, err := quiet(ts, "gatewayctl", "bridge", "status", "--json", "--data", "data")
	if err != nil {
		return upstreamStatus{}, err
	}
	var s struct{ Upstreams []upstreamStatus }
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return upstreamStatus{}, err
	}
	if len(s.Upstreams) == 0 {
		return upstreamStatus{}, errors.New("no upstream")
	}
	return s.Upstreams[0], nil
}

// cmdNumbers publishes the numbers FROM to TO as lamp, each acknowledged: numbers TOPIC FROM TO
func cmdNumbers(ts *testscript.TestScript, neg bool, args []string) {
	from, err := strconv.Atoi(args[1])
	ts.Check(err)
	to, err := strconv.Atoi(args[2])
	ts.Check(err)
	var lines strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&lines, i)
	}
	cmd := exec.Command("mosquitto_pub", "-h", "localhost", "-p", ts.Getenv("MQTT_PORT"), "--cafile", "certs/ca.crt",
		"--cert", "certs/lamp.crt", "--key", "certs/lamp.key", "-i", "lamp", "-t", args[0], "-q", "1", "-l")
	cmd.Dir, cmd.Stdin = ts.MkAbs("."), strings.NewReader(lines.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("mosquitto_pub: %v\n%s", err, out)
	}
}

// cmdInOrder checks that stdout holds the numbers FROM to TO, each at least once and none before
// its predecessor's first: inorder FROM TO
func cmdInOrder(ts *testscript.TestScript, neg bool, args []string) {
	next, err := strconv.Atoi(args[0])
	ts.Check(err)
	to, err := strconv.Atoi(args[1])
	ts.Check(err)
	for _, line := range strings.Fields(ts.ReadFile("stdout")) {
		n, err := strconv.Atoi(line)
		if err != nil {
			continue
		}
		switch {
		case n == next:
			next++
		case n > next:
			ts.Fatalf("%d came before %d", n, next)
		}
	}
	if next != to+1 {
		ts.Fatalf("the numbers end at %d, want %d", next-1, to)
	}
}

// cmdExpand replaces ${NAME} in a file by the script's variables.
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		path := ts.MkAbs(name)
		b, err := os.ReadFile(path)
		ts.Check(err)
		ts.Check(os.WriteFile(path, []byte(os.Expand(string(b), ts.Getenv)), 0o600))
	}
}

// cmdSerial sets a variable to the serial number of the first certificate on stdout.
func cmdSerial(ts *testscript.TestScript, neg bool, args []string) {
	var p struct{ Certificates []struct{ Serial string } }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &p))
	if len(p.Certificates) == 0 {
		ts.Fatalf("no certificate on stdout")
	}
	ts.Setenv(args[0], p.Certificates[0].Serial)
}

// cmdGlob sets a variable to the one file that matches: glob NAME PATTERN
func cmdGlob(ts *testscript.TestScript, neg bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(args[1]))
	ts.Check(err)
	if len(found) != 1 {
		ts.Fatalf("%s matches %d files, want 1", args[1], len(found))
	}
	ts.Setenv(args[0], found[0])
}

// cmdTruncate writes the first N bytes of a file to another: truncate FROM TO N
func cmdTruncate(ts *testscript.TestScript, neg bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b[:n], 0o600))
}

// cmdForeignCert writes NAME.crt and NAME.key into DIR, signed by a CA that nobody knows.
func cmdForeignCert(ts *testscript.TestScript, neg bool, args []string) {
	name, dir := args[0], ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(dir, 0o700))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	ts.Check(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	ts.Check(os.WriteFile(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
}

// cmdBundle writes a Mongoose OS firmware bundle, made without the product's own code:
// bundle FILE PLATFORM VERSION
func cmdBundle(ts *testscript.TestScript, neg bool, args []string) {
	file, platform, version := args[0], args[1], args[2]
	app := bytes.Repeat([]byte(version), 10_000)
	sum1, sum256 := sha1.Sum(app), sha256.Sum256(app)
	manifest, err := json.Marshal(map[string]any{
		"name": "demo", "platform": platform, "version": version, "build_id": "20260101-000000/" + version,
		"parts": map[string]any{"app": map[string]any{"type": "app", "src": "app.bin", "size": len(app),
			"cs_sha1": hex.EncodeToString(sum1[:]), "cs_sha256": hex.EncodeToString(sum256[:])}},
	})
	ts.Check(err)
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, e := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {"app.bin", app}} {
		f, err := w.CreateRaw(&zip.FileHeader{Name: e.name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(e.data),
			CompressedSize64: uint64(len(e.data)), UncompressedSize64: uint64(len(e.data))})
		ts.Check(err)
		_, err = f.Write(e.data)
		ts.Check(err)
	}
	ts.Check(w.Close())
	ts.Check(os.WriteFile(ts.MkAbs(file), buf.Bytes(), 0o600))
}
