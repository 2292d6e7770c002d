package firmware

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// member is one entry of a ZIP file made by hand.
type member struct {
	name   string
	data   []byte
	header zip.FileHeader
	raw    bool // header goes out as it is
}

func zipOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, m := range members {
		h := m.header
		h.Name = m.name
		create := z.CreateHeader // writes data descriptors
		if m.raw {
			create = z.CreateRaw
		}
		w, err := create(&h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func spec() BundleSpec {
	return BundleSpec{
		Name: "demo", Platform: "esp32", Version: "2.0.0", BuildID: "20260101-000000/g0123abc",
		BuildTimestamp: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Parts: []BundlePart{
			{Name: "app", Data: bytes.Repeat([]byte("app "), 1000)},
			{Name: "fs", Type: "fs", Src: "fs.img", Data: bytes.Repeat([]byte{0xff}, 4096)},
		},
	}
}

func good(t testing.TB) []byte {
	t.Helper()
	b, err := BuildBundle(spec())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(b []byte, limits Limits) (*Bundle, error) {
	return OpenBundle(bytes.NewReader(b), int64(len(b)), limits)
}

// members takes a good bundle apart.
func members(t testing.TB, b []byte) (manifest, app, fs member) {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	out := make([]member, 3)
	for i, f := range r.File {
		rc, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if out[i].data, err = io.ReadAll(rc); err != nil {
			t.Fatal(err)
		}
		out[i].name = f.Name
	}
	return out[0], out[1], out[2]
}

func TestBuiltBundleIsStreamable(t *testing.T) {
	t.Parallel()
	b, err := open(good(t), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	m := b.Manifest
	if !b.Streamable() || b.Signed() || m.Name != "demo" || m.Platform != "esp32" || m.Version != "2.0.0" || m.BuildTimestamp.Year() != 2026 || len(m.Parts) != 2 {
		t.Errorf("bundle %+v, streamable %v", m, b.Streamable())
	}
	if !bytes.Equal(good(t), good(t)) {
		t.Error("equal specs give different bytes")
	}
}

// TestRewrite checks each way in which a bundle can be good and yet not fit for a device.
func TestRewrite(t *testing.T) {
	t.Parallel()
	want := good(t)
	manifest, app, fs := members(t, want)
	deflate := func(m member) member { m.header.Method = zip.Deflate; return m }
	in := func(dir string, m member) member { m.name = dir + "/" + m.name; return m }
	for _, tc := range []struct {
		name string
		zip  []byte
	}{
		{"data descriptors", zipOf(t, manifest, app, fs)},
		{"compressed", zipOf(t, deflate(manifest), deflate(app), deflate(fs))},
		{"manifest last", zipOf(t, app, fs, manifest)},
		{"in a directory", zipOf(t, member{name: "demo-2.0.0/"}, in("demo-2.0.0", manifest), in("demo-2.0.0", app), in("demo-2.0.0", fs))},
		{"entries that nobody mentions", zipOf(t, manifest, app, member{name: "README.md", data: []byte("hello")}, fs)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b, err := open(tc.zip, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if b.Streamable() {
				t.Error("counts as streamable")
			}
			var out bytes.Buffer
			if err := b.WriteStreamable(&out); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Error("rewritten bundle differs from the built one")
			}
		})
	}
}

// TestSignatureSurvives carries the extra field 0x293a of the manifest through a rewrite.
func TestSignatureSurvives(t *testing.T) {
	t.Parallel()
	manifest, app, fs := members(t, good(t))
	sig := `{"sig0":"MEUCIQ=="}`
	extra := binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16([]byte{1, 0, 0, 0}, signatureExtra), uint16(len(sig)))
	manifest.header.Extra = append(extra, sig...)
	b, err := open(zipOf(t, app, manifest, fs), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := b.WriteStreamable(&out); err != nil {
		t.Fatal(err)
	}
	again, err := open(out.Bytes(), Limits{})
	if err != nil || !b.Signed() || !again.Signed() || !again.Streamable() || !bytes.Contains(again.manifest.signature, []byte(sig)) {
		t.Errorf("signature after a rewrite: %q, %v", again.manifest.signature, err)
	}
}

func TestOpenBundleRefuses(t *testing.T) {
	t.Parallel()
	whole := good(t)
	manifest, app, fs := members(t, whole)
	replace := func(old, new string) member {
		m := manifest
		m.data = bytes.ReplaceAll(m.data, []byte(old), []byte(new))
		if bytes.Equal(m.data, manifest.data) {
			t.Fatalf("the manifest has no %q", old)
		}
		return m
	}
	edit := func(at int, b ...byte) []byte {
		return append(append(bytes.Clone(whole[:at]), b...), whole[at+len(b):]...)
	}
	directory := bytes.Index(whole, []byte(directoryMagic))
	appData := bytes.Index(whole, []byte("app app "))
	evil := func(name string) []byte { return zipOf(t, manifest, app, fs, member{name: name, data: []byte("x")}) }
	for _, tc := range []struct {
		name string
		zip  []byte
		text string
	}{
		{"nothing but the end", zipOf(t), "no manifest.json"},
		{"cut off", whole[:len(whole)-30], "cut off"},
		{"cut off in the data", whole[:appData+5], "cut off"},
		{"something before", append([]byte("#!/bin/sh\n"), whole...), "not where it should be"},
		{"flipped bit in a part", edit(appData, 'A'), "CRC-32"},
		{"local name differs", edit(localBytes, 'M'), "headers of entry"},
		{"local size differs", edit(18, 1), "headers of entry"},
		{"directory damaged", edit(directory, 'Q'), "directory of the ZIP file is damaged"},
		{"more entries than it says", edit(len(whole)-endBytes+8, 2, 0, 2, 0), "more entries than it says"},
		{"encrypted", edit(directory+8, flagEncrypted), "encrypted"},
		{"unknown method", zipOf(t, manifest, app, fs, member{name: "x", header: zip.FileHeader{Method: 12}, raw: true}), "compression method 12"},
		{"wrong SHA-256", zipOf(t, replace(`"cs_sha256": "`, `"cs_sha256": "00`), app, fs), "64 lower-case"},
		{"other data", zipOf(t, manifest, member{name: app.name, data: bytes.Repeat([]byte("bad "), 1000)}, fs), "the SHA-256 of entry"},
		{"other size", zipOf(t, replace(`"size": 4000`, `"size": 4001`), app, fs), "has 4000 bytes, the manifest says 4001"},
		{"missing part", zipOf(t, manifest, app), `no entry "fs.img"`},
		{"part outside", zipOf(t, replace(`"app.bin"`, `"../app.bin"`), app, fs), "leaves its directory"},
		{"part by path", zipOf(t, replace(`"app.bin"`, `"a/app.bin"`), app, fs), "is a path"},
		{"no parts", zipOf(t, replace(`"parts"`, `"Parts"`), app, fs), "parts are not a JSON object"},
		{"no platform", zipOf(t, replace(`"platform"`, `"Platform"`), app, fs), "no platform"},
		{"no JSON", zipOf(t, member{name: manifestName, data: []byte("{")}, app, fs), "not a JSON object"},
		{"two manifests", zipOf(t, manifest, app, fs, member{name: "x/manifest.json", data: manifest.data}), "two entries"},
		{"traversal", evil("../../etc/passwd"), "leaves its directory"},
		{"absolute", evil("/etc/passwd"), "not a plain relative name"},
		{"backslashes", evil(`..\..\x`), "not a plain relative name"},
		{"drive", evil(`C:x`), "not a plain relative name"},
		{"NUL", evil("a\x00b"), "cannot be printed"},
		{"long name", evil(strings.Repeat("x", 50)), "more than the 49"},
		{"huge manifest", zipOf(t, member{name: manifestName, data: bytes.Repeat([]byte(" "), maxManifestBytes+1)}), "at most"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := open(tc.zip, Limits{})
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("OpenBundle: %v, want %q", err, tc.text)
			}
		})
	}
}

// TestBombs offers files that would unpack to far more than they are.
func TestBombs(t *testing.T) {
	t.Parallel()
	manifest, app, _ := members(t, good(t))
	zeros := member{name: "fs.img", data: make([]byte, 4<<20), header: zip.FileHeader{Method: zip.Deflate}}
	honest := zipOf(t, manifest, app, zeros)

	// The same data, with headers that claim that it is small.
	lying := bytes.Clone(honest)
	at := bytes.LastIndex(lying, []byte(directoryMagic))
	binary.LittleEndian.PutUint32(lying[at+24:], 4096)

	// An entry that lies in the data of another one.
	inner := good(t)[:localBytes+len(manifestName)+len(manifest.data)]
	overlap := zipOf(t, manifest, member{name: "outer", data: inner})
	copy(overlap[bytes.LastIndex(overlap, []byte(endMagic))-2*directoryBytes-len(manifestName)-len("outer")+42:],
		binary.LittleEndian.AppendUint32(nil, uint32(bytes.LastIndex(overlap, []byte(localMagic)))))

	var many []member
	for i := range 65 {
		many = append(many, member{name: fmt.Sprint(i)})
	}
	for _, tc := range []struct {
		name string
		zip  []byte
		text string
	}{
		{"honest", honest, "unpacks to more than 1048576 bytes"},
		{"lying", lying, "does not have the 4096 bytes"},
		{"overlapping", overlap, "overlap"},
		{"many entries", zipOf(t, many...), "65 entries"},
	} {
		if _, err := open(tc.zip, Limits{MaxUnpackedBytes: 1 << 20}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.text)
		}
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, file string
		data       []byte
		want       Image
		text       string
	}{
		{"bundle", "fw.zip", good(t), Image{Kind: KindMongooseOS, Name: "demo", Version: "2.0.0", BuildID: "20260101-000000/g0123abc", Platform: "esp32",
			Built: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}, ""},
		{"opaque", "/tmp/tasmota 1@2.bin", []byte{0xe9, 1, 2}, Image{Kind: KindOpaque, Name: "tasmota-1-2.bin"}, ""},
		{"short", "x", []byte("P"), Image{Kind: KindOpaque, Name: "x"}, ""},
		{"another ZIP file", "esp.zip", zipOf(t, member{name: "a.bin", data: []byte("x")}), Image{Kind: KindOpaque, Name: "esp"}, ""},
		{"broken ZIP file", "esp.zip", []byte("PK\x03\x04 and nothing else"), Image{}, "cut off"},
		{"empty", "x", nil, Image{}, "empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, b, err := Inspect(bytes.NewReader(tc.data), int64(len(tc.data)), tc.file, Limits{})
			if tc.text != "" {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("error %v, want %q", err, tc.text)
				}
				return
			}
			tc.want.SizeBytes = int64(len(tc.data))
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" || (b != nil) != (got.Kind == KindMongooseOS) {
				t.Errorf("Inspect: %v\n%s", err, diff)
			}
		})
	}
}

