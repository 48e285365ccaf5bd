package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// disk is a file system in memory that holds the data of one process of the bus
// and can be made full: what is written there then fails as it does on a real
// one. Making it needs root.
type disk struct{ dir string }

// diskSize is far more than a run of ten minutes writes, in bytes.
const diskSize = 2 << 30

func newDisk(dir string) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &disk{dir}
	return d, d.mount(0, diskSize)
}

func (d *disk) mount(flags uintptr, size uint64) error {
	if err := syscall.Mount("torture", d.dir, "tmpfs", flags, fmt.Sprintf("size=%d,mode=700", size)); err != nil {
		return fmt.Errorf("mount a file system of %d bytes in memory at %s: %w", size, d.dir, err)
	}
	return nil
}

// fillTries is how often filling may find that more was written meanwhile.
const fillTries = 100

// Fill leaves no room beyond what is used.
func (d *disk) Fill() error {
	for try := 1; ; try++ {
		var s syscall.Statfs_t
		if err := syscall.Statfs(d.dir, &s); err != nil {
			return fmt.Errorf("ask for the room of %s: %w", d.dir, err)
		}
		err := d.mount(syscall.MS_REMOUNT, (s.Blocks-s.Bfree)*uint64(s.Bsize))
		if !errors.Is(err, syscall.EINVAL) || try == fillTries {
			return err
		}
	}
}

// Free gives the room back.
func (d *disk) Free() error { return d.mount(syscall.MS_REMOUNT, diskSize) }

// Close takes the file system away, with all that is on it. keep copies that into a
// directory beside it first.
func (d *disk) Close(keep bool) error {
	var failed error
	if keep {
		failed = os.CopyFS(d.dir+".kept", os.DirFS(d.dir))
	}
	if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
		failed = errors.Join(failed, fmt.Errorf("unmount %s: %w", d.dir, err))
	}
	return failed
}
