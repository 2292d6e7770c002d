package rpc_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatewayctl/gateway/rpc"

	"github.com/google/go-cmp/cmp"
)

func TestParseFrame(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, in string
		want     rpc.Frame
	}{
		{"request", `{"id":7,"src":"gw","method":"Config.Get","params":{"key": "device"}}`,
			rpc.Frame{ID: rpc.IntID(7), Src: "gw", Method: "Config.Get", Params: json.RawMessage(`{"key":"device"}`)}},
		{"args are the old name of params", `{"id":7,"method":"A.B","args":[1]}`,
			rpc.Frame{ID: rpc.IntID(7), Method: "A.B", Params: json.RawMessage(`[1]`)}},
		{"params win over args", `{"id":7,"method":"A.B","args":[1],"params":[2]}`,
			rpc.Frame{ID: rpc.IntID(7), Method: "A.B", Params: json.RawMessage(`[2]`)}},
		{"text id", `{"id":"7","result":null}`, rpc.Frame{ID: rpc.TextID("7"), Result: json.RawMessage(`null`)}},
		{"a null id is a notification's", `{"id":null,"method":"NotifyEvent"}`, rpc.Frame{Method: "NotifyEvent"}},
		{"id written as a float", `{"id":7.0,"result":1}`, rpc.Frame{ID: rpc.IntID(7), Result: json.RawMessage(`1`)}},
		{"success as error 0", `{"id":1,"error":{"code":0,"message":"ok"}}`,
			rpc.Frame{ID: rpc.IntID(1), Error: &rpc.RemoteError{Message: "ok"}}},
		{"error as text", `{"id":1,"error":"busy"}`, rpc.Frame{ID: rpc.IntID(1), Error: &rpc.RemoteError{Code: -1, Message: "busy"}}},
		{"a null error is none", `{"id":1,"error":null,"result":true}`, rpc.Frame{ID: rpc.IntID(1), Result: json.RawMessage(`true`)}},
		{"names are case-sensitive", `{"ID":1,"Method":"A.B","src":"x"}`, rpc.Frame{Src: "x"}},
		{"unimportant fields of a wrong type are dropped", `{"id":1,"tag":5,"v":"x","auth":"y","trace":[],"nr":1}`, rpc.Frame{ID: rpc.IntID(1)}},
		{"unknown fields are ignored", `{"jsonrpc":"2.0","id":1,"result":{}}` + "\r\n", rpc.Frame{ID: rpc.IntID(1), Result: json.RawMessage(`{}`)}},
		{"what only mos sends", `{"v":2,"id":1,"key":"k","nr":true,"deadline":9,"timeout":8,"trace":{"id":1},"method":"A.B","tag":"t"}`,
			rpc.Frame{ID: rpc.IntID(1), Version: 2, Key: "k", NoResponse: true, Deadline: 9, Timeout: 8,
				Trace: json.RawMessage(`{"id":1}`), Method: "A.B", Tag: "t"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := rpc.ParseFrame([]byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("ParseFrame(%s) (-want +got):\n%s", tc.in, diff)
			}
		})
	}
}

func TestParseFrameRefuses(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		``, `null`, `[]`, `7`, `"x"`, `{`, `{"id":1}}`, `{"id":1} {"id":2}`, `{"id":1.5}`, `{"id":true}`, `{"id":{}}`, `{"id":1e300}`,
		`{"src":1}`, `{"method":[]}`, `{"dst":{}}`, `{"error":5}`, `{"error":{"code":1.5}}`, `{"error":[]}`,
		`{"params":{"pin":2,"value":1}`, // GPIO.Int as published: the closing brace is missing
		strings.Repeat(`{"params":`, 20000),
	} {
		if f, err := rpc.ParseFrame([]byte(in)); !errors.Is(err, rpc.ErrFrame) {
			t.Errorf("ParseFrame(%.60s) = %+v, %v", in, f, err)
		}
	}
}

func TestAppendIsWhatDevicesExpect(t *testing.T) {
	t.Parallel()
	f := rpc.Frame{ID: rpc.IntID(81), Src: "esp32_A1B2C3/rpc-resp/k3f9", Method: "Sys.GetInfo", Params: json.RawMessage("{ \"a\" : \"<\" }\n")}
	if got, want := string(f.Append([]byte(">"))), `>{"id":81,"src":"esp32_A1B2C3/rpc-resp/k3f9","method":"Sys.GetInfo","params":{"a":"<"}}`; got != want {
		t.Errorf("Append = %s, want %s", got, want)
	}
	if err := (rpc.Frame{Params: json.RawMessage("{")}).Validate(); err == nil {
		t.Error("params that are no JSON validate")
	}
}

func TestIDAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		answer, request rpc.ID
		want            bool
	}{
		{rpc.IntID(5), rpc.IntID(5), true},
		{rpc.IntID(5), rpc.TextID("5"), true}, // devices answer digits as a number
		{rpc.TextID("a"), rpc.TextID("a"), true},
		{rpc.IntID(5), rpc.IntID(6), false},
		{rpc.ID{}, rpc.ID{}, false},
		{rpc.ID{}, rpc.TextID(""), false},
	} {
		if got := tc.answer.Answers(tc.request); got != tc.want {
			t.Errorf("%v answers %v: %v", tc.answer, tc.request, got)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	seeds, err := filepath.Glob("testdata/frames/*")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds in testdata/frames: %v", err)
	}
	for _, name := range seeds {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := rpc.ParseFrame(b)
		if err != nil {
			return
		}
		again, err := rpc.ParseFrame(fr.Append(nil))
		if err != nil || !cmp.Equal(again, fr) {
			t.Errorf("ParseFrame(%q) does not survive a round trip: %v\n%s", b, err, cmp.Diff(fr, again))
		}
	})
}