func TestVersionCompare(t *testing.T) {
	t.Parallel()
	order := []Version{"", "0.9", "1.0-alpha", "1.0-alpha.1", "1.0-rc2", "1.0-rc10", "1.0", "1.0.1", "v1.2", "1.10", "2.0.0", "2.0.0b", "10"}
	for i, v := range order {
		for j, w := range order {
			if got, want := v.Compare(w), i-j; (got < 0) != (want < 0) || (got > 0) != (want > 0) {
				t.Errorf("%q.Compare(%q) = %d, want the sign of %d", v, w, got, want)
			}
		}
	}
	if Version("1.0+a").Compare("1.00+b") != 0 {
		t.Error("what follows a + counts")
	}
}

func FuzzOpenBundle(f *testing.F) {
	small := spec() // the fuzzer is slow on large inputs
	small.Parts[0].Data, small.Parts[1].Data = []byte("app"), []byte("fs")
	whole, err := BuildBundle(small)
	if err != nil {
		f.Fatal(err)
	}
	manifest, app, fs := members(f, whole)
	deflated := app
	deflated.header.Method = zip.Deflate
	f.Add(whole)
	f.Add(zipOf(f, manifest, app, fs))
	f.Add(zipOf(f, fs, deflated, manifest))
	f.Add(zipOf(f, member{name: "d/"}, manifest))
	f.Add(zipOf(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := open(data, Limits{MaxUnpackedBytes: 1 << 20})
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		var out, again bytes.Buffer
		if err := b.WriteStreamable(&out); err != nil {
			t.Fatal(err)
		}
		c, err := open(out.Bytes(), Limits{MaxUnpackedBytes: 1 << 20})
		if err != nil || !c.Streamable() || !cmp.Equal(b.Manifest, c.Manifest) {
			t.Fatalf("a rewritten bundle is not good: %v", err)
		}
		if err := c.WriteStreamable(&again); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
			t.Errorf("a second rewrite changes it: %v", err)
		}
		if b.Streamable() && len(data) < out.Len() {
			t.Error("a streamable bundle grows")
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	manifest, _, _ := members(f, good(f))
	f.Add(manifest.data)
	f.Add([]byte(`{"platform":"esp32","version":"1","build_id":"b","parts":{"nvs":{"type":"nvs","size":16384,"fill":255}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		if m.Platform == "" || m.Version == "" || m.BuildID == "" || len(m.Parts) == 0 {
			t.Errorf("incomplete manifest accepted: %+v", m)
		}
		for _, p := range m.Parts {
			if strings.ContainsAny(p.Src, `/\`) || p.SizeBytes < 0 {
				t.Errorf("dangerous part accepted: %+v", p)
			}
		}
	})
}
