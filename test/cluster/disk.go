//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// ErrNoDisk says that this user may not mount a file system.
var ErrNoDisk = errors.New("cluster: no permission to mount a small file system")

// Disk is a small file system in memory, which can be filled.
type Disk struct{ path string }

// newDisk mounts one over a folder that is there.
func newDisk(path string, bytes int) (*Disk, error) {
	err := syscall.Mount("stockroom-test", path, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%d,mode=0755", bytes))
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENODEV):
		return nil, ErrNoDisk
	case err != nil:
		return nil, fmt.Errorf("cluster: mount: %w", err)
	}
	return &Disk{path: path}, nil
}

func (d *Disk) ballast() string { return filepath.Join(d.path, "ballast") }

// Fill leaves no room on it.
func (d *Disk) Fill() error {
	file, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	_, err = io.Copy(file, zeros{})
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	return errors.Join(err, file.Close())
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Empty makes room again.
func (d *Disk) Empty() error {
	err := os.Remove(d.ballast())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// unmount takes it away, with all that is on it.
func (d *Disk) unmount() error { return syscall.Unmount(d.path, syscall.MNT_DETACH) }
