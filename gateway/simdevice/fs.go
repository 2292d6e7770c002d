package simdevice

import (
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
)

func fsMethods() []method {
	return []method{
		{name: "FS.Rename", args: "{src: %Q, dst: %Q}", run: fsRename},
		{name: "FS.Remove", args: "{filename: %Q}", run: fsRemove},
		{name: "FS.Put", args: "{filename: %Q, data: %V, append: %B, offset: %d}", run: fsPut},
		{name: "FS.Get", args: "{filename: %Q, offset: %d, len: %d}", run: fsGet},
		{name: "FS.ListExt", args: "{path: %Q}", run: fsListExt},
		{name: "FS.List", args: "{path: %Q}", run: fsList},
	}
}

// fileName takes the slashes off: there is one directory.
func fileName(s string) string { return strings.TrimLeft(s, "/") }

// writeFile replaces a file, as far as the file system has room.
func (b *boot) writeFile(name string, data []byte) error {
	fw := b.firmware()
	if fw.usedBytes()-len(fw.files[name])+len(name)+len(data) > fsBytes {
		return fail(500, "write failed: no space left")
	}
	fw.files[name] = data
	return nil
}

func fsList(_ context.Context, c *call) (any, error) {
	return append([]string{}, slices.Sorted(maps.Keys(c.b.firmware().files))...), nil
}

func fsListExt(_ context.Context, c *call) (any, error) {
	type file struct {
		Name string `json:"name"`
		Size int    `json:"size"`
	}
	out := []file{}
	files := c.b.firmware().files
	for _, name := range slices.Sorted(maps.Keys(files)) {
		out = append(out, file{name, len(files[name])})
	}
	return out, nil
}

func fsGet(_ context.Context, c *call) (any, error) {
	p := struct {
		Filename    string
		Offset, Len int
	}{Len: -1}
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	switch {
	case p.Filename == "":
		return nil, fail(400, "filename is required")
	case p.Offset < 0:
		return nil, fail(400, "illegal offset")
	}
	data, ok := c.b.firmware().files[fileName(p.Filename)]
	if !ok {
		return nil, fail(400, "failed to open file \"%s\"", p.Filename)
	}
	data = data[min(p.Offset, len(data)):]
	n := len(data)
	if p.Len >= 0 {
		n = min(n, p.Len)
	}
	return map[string]any{"data": base64.StdEncoding.EncodeToString(data[:n]), "left": len(data) - n}, nil
}

// fsPut opens the file as the firmware does: a negative offset leaves the choice to append, 0
// truncates, and any other needs an existing file.
func fsPut(_ context.Context, c *call) (any, error) {
	p := struct {
		Filename string
		Data     string
		Offset   int
		Append   bool
	}{Offset: -1}
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	if p.Filename == "" {
		return nil, fail(400, "filename is required")
	}
	data, err := base64.StdEncoding.DecodeString(p.Data)
	if err != nil {
		return nil, fail(400, "data is required")
	}
	name := fileName(p.Filename)
	old, exists := c.b.firmware().files[name]
	switch {
	case p.Offset < 0 && p.Append:
		data = slices.Concat(old, data)
	case p.Offset > 0:
		if !exists {
			return nil, fail(400, "failed to open file \"%s\"", p.Filename)
		}
		if p.Offset > fsBytes {
			return nil, fail(500, "seek failed")
		}
		grown := make([]byte, max(len(old), p.Offset+len(data)))
		copy(grown, old)
		copy(grown[p.Offset:], data)
		data = grown
	}
	return nil, c.b.writeFile(name, data)
}

func fsRemove(_ context.Context, c *call) (any, error) {
	var p struct{ Filename string }
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	if p.Filename == "" {
		return nil, fail(400, "filename is required")
	}
	files := c.b.firmware().files
	if _, ok := files[fileName(p.Filename)]; !ok {
		return nil, fail(500, "remove failed")
	}
	delete(files, fileName(p.Filename))
	return nil, nil
}

func fsRename(_ context.Context, c *call) (any, error) {
	var p struct{ Src, Dst string }
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	if p.Src == "" || p.Dst == "" {
		return nil, fail(400, "src and dst are required")
	}
	files := c.b.firmware().files
	data, ok := files[fileName(p.Src)]
	if !ok {
		return nil, fail(500, "rename failed")
	}
	delete(files, fileName(p.Src))
	files[fileName(p.Dst)] = data
	return nil, nil
}
