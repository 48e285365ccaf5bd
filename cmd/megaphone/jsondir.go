package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	jsonDirSettle = 100 * time.Millisecond // after the last change: editors write, rename and change modes
	jsonDirMost   = 2 * time.Second        // after the first: some files change all the time
	jsonDirAgain  = 30 * time.Second       // for what was missed: network file systems, a bus that was away
	maxJSONFile   = 8 << 20                // bytes
)

// jsonDir is a directory of the configuration whose *.json files are followed as
// they change. One that does not exist is empty.
type jsonDir struct {
	path  string
	stays string // what happens to the content of a file that is not taken
	log   *slog.Logger
	told  map[string]string // by file: the last fault that was logged
}

func newJSONDir(path, name, stays string, log *slog.Logger) jsonDir {
	return jsonDir{path: path, stays: stays, log: log.With("component", name), told: map[string]string{}}
}

// follow calls sync after each change, and now and then, until ctx ends; then it
// returns nil. The caller has called sync once.
func (d *jsonDir) follow(ctx context.Context, sync func(context.Context)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", d.path, err)
	}
	defer w.Close()
	d.watch(w)
	timer := time.NewTimer(jsonDirAgain)
	defer timer.Stop()
	var first time.Time // change that was not read yet; zero for none
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if !interesting(e.Name) {
				continue
			}
			if first.IsZero() {
				first = time.Now()
			}
			timer.Reset(min(jsonDirSettle, time.Until(first.Add(jsonDirMost))))
		case err := <-w.Errors:
			d.log.Warn("watch the directory", "dir", d.path, "error", err)
			timer.Reset(jsonDirSettle)
		case <-timer.C:
			first = time.Time{}
			d.watch(w)
			sync(ctx)
			timer.Reset(jsonDirAgain)
		}
	}
}

// watch adds the directory, again if it was removed and made anew.
func (d *jsonDir) watch(w *fsnotify.Watcher) {
	if err := w.Add(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.fault(d.path, err)
	}
}

// interesting is false for what editors leave beside a file.
func interesting(path string) bool {
	name := filepath.Base(path)
	return filepath.Ext(name) == ".json" && !strings.HasPrefix(name, ".")
}

// fault logs what is wrong with a file, once until it changes; nil ends it.
func (d *jsonDir) fault(file string, err error) {
	if err == nil {
		delete(d.told, file)
		return
	}
	if text := err.Error(); d.told[file] != text {
		d.told[file] = text
		d.log.Error("a file is not taken; "+d.stays, "file", file, "error", err)
	}
}

// files lists the base names of the files, ordered.
func (d *jsonDir) files() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && interesting(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil // ReadDir orders them
}

// readList reads a file that holds one JSON object or a list of them. Members
// that do not exist are refused: they are slips of the pen.
func readList[T any](d *jsonDir, name, what string) ([]T, error) {
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its writer
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxJSONFile+1))
	switch {
	case err != nil:
		return nil, cause(err)
	case len(b) > maxJSONFile:
		return nil, fmt.Errorf("it has more than %d bytes", maxJSONFile)
	}
	list, err := decodeList[T](b)
	if err != nil {
		return nil, fmt.Errorf("not a %s or a list of them: %w", what, err)
	}
	return list, nil
}

func decodeList[T any](b []byte) ([]T, error) {
	b = bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\ufeff")))
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var list []T
	var err error
	if bytes.HasPrefix(b, []byte("[")) {
		err = dec.Decode(&list)
	} else {
		list = make([]T, 1)
		err = dec.Decode(&list[0])
	}
	if err != nil {
		return nil, err
	}
	if _, more := dec.Token(); !errors.Is(more, io.EOF) {
		return nil, errors.New("there is more after the first JSON value; write several as a list")
	}
	return list, nil
}
