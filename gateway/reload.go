package gateway

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// reloaded is what a file says. The file is read again when it changes; while it
// cannot be read, what it said last holds. It is safe for concurrent use.
type reloaded[T any] struct {
	path  string // empty: there is no file, and the content is the zero T
	what  string // the file, for people
	parse func(text string) (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	looked  time.Time
	stamp   fileStamp
	content T
	fault   string // told last
}

type fileStamp struct {
	changed time.Time
	size    int64
}

// maxTokenFile is the size of such a file in bytes.
const maxTokenFile = 2 << 20

// lookPause is how long a file is not looked at again.
const lookPause = 250 * time.Millisecond

// get returns what the file says.
func (f *reloaded[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path != "" && time.Since(f.looked) >= lookPause {
		f.looked = time.Now()
		if err := f.load(); err != nil && err.Error() != f.fault {
			f.fault = err.Error()
			f.log.Error(f.what, "error", err)
		}
	}
	return f.content
}

// check reads the file for the first time.
func (f *reloaded[T]) check() error {
	if f.path == "" {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.load()
}

func (f *reloaded[T]) load() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return fmt.Errorf("read the %s: %w", f.what, err)
	}
	stamp := fileStamp{info.ModTime(), info.Size()}
	if stamp == f.stamp {
		return nil
	}
	if info.Size() > maxTokenFile {
		return fmt.Errorf("read the %s: %s has %d bytes, %d are allowed", f.what, f.path, info.Size(), maxTokenFile)
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("read the %s: %w", f.what, err)
	}
	content, err := f.parse(string(b))
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.stamp, f.content, f.fault = stamp, content, ""
	return nil
}
