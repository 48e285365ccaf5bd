package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
)

// cacheFile is the original's cache: one JSON object from id to url, the entry
// --global included, with what that format can say of the local host. It is
// written before a change is acknowledged, so that going back to the original
// works; the file before the last change is kept as .backup.
type cacheFile struct {
	path   string // empty: there is none
	log    *slog.Logger
	writer *batcher
	local  func() map[string]json.RawMessage // what is registered now

	mu     sync.Mutex
	staged map[string]*stagedURL // changes that are not yet stored on the bus
	err    error                 // why it could not be written the last time

	disk []byte // what the file holds; nil for nothing; used by the writer alone
}

type stagedURL struct{ url json.RawMessage } // nil: the id goes

const (
	cacheEvery = 100 * time.Millisecond // least pause between writes that nobody waits for
	cacheRetry = 5 * time.Second        // after a write that failed
)

func newCacheFile(path string, log *slog.Logger, local func() map[string]json.RawMessage) *cacheFile {
	c := &cacheFile{path: path, log: log, local: local, staged: map[string]*stagedURL{}}
	c.writer = newBatcher(cacheEvery, c.write)
	return c
}

// Run writes what is asked for until ctx ends, and tries again what failed.
func (c *cacheFile) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.writer.Run(ctx)
	}()
	defer func() { <-done }()
	t := time.NewTicker(cacheRetry)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if c.failure() != nil {
				c.writer.Kick()
			}
		}
	}
}

func (c *cacheFile) off() bool { return c.path == "" }

// failure is why the last write failed; nil if it did not.
func (c *cacheFile) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// stage writes the file with a change that is about to be stored on the bus; a
// nil url takes the id out. undo forgets the change: call it when what is
// registered has it, or will never have it. The error wraps [ErrCache].
func (c *cacheFile) stage(ctx context.Context, id string, url json.RawMessage) (undo func(), err error) {
	if c.off() {
		return func() {}, nil
	}
	s := &stagedURL{url}
	c.mu.Lock()
	c.staged[id] = s
	c.mu.Unlock()
	undo = func() {
		c.mu.Lock()
		if c.staged[id] == s {
			delete(c.staged, id)
		}
		c.mu.Unlock()
		c.writer.Kick()
	}
	if err := c.writer.Do(ctx); err != nil {
		undo()
		return nil, fmt.Errorf("%w: %w", ErrCache, err)
	}
	return undo, nil
}

// changed says that what is registered of the local host may have changed.
func (c *cacheFile) changed() {
	if !c.off() {
		c.writer.Kick()
	}
}

func (c *cacheFile) write() error {
	content, err := c.content()
	if err == nil {
		err = c.put(content)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.err == nil {
		c.log.Error("cache file cannot be written: checks of this host cannot be registered until it can", "file", c.path, "error", err)
	}
	if err == nil && c.err != nil {
		c.log.Info("cache file is written again", "file", c.path)
	}
	c.err = err
	return err
}

// content is the file as it should be: ids in order, urls byte for byte.
func (c *cacheFile) content() ([]byte, error) {
	c.mu.Lock()
	staged := maps.Clone(c.staged) // first: what is registered meanwhile is in both, not in neither
	c.mu.Unlock()
	urls := c.local()
	for id, s := range staged {
		if s.url == nil {
			delete(urls, id)
		} else {
			urls[id] = s.url
		}
	}
	b := []byte{'{'}
	for i, id := range slices.Sorted(maps.Keys(urls)) {
		if i > 0 {
			b = append(b, ", "...)
		}
		key, err := json.Marshal(id)
		if err != nil {
			return nil, fmt.Errorf("encode the id %q: %w", id, err)
		}
		b = append(append(append(b, key...), ": "...), urls[id]...)
	}
	return append(b, '}'), nil
}

// put writes beside, syncs and renames. A file that is right already is left
// alone, but if the last write failed its folder is tried.
func (c *cacheFile) put(content []byte) error {
	same := sameJSON(content, c.disk)
	if same && c.failure() == nil {
		return nil
	}
	tmp := c.path + ".new"
	if err := writeSynced(tmp, content); err != nil {
		return err
	}
	if same {
		return os.Remove(tmp)
	}
	if err := keepBackup(c.path); err != nil {
		return err
	}
	if err := os.Rename(tmp, c.path); err != nil {
		return err
	}
	c.disk = content
	return syncDir(filepath.Dir(c.path))
}

// sameJSON reports whether a and b say the same. The form of a url changes on
// its way over the bus; a file that is written again for that would push the
// file before the last change out of .backup.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	va, errA := decodeExactly(a)
	vb, errB := decodeExactly(b)
	return errA == nil && errB == nil && reflect.DeepEqual(va, vb)
}

// decodeExactly keeps numbers as they are written.
func decodeExactly(text []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	err = dec.Decode(&v)
	return v, err
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// keepBackup makes the file at path also the one at path.backup, without a
// moment in which either is missing.
func keepBackup(path string) error {
	tmp := path + ".backup.new"
	os.Remove(tmp) // a left-over; where it cannot go, linking fails
	err := os.Link(path, tmp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there is nothing to keep
	}
	if err != nil { // not every file system has links
		var content []byte
		if content, err = os.ReadFile(path); err == nil {
			err = writeSynced(tmp, content)
		}
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, path+".backup")
}

// read returns what the file holds at the start. A damaged one is set aside as
// .corrupt and the backup is read. What cannot be read at all is logged, and
// taken as empty.
func (c *cacheFile) read() map[string]json.RawMessage {
	if c.off() {
		return nil
	}
	content, urls, err := readCache(c.path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		c.disk = content
		return urls
	}
	if !errors.Is(err, errDamaged) {
		c.log.Error("cache file cannot be read", "file", c.path, "error", err)
		return nil
	}
	aside, backup := c.path+".corrupt", c.path+".backup"
	if renameErr := os.Rename(c.path, aside); renameErr != nil {
		c.log.Error("cache file is damaged and cannot be set aside", "file", c.path, "error", errors.Join(err, renameErr))
		return nil
	}
	_, urls, backupErr := readCache(backup)
	if backupErr != nil {
		c.log.Error("cache file is damaged, and there is no good backup", "set_aside", aside, "error", errors.Join(err, backupErr))
		return nil
	}
	c.log.Error("cache file is damaged: its backup is used", "set_aside", aside, "backup", backup, "error", err)
	return urls
}

var errDamaged = errors.New("not one JSON object from id to url")

// readCache tolerates a byte order mark; an empty file is damaged.
func readCache(path string) ([]byte, map[string]json.RawMessage, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(content, []byte("\ufeff"))))
	var urls map[string]json.RawMessage
	if err := dec.Decode(&urls); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if _, err := dec.Token(); urls == nil || !errors.Is(err, io.EOF) {
		return nil, nil, errDamaged
	}
	return content, urls, nil
}

// cached is what the original's cache says of one id, as a record to register.
func cached(local, id string, url json.RawMessage) (subject, kind string, data any, err error) {
	if id == events.GlobalID {
		return events.OverrideSubject(local, ""), events.TypeOverrideSet, globalOverride(local, url), nil
	}
	reg := events.Registration{Host: local, ID: id, URL: url, Origin: "cache"}
	return events.RegistrationSubject(local, id), events.TypeRegistered, reg, reg.Validate()
}

// globalOverride is the original's --global: whatever its url is, it is shown.
func globalOverride(host string, url json.RawMessage) events.Override {
	critical := events.Critical
	return events.Override{Host: host, Status: &critical, Forever: true, By: events.GlobalID, Global: url}
}
