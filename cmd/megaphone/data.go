package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/nats-io/nuid"

	"github.com/looprock/megaphone/events"
)

// dataDir is a data directory that this process alone uses.
type dataDir struct {
	path string
	id   string // of the holder of leases; kept across restarts
	lock *os.File
}

// dataDefault is where data is kept unless --data says otherwise.
func dataDefault(env func(string) string, euid int) string {
	switch {
	case env("STATE_DIRECTORY") != "":
		first, _, _ := strings.Cut(env("STATE_DIRECTORY"), ":") // systemd may give several
		return first
	case euid == 0:
		return "/var/lib/megaphone"
	case env("XDG_STATE_HOME") != "":
		return filepath.Join(env("XDG_STATE_HOME"), "megaphone")
	}
	return filepath.Join(env("HOME"), ".local", "state", "megaphone")
}

// openData makes and locks a data directory. Close it. Errors are one line
// that names the flag.
func openData(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, unwritable(path, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unwritable(path, err)
	}
	d := &dataDir{path: path, lock: lock}
	if err := d.take(); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

func unwritable(path string, err error) error {
	return fmt.Errorf("data directory %s cannot be written: %w; choose another with --data", path, cause(err))
}

// take locks the directory for the life of this process (the kernel ends the
// lock with it, however it dies) and reads or makes the holder's id.
func (d *dataDir) take() error {
	if err := syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock the data directory %s: %w; choose another with --data", d.path, err)
		}
		pid, _ := io.ReadAll(io.LimitReader(d.lock, 32)) // for the message alone
		return fmt.Errorf("data directory %s is used by process %s; stop it or give another --data", d.path, strings.TrimSpace(string(pid)))
	}
	err := d.lock.Truncate(0)
	if err == nil {
		_, err = d.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return unwritable(d.path, err)
	}
	d.id, err = d.once("id", nuid.Next())
	return err
}

// once returns what the file name holds, and makes it hold value where it does
// not exist yet.
func (d *dataDir) once(name, value string) (string, error) {
	path := filepath.Join(d.path, name)
	b, err := os.ReadFile(path)
	kept := strings.TrimSpace(string(b))
	switch {
	case err == nil && kept != "":
		return kept, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("read %s: %w", path, cause(err))
	}
	if err := writeFile(path, []byte(value+"\n"), 0o600); err != nil {
		return "", unwritable(d.path, err)
	}
	return value, nil
}

// hostName settles the name of this host: the one that was set; else the one
// stored at the first start; else the machine's. The first is stored, so that a
// machine that is renamed keeps its checks.
func (d *dataDir) hostName(c *Config, machine func() (string, error), log *slog.Logger) (string, error) {
	if c.HostGiven && c.Host == "" {
		return "", nil // a gateway without a host of its own
	}
	name := c.Host
	if name == "" {
		var err error
		if name, err = machineHost(machine); err != nil {
			return "", err
		}
	}
	stored, err := d.once("host", name)
	if err != nil || stored == name {
		return name, err
	}
	if c.HostGiven {
		log.Warn("this host had another name before: its checks stay under that name", "host", name, "before", stored)
		return name, nil
	}
	if _, err := events.ParseHost(stored); err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Join(d.path, "host"), err)
	}
	log.Warn("the machine was renamed: the name of the first start is kept; change it with --host", "host", stored, "machine", name)
	return stored, nil
}

func machineHost(machine func() (string, error)) (string, error) {
	name, err := machine()
	if err == nil {
		name, err = events.ParseHost(strings.TrimSuffix(name, "."))
	}
	if err != nil {
		return "", fmt.Errorf("the machine's name cannot be used: %w; give one with --host", err)
	}
	return name, nil
}

// file returns the path of a file in the directory.
func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// Close unlocks the directory.
func (d *dataDir) Close() error { return d.lock.Close() }

// writeFile replaces a file as a whole: written beside, synced and renamed, so
// that a reader or a crash sees the old one or the new one.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
