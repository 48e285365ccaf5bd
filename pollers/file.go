package pollers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/looprock/megaphone/events"
)

// fileSeen is the document of a file.
type fileSeen struct {
	Path     string    `json:"path"`
	Size     int64     `json:"size_bytes"`
	Modified time.Time `json:"modified"`
}

// checkFile checks that a file is there, how old and how large it is, and with
// the dialect status what it says.
func checkFile(_ context.Context, t events.Target, o events.Options) Finding {
	path := events.LocalPath(t.Addr)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return found(t, events.Critical, path+" does not exist", fileSeen{Path: path})
	case err != nil:
		return failed(t, fmt.Errorf("look at %s: %w", path, cause(err)))
	}
	var v verdict
	age, size := time.Since(info.ModTime()), info.Size()
	changed := info.ModTime().UTC().Format(time.RFC3339)
	switch {
	case o.AgeCritical > 0 && age > o.AgeCritical.D():
		v.say(events.Critical, "%s was not changed for more than %s: since %s", path, o.AgeCritical, changed)
	case o.AgeWarning > 0 && age > o.AgeWarning.D():
		v.say(events.Warning, "%s was not changed for more than %s: since %s", path, o.AgeWarning, changed)
	}
	switch {
	case size < o.MinSizeBytes:
		v.say(events.Critical, "%s has %d bytes, at least %d are expected", path, size, o.MinSizeBytes)
	case o.SizeCriticalBytes > 0 && size > o.SizeCriticalBytes:
		v.say(events.Critical, "%s has %d bytes, more than %d", path, size, o.SizeCriticalBytes)
	case o.SizeWarningBytes > 0 && size > o.SizeWarningBytes:
		v.say(events.Warning, "%s has %d bytes, more than %d", path, size, o.SizeWarningBytes)
	}
	if o.Dialect != "" && o.Dialect != events.DialectStatus {
		return failed(t, fmt.Errorf("a file has no dialect %q", o.Dialect))
	}
	if o.Dialect == "" {
		return found(t, v.status(), v.message(fmt.Sprintf("%s has %d bytes, changed %s", path, size, changed)), fileSeen{path, size, info.ModTime().UTC()})
	}
	return statusFile(t, path, v)
}

// statusFile reads what a service leaves in a file instead of serving it.
func statusFile(t events.Target, path string, v verdict) Finding {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its writer
	if err != nil {
		return failed(t, fmt.Errorf("read %s: %w", path, cause(err)))
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return failed(t, fmt.Errorf("%s is not a regular file", path))
	}
	body, err := io.ReadAll(io.LimitReader(f, events.MaxDocument+1))
	if err != nil {
		return failed(t, fmt.Errorf("read %s: %w", path, cause(err)))
	}
	r, ok := readStatusLine(body)
	if !ok {
		if r = Read(t, body); r.Document == nil && r.Message == Missing(t).Message {
			r = critical(path + " holds neither a status document nor a line that begins with a status")
		}
	}
	if len(v.texts) > 0 { // too old to be believed, or the like
		r.Status, r.Message = events.Worse(r.Status, v.status()), v.message("")+"; it says: "+r.Message
	}
	return Finding{Reading: finish(t, r)}
}

// readStatusLine reads "Warning: queue is long", or a Nagios code instead of the
// word.
func readStatusLine(body []byte) (r Reading, ok bool) {
	line, _, _ := strings.Cut(strings.TrimSpace(strings.ToValidUTF8(string(body), "\uFFFD")), "\n")
	line = strings.TrimSpace(line) // it may end in \r\n
	end := strings.IndexAny(line+" ", " :-\t")
	word, text := line[:end], strings.TrimLeft(line[end:], " :-\t")
	s, err := events.ParseStatus(word)
	if code, bad := strconv.Atoi(word); bad == nil && code >= 0 && code <= 3 {
		s, err = Plugin{ExitCode: code}.Status(), nil
	}
	for _, known := range events.Statuses() {
		if strings.EqualFold(word, known.String()) {
			s, err = known, nil
		}
	}
	if err != nil {
		return r, false
	}
	if text = strings.TrimSpace(text); text == "" {
		text = events.NoMessage(s)
	}
	return Reading{Status: s, Message: text}, true
}
