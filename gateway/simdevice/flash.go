package simdevice

import (
	"bytes"
	"time"
)

// flash is what survives a reset: two firmware slots with their file systems, and the state of
// the boot loader.
type flash struct {
	slots         [2]slot
	active        int // the slot that boots next
	revert        int // the slot to go back to
	committed     bool
	fresh         bool // the active slot has not booted yet
	commitTimeout time.Duration
}

// slot is one firmware with its file system.
type slot struct {
	used                  bool
	app, version, buildID string
	files                 map[string][]byte
}

// fsBytes is the size of the file system, a stock ESP32's.
const fsBytes = 233681

func (s *slot) usedBytes() int {
	n := 0
	for name, data := range s.files {
		n += len(name) + len(data)
	}
	return n
}

// install puts s into the slot that is not in use and makes it boot next.
func (f *flash) install(s slot, commitTimeout time.Duration) {
	next := 1 - f.active
	f.slots[next] = s
	f.active, f.revert = next, 1-next
	f.committed, f.fresh, f.commitTimeout = false, true, commitTimeout
}

// load is the boot loader: it chooses the slot and says whether the firmware in it comes up.
// Firmware that was not committed before the next reset had its chance.
func (f *flash) load(crashes bool) (ok bool) {
	if !f.committed && !f.fresh {
		f.goBack()
	}
	if !f.fresh {
		return true
	}
	f.fresh = false
	if crashes {
		f.goBack()
		return false
	}
	now, old := &f.slots[f.active], f.slots[f.revert]
	for name, data := range old.files {
		if _, ok := now.files[name]; !ok { // files of the bundle win
			now.files[name] = bytes.Clone(data)
		}
	}
	if f.commitTimeout == 0 {
		f.committed = true
	}
	return true
}

func (f *flash) goBack() {
	f.active, f.revert = f.revert, f.active
	f.committed, f.fresh, f.commitTimeout = true, false, 0
}
