package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdJSON runs a command of gatewayctl with --json, which must print one JSON document and nothing
// else: json ARG... With `!`, the command must fail and print nothing on stdout.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("gatewayctl", append(args, "--json")...)
	out := ts.ReadFile("stdout")
	if neg {
		if err == nil || out != "" {
			ts.Fatalf("gatewayctl %s: %v, printed %q", strings.Join(args, " "), err, out)
		}
		return
	}
	ts.Check(err)
	dec := json.NewDecoder(strings.NewReader(out))
	var doc any
	if err := dec.Decode(&doc); err != nil {
		ts.Fatalf("gatewayctl %s --json printed %q: %v", strings.Join(args, " "), out, err)
	}
	if err := dec.Decode(&doc); err != io.EOF {
		ts.Fatalf("gatewayctl %s --json printed more than one document: %q", strings.Join(args, " "), out)
	}
	if errs := ts.ReadFile("stderr"); errs != "" {
		ts.Fatalf("gatewayctl %s --json printed %q beside it", strings.Join(args, " "), errs)
	}
}

// cmdJSONLines checks that stdout holds at least N lines, each a JSON object: jsonlines N
func cmdJSONLines(ts *testscript.TestScript, neg bool, args []string) {
	out := ts.ReadFile("stdout")
	lines := bytes.Split(bytes.TrimSuffix([]byte(out), []byte("\n")), []byte("\n"))
	for _, line := range lines {
		var doc map[string]any
		if err := json.Unmarshal(line, &doc); err != nil {
			ts.Fatalf("line %q: %v", line, err)
		}
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if len(lines) < want {
		ts.Fatalf("%d lines, want at least %d: %q", len(lines), want, out)
	}
}
