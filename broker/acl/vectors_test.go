package acl_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"gatewayctl/broker/acl"
)

type vector struct {
	Name  string
	Given struct {
		Policies []json.RawMessage
		Context  map[string]oneOrMore
	}
	When struct{ Action, Resource string }
	Then string
}

// oneOrMore is a string or a list of strings.
type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(b []byte) error {
	if b[0] == '[' {
		return json.Unmarshal(b, (*[]string)(o))
	}
	*o = []string{""}
	return json.Unmarshal(b, &(*o)[0])
}

func (v vector) context() acl.Context {
	ctx := acl.Context{}
	for key, values := range v.Given.Context {
		ctx[key] = values
	}
	return ctx
}

func (v vector) set(t testing.TB) *acl.Set {
	t.Helper()
	var docs []acl.Named
	for i, raw := range v.Given.Policies {
		docs = append(docs, acl.Named{Name: fmt.Sprintf("policy-%d", i), Doc: parse(t, string(raw))})
	}
	return acl.Compile(docs...)
}

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []vector }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) != 79 {
		t.Fatalf("%d vectors, want 79", len(file.Cases))
	}
	return file.Cases
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			set := v.set(t)
			want := set.Decide(v.When.Action, v.When.Resource, v.context())
			if want.Effect.String() != v.Then {
				t.Errorf("Decide(%s, %s) = %v, want %s", v.When.Action, v.When.Resource, want.Effect, v.Then)
			}
			got, ok := bound(t, set, v.context(), v.When.Action, v.When.Resource)
			if ok && got != want {
				t.Errorf("Bind answers %+v, Decide %+v", got, want)
			}
		})
	}
}

// bound asks a Bound what Decide is asked with a full ARN; false when it is no MQTT action.
func bound(t testing.TB, set *acl.Set, ctx acl.Context, action, arn string) (acl.Decision, bool) {
	t.Helper()
	parts := strings.SplitN(arn, ":", 6)
	prefix := strings.Join(parts[:5], ":") + ":"
	if err := acl.ValidatePrefix(prefix); err != nil {
		t.Fatal(err)
	}
	kind, name, _ := strings.Cut(parts[5], "/")
	b := set.Bind(ctx, prefix)
	switch strings.ToLower(action) + " " + kind {
	case "iot:connect client":
		return b.Connect(name), true
	case "iot:publish topic":
		return b.Publish(name), true
	case "iot:retainpublish topic":
		return b.RetainPublish(name), true
	case "iot:subscribe topicfilter":
		return b.Subscribe(name), true
	case "iot:receive topic":
		return b.Receive(name), true
	}
	return acl.Decision{}, false
}

func parse(t testing.TB, doc string) *acl.Document {
	t.Helper()
	d, err := acl.Parse([]byte(doc))
	if err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	return d
}
