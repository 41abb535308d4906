package pgtest

import (
	"os"
	"syscall"
)

const (
	memoryFolder = "/dev/shm"
	// What the tests of one package write stays far below this, and the packages that
	// are tested at the same time share the rest.
	memoryWanted = 4 << 30
	tmpfsMagic   = 0x01021994 // statfs(2)
)

// dataParent is where the data of the embedded server go: into memory where there
// is room, since all that is written there is thrown away and a disk costs the
// tests a fifth of their time; else, and where TMPDIR is set, into the folder for
// temporary files.
func dataParent() string {
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(memoryFolder, &fs) != nil {
		return os.TempDir()
	}
	//nolint:gosec,unconvert // of another type and sign on other processors
	if int64(fs.Type) != tmpfsMagic || int64(fs.Bavail)*int64(fs.Bsize) < memoryWanted {
		return os.TempDir()
	}
	return memoryFolder
}
