package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A Problem is one thing wrong in a configuration file.
type Problem struct {
	Line, Column int // from 1; 0 where the file as a whole is meant
	Text         string
}

// Problems are all that is wrong in one file, in its order. It is an error.
type Problems struct {
	File string
	List []Problem
}

// Error gives one line per problem: file:line:column: text.
func (p *Problems) Error() string {
	lines := make([]string, 0, len(p.List))
	for _, q := range p.List {
		if q.Line == 0 {
			lines = append(lines, fmt.Sprintf("%s: %s", p.File, q.Text))
			continue
		}
		lines = append(lines, fmt.Sprintf("%s:%d:%d: %s", p.File, q.Line, q.Column, q.Text))
	}
	return strings.Join(lines, "\n")
}

func (p *Problems) add(n *yaml.Node, format string, args ...any) {
	p.List = append(p.List, Problem{Line: n.Line, Column: n.Column, Text: fmt.Sprintf(format, args...)})
}

// A decoder fills Go values from YAML nodes. Unlike the library's own decoder it goes on after
// a problem, so that one run shows a user everything, and it knows line and column of each.
type decoder struct {
	problems *Problems
	at       map[string]*yaml.Node // where each key stood, by path, for checks after decoding
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (d *decoder) decode(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.at[path] = n
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // an empty value leaves the default
	}
	if v.Kind() != reflect.Pointer && v.CanAddr() && v.Addr().Type().Implements(textType) {
		d.decodeText(path, n, v.Addr().Interface().(encoding.TextUnmarshaler))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.decode(path, n, v.Elem())
	case reflect.Struct:
		d.decodeStruct(path, n, v)
	case reflect.Map:
		d.decodeMap(path, n, v)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.problems.add(n, "%s wants a list", path)
			return
		}
		out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, c := range n.Content {
			d.decode(fmt.Sprintf("%s[%d]", path, i), c, out.Index(i))
		}
		v.Set(out)
	default:
		d.decodeScalar(path, n, v)
	}
}

func (d *decoder) decodeText(path string, n *yaml.Node, t encoding.TextUnmarshaler) {
	if n.Kind != yaml.ScalarNode {
		d.problems.add(n, "%s wants one value", path)
		return
	}
	if err := t.UnmarshalText([]byte(n.Value)); err != nil {
		d.problems.add(n, "%s: %v", path, err)
	}
}

func (d *decoder) decodeStruct(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.problems.add(n, "%s wants keys and values", orFile(path))
		return
	}
	fields := map[string]int{}
	var names []string
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			fields[name] = i
			names = append(names, name)
		}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		switch f, ok := fields[key.Value]; {
		case seen[key.Value]:
			d.problems.add(key, "%s is given twice", join(path, key.Value))
		case !ok:
			d.problems.add(key, "unknown key %s%s", join(path, key.Value), suggest(key.Value, names))
		default:
			seen[key.Value] = true
			d.decode(join(path, key.Value), val, v.Field(f))
		}
	}
}

func (d *decoder) decodeMap(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.problems.add(n, "%s wants keys and values", path)
		return
	}
	out := reflect.MakeMap(v.Type())
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		k := reflect.ValueOf(key.Value).Convert(v.Type().Key())
		if out.MapIndex(k).IsValid() {
			d.problems.add(key, "%s is given twice", join(path, key.Value))
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.decode(join(path, key.Value), val, e)
		out.SetMapIndex(k, e)
	}
	v.Set(out)
}

func (d *decoder) decodeScalar(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.problems.add(n, "%s wants one value", path)
		return
	}
	switch {
	case v.Type() == durationType:
		t, err := time.ParseDuration(n.Value)
		if err != nil {
			d.problems.add(n, "%s: %q is not a duration: write a number with a unit, such as 30s, 10m or 24h", path, n.Value)
			return
		}
		v.SetInt(int64(t))
	case v.Kind() == reflect.String:
		if n.Tag != "!!str" && n.Tag != "!!int" && n.Tag != "!!float" {
			d.problems.add(n, "%s: %q is not a text: put it in quotes", path, n.Value)
			return
		}
		v.SetString(n.Value)
	case v.Kind() == reflect.Bool:
		if n.Tag != "!!bool" {
			d.problems.add(n, "%s: %q is neither true nor false", path, n.Value)
			return
		}
		v.SetBool(n.Value == "true" || n.Value == "True" || n.Value == "TRUE")
	case v.CanInt():
		i, err := strconv.ParseInt(strings.ReplaceAll(n.Value, "_", ""), 10, v.Type().Bits())
		if err != nil {
			d.problems.add(n, "%s: %q is not a whole number", path, n.Value)
			return
		}
		v.SetInt(i)
	default:
		panic("config: field of a kind that the decoder does not know: " + v.Type().String())
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func orFile(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

// suggest names the known key that was most likely meant, if one is near.
func suggest(key string, names []string) string {
	best, dist := "", 3
	for _, n := range names {
		if d := distance(key, n); d < dist {
			best, dist = n, d
		}
	}
	if best != "" {
		return fmt.Sprintf(" (did you mean %s?)", best)
	}
	slices.Sort(names)
	return fmt.Sprintf(" (known here: %s)", strings.Join(names, ", "))
}

// distance is the Levenshtein distance of a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, prev+cost)
			prev, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
