package appliance

import "syscall"

// scarce is how little room on the disk an operator is warned of.
const scarce = 64 << 20

// free returns how many bytes are left for this process on the file system of dir, -1 if that is
// not known.
func free(dir string) int64 {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return -1
	}
	return int64(fs.Bavail) * int64(fs.Bsize) // Bsize has 32 bits on some platforms
}
