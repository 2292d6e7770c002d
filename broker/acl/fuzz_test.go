package acl_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatewayctl/broker/acl"
)

// addDocuments seeds f with the policies of the vectors and with testdata/documents.
func addDocuments(f *testing.F, add func(doc string)) {
	for _, v := range vectors(f) {
		for _, p := range v.Given.Policies {
			add(string(p))
		}
	}
	files, err := os.ReadDir("testdata/documents")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds in testdata/documents: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(filepath.Join("testdata/documents", file.Name()))
		if err != nil {
			f.Fatal(err)
		}
		add(string(b))
	}
}

func FuzzParse(f *testing.F) {
	addDocuments(f, func(doc string) { f.Add([]byte(doc)) })
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		doc, err := acl.Parse(b)
		if !slices.Equal(before, b) {
			t.Error("Parse changed its input")
		}
		var perr *acl.ParseError
		problems := []acl.Problem(nil)
		switch {
		case err == nil:
			problems = doc.Warnings()
			if !json.Valid([]byte(strings.TrimPrefix(string(b), "\uFEFF"))) {
				t.Errorf("Parse accepts what is not JSON: %q", b)
			}
		case !errors.As(err, &perr) || len(perr.Problems) == 0:
			t.Fatalf("Parse = %v, want a ParseError with problems", err)
		default:
			problems = perr.Problems
		}
		lines := strings.Split(string(b), "\n")
		for _, p := range problems {
			if p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > len(lines[p.Line-1])+1 || p.Reason == "" || p.Remedy == "" {
				t.Errorf("problem without a place, a reason or a remedy: %+v", p)
			}
		}
	})
}

// FuzzDecide asks that a decision is always the same, whatever the order of maps and documents,
// and that a Bound answers as Decide does.
func FuzzDecide(f *testing.F) {
	addDocuments(f, func(doc string) {
		f.Add(doc, "lamp", "lamp", "lamp/data")
	})
	f.Add(typical, "pump-7", "pump-7", "site/a/pump-7/data/b")
	f.Add(statement(`"Effect": "Allow", "Action": "*", "Resource": "arn:aws:iot:*?topic/*a?b*"`), "", "", "xa\xffb")
	f.Add(statement(`"Effect": "Deny", "Action": "*", "Resource": "arn:aws:iot:*:topic/a:b/${iot:ClientId}"`), "+", "a:b", "a:b/+")
	f.Fuzz(func(t *testing.T, text, clientID, thing, name string) {
		doc, err := acl.Parse([]byte(text))
		if err != nil {
			return
		}
		ctx := acl.Context{
			"iot:ClientId": {clientID}, "IOT:clientid": {"other spelling"}, "iot:Connection.Thing.ThingName": {thing}, "aws:SourceIp": {clientID},
			"iot:Connection.Thing.IsAttached": {"true"}, "iot:Certificate.Subject.CommonName": {thing}, "iot:ConnectAttributes": {"LastWill", clientID},
		}
		set := acl.Compile(acl.Named{Name: "a", Doc: doc}, acl.Named{Name: "b", Doc: parse(t, statement(`"Effect": "Deny", "Action": "iot:Receive", "Resource": "*/secret"`))})
		b, again := set.Bind(ctx, ""), set.Bind(ctx, "")
		for _, q := range []struct {
			action   string
			resource acl.Resource
			ask      func(*acl.Bound, string) acl.Decision
		}{
			{"iot:Connect", acl.Client, (*acl.Bound).Connect},
			{"iot:Publish", acl.Topic, (*acl.Bound).Publish},
			{"iot:RetainPublish", acl.Topic, (*acl.Bound).RetainPublish},
			{"iot:Subscribe", acl.TopicFilter, (*acl.Bound).Subscribe},
			{"iot:Receive", acl.Topic, (*acl.Bound).Receive},
		} {
			want := set.Decide(q.action, acl.ARN("", q.resource, name), ctx)
			if got := set.Decide(strings.ToUpper(q.action), acl.ARN("", q.resource, name), ctx); got != want {
				t.Errorf("%s of %q is decided %v and then %v", q.action, name, want, got)
			}
			if got := q.ask(b, name); got != want {
				t.Errorf("%s of %q: Bound answers %v, Decide %v\n%s", q.action, name, got, want, text)
			}
			if got := q.ask(again, name); got != want {
				t.Errorf("%s of %q: the second Bound answers %v, Decide %v", q.action, name, got, want)
			}
			if want.Effect == acl.ImplicitDeny && want != (acl.Decision{}) || want.Effect != acl.ImplicitDeny && (want.Policy == "" || want.Statement == "") {
				t.Errorf("%s of %q: %+v", q.action, name, want)
			}
		}
	})
}
