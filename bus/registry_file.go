package bus

import (
	"bufio"
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// journalVersion is the version of the format of registrations.jsonl.
const journalVersion = 1

// journalHead is the first line of registrations.jsonl: which stream it is a
// copy of, and up to which position at least. Lines may go further.
type journalHead struct {
	V        int       `json:"v"`
	Stream   string    `json:"stream"`
	Created  time.Time `json:"created"` // of the stream
	Position uint64    `json:"position"`
}

// journalLine is every other line: a message of the stream. A later line
// replaces an earlier one with the same subject. Ends are kept too: the lines
// say what is no longer registered.
type journalLine struct {
	Position uint64          `json:"position"`
	Subject  string          `json:"subject"`
	Stored   time.Time       `json:"stored"`
	Event    json.RawMessage `json:"event"`
}

// journal is the file registrations.jsonl. Lines are appended and synced; a
// whole file is written beside, synced and renamed: at the start from the
// stream, and when the lines that were replaced outweigh the others. So the cost
// of a write does not depend on how much is registered.
//
// After a failed write the journal is broken until it is written whole again.
type journal struct {
	path    string // empty: there is no file, and nothing is waited for
	log     *slog.Logger
	syncer  *batcher
	current func(subject string) uint64 // position of what is kept for a subject
	onBreak func()                      // the file has to be written whole again

	mu   sync.Mutex // of what follows; never held while the disk works
	buf  []byte     // lines not yet written
	last uint64     // position up to which buf goes
	err  error      // why the journal is broken

	disk    sync.Mutex // of what follows; held while the disk works
	f       *os.File
	size    int64
	whole   int64 // size of the file when it was last written whole
	created time.Time

	done struct {
		sync.Mutex
		position uint64 // up to which everything is synced
	}
}

const (
	journalEvery = 100 * time.Millisecond // least pause between syncs that nobody waits for
	journalSlack = 1 << 20                // bytes of replaced lines that are never worth a compaction
)

var errJournalStart = errors.New("it is not yet written")

func newJournal(path string, log *slog.Logger, current func(string) uint64, onBreak func()) *journal {
	j := &journal{path: path, log: log, current: current, onBreak: onBreak, err: errJournalStart}
	j.syncer = newBatcher(journalEvery, j.sync)
	return j
}

func (j *journal) off() bool { return j.path == "" }

// broken returns why nothing can be synced; nil if all is well.
func (j *journal) broken() error {
	if j.off() {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// add takes a line; it does not wait for the disk.
func (j *journal) add(l journalLine) error {
	if j.off() {
		return nil
	}
	b, err := appendLine(nil, l)
	if err != nil {
		return err
	}
	j.mu.Lock()
	j.buf, j.last = append(j.buf, b...), l.Position
	if j.err != nil {
		j.buf = nil // it is in the stream, from which the file will be written
	}
	j.mu.Unlock()
	j.syncer.Kick()
	return nil
}

// appendLine adds a line to b; it ends in a newline, and has none before. Nearly all
// events are one line already, and were read as JSON: they are not looked at again,
// which would take a quarter of the time of a start.
func appendLine(b []byte, l journalLine) ([]byte, error) {
	if len(l.Event) == 0 || bytes.IndexByte(l.Event, '\n') >= 0 || strings.ContainsFunc(l.Subject, quoted) {
		return appendAnyLine(b, l)
	}
	b = slices.Grow(b, len(l.Event)+len(l.Subject)+96)
	b = strconv.AppendUint(append(b, `{"position":`...), l.Position, 10)
	b = append(append(append(b, `,"subject":"`...), l.Subject...), `","stored":"`...)
	b = append(l.Stored.AppendFormat(b, time.RFC3339Nano), `","event":`...)
	return append(append(b, l.Event...), "}\n"...), nil
}

// quoted reports whether a character does not stand for itself in JSON.
func quoted(c rune) bool { return c < ' ' || c == '"' || c == '\\' || c > '~' }

func appendAnyLine(b []byte, l journalLine) ([]byte, error) {
	to := bytes.NewBuffer(b)
	enc := json.NewEncoder(to)
	enc.SetEscapeHTML(false)              // urls stay as they were posted
	if err := enc.Encode(l); err != nil { // it compacts the event
		return nil, fmt.Errorf("encode a line of the registrations file: %w", err)
	}
	return to.Bytes(), nil
}

// decodeLine reads a line. One in the form that [appendLine] writes is looked at
// once, not three times: a restart reads as many as there are registrations.
func decodeLine(b []byte) (l journalLine, err error) {
	if l, ok := decodePlainLine(b); ok {
		return l, nil
	}
	err = json.Unmarshal(b, &l)
	return l, err
}

// decodePlainLine is false for a line in another form, be it readable or not.
func decodePlainLine(b []byte) (l journalLine, ok bool) {
	b, begins := bytes.CutPrefix(b, []byte(`{"position":`))
	// Where a separator is missing nothing is left, which has no end.
	position, b, _ := bytes.Cut(b, []byte(`,"subject":"`))
	subject, b, _ := bytes.Cut(b, []byte(`","stored":"`))
	stored, b, _ := bytes.Cut(b, []byte(`","event":`))
	event, ends := bytes.CutSuffix(b, []byte("}\n"))
	if !begins || !ends || bytes.HasPrefix(position, []byte("0")) || bytes.ContainsFunc(subject, quoted) || !json.Valid(event) {
		return l, false
	}
	at, err := strconv.ParseUint(string(position), 10, 64)
	l = journalLine{Position: at, Subject: string(subject), Event: bytes.TrimSpace(event)}
	return l, err == nil && l.Stored.UnmarshalText(stored) == nil
}

// wait returns once everything up to position is on the disk.
func (j *journal) wait(ctx context.Context, position uint64) error {
	if j.off() || j.covered() >= position {
		return nil
	}
	if err := j.syncer.Do(ctx); err != nil {
		return fmt.Errorf("sync the registrations file: %w", err)
	}
	return nil
}

func (j *journal) covered() uint64 {
	j.done.Lock()
	defer j.done.Unlock()
	return j.done.position
}

func (j *journal) cover(position uint64) {
	j.done.Lock()
	defer j.done.Unlock()
	j.done.position = position
}

// sync writes what was added.
func (j *journal) sync() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	j.mu.Lock()
	buf, last, err := j.buf, j.last, j.err
	j.buf = nil
	j.mu.Unlock()
	if err != nil || len(buf) == 0 {
		return err
	}
	n, err := j.f.Write(buf)
	j.size += int64(n)
	if err == nil {
		err = j.f.Sync()
	}
	if err == nil && j.size > 2*j.whole+journalSlack {
		err = j.compact()
	}
	if err != nil {
		j.breakUp(err)
		return err
	}
	j.cover(last)
	return nil
}

func (j *journal) breakUp(err error) {
	j.mu.Lock()
	was := j.err
	j.err, j.buf = err, nil
	j.mu.Unlock()
	if was == nil || errors.Is(was, errJournalStart) { // once, not at each attempt to mend it
		j.log.Error("registrations file cannot be written: nothing can be registered until it can", "file", j.path, "error", err)
	}
	j.onBreak()
}

// compact rewrites the file without the lines that were replaced.
func (j *journal) compact() error {
	w, err := createJournal(j.path, ".compact", journalHead{Created: j.created, Position: j.covered()})
	if err != nil {
		return err
	}
	_, err = readJournal(j.path, j.log, func(l journalLine) error {
		if j.current(l.Subject) > l.Position {
			return nil
		}
		return w.add(l)
	})
	if err != nil {
		w.abandon()
		return err
	}
	return j.replace(w)
}

// replace makes w the file. The caller holds disk.
func (j *journal) replace(w *journalWriter) error {
	f, err := w.commit()
	if err != nil {
		return err
	}
	if j.f != nil {
		j.f.Close() // synced before: nothing is lost
	}
	j.f, j.size, j.whole, j.created = f, w.size, w.size, w.head.Created
	return nil
}

// restart makes w, which holds everything up to position, the file. It mends a
// broken journal.
func (j *journal) restart(w *journalWriter, position uint64) error {
	j.disk.Lock()
	defer j.disk.Unlock()
	if err := j.replace(w); err != nil {
		return err
	}
	j.mu.Lock()
	was := j.err
	j.err, j.buf, j.last = nil, nil, position
	j.mu.Unlock()
	if was != nil && !errors.Is(was, errJournalStart) {
		j.log.Info("registrations file is written again", "file", j.path)
	}
	j.cover(position)
	return nil
}

func (j *journal) close() {
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.f != nil {
		j.f.Close() // synced before
		j.f = nil
	}
}

// journalWriter writes a whole file beside the one that is there.
type journalWriter struct {
	path string
	tmp  string
	head journalHead
	f    *os.File
	b    *bufio.Writer
	size int64
	err  error // the first fault; nothing is written after it
}

// createJournal begins to write; suffix tells writers at the same time apart.
func createJournal(path, suffix string, head journalHead) (*journalWriter, error) {
	head.V, head.Stream = journalVersion, StreamRegistrations
	tmp := path + suffix
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	w := &journalWriter{path: path, tmp: tmp, head: head, f: f, b: bufio.NewWriterSize(f, 64<<10)}
	b, err := json.Marshal(head)
	if err == nil {
		err = w.write(append(b, '\n'))
	}
	if err != nil {
		w.abandon()
		return nil, err
	}
	return w, nil
}

func (w *journalWriter) add(l journalLine) error {
	b, err := appendLine(w.b.AvailableBuffer(), l)
	if err != nil {
		return err
	}
	return w.write(b)
}

func (w *journalWriter) write(b []byte) error {
	if w.err == nil {
		var n int
		n, w.err = w.b.Write(b)
		w.size += int64(n)
	}
	return w.err
}

// commit syncs the file, puts it in place of the old one and returns it open for
// appending.
func (w *journalWriter) commit() (*os.File, error) {
	err := w.err
	if err == nil {
		err = w.b.Flush()
	}
	if err == nil {
		err = w.f.Sync()
	}
	if err == nil {
		err = os.Rename(w.tmp, w.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(w.path))
	}
	if err != nil {
		w.abandon()
		return nil, err
	}
	return w.f, nil
}

func (w *journalWriter) abandon() {
	w.f.Close()
	os.Remove(w.tmp) // what stays is overwritten by the next
}

// syncDir makes a rename within dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// journalInfo is what a whole registrations file says.
type journalInfo struct {
	head  journalHead
	last  Place // up to where it goes
	lines int
}

// readJournal reads the file at path and calls each with its lines, in order. A
// last line without an end is one whose write was cut short: it was never
// acknowledged. Unreadable lines are logged and left out; without a readable
// first line the zero head is returned, and the rest all the same. A file that
// does not exist is empty.
func readJournal(path string, log *slog.Logger, each func(journalLine) error) (journalInfo, error) {
	var info journalInfo
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return info, nil
	}
	if err != nil {
		return info, fmt.Errorf("read the registrations file: %w", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	for n := 1; ; n++ {
		b, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if info.head.Position > info.last.Position {
				info.last = Place{Position: info.head.Position}
			}
			return info, nil
		}
		if err != nil {
			return info, fmt.Errorf("read the registrations file: %w", err)
		}
		var head journalHead // whole, or not at all
		if n == 1 && json.Unmarshal(b, &head) == nil && head.V != 0 {
			if info.head = head; head.V > journalVersion {
				return info, fmt.Errorf("read the registrations file: %s has version %d, this program reads up to %d", path, head.V, journalVersion)
			}
			continue
		}
		l, err := decodeLine(b)
		if err != nil || l.Subject == "" {
			log.Warn("a line of the registrations file is unreadable", "file", path, "line", n, "error", err)
			continue
		}
		info.lines++
		if l.Position > info.last.Position {
			info.last = Place{l.Position, l.Stored}
		}
		if err := each(l); err != nil {
			return info, err
		}
	}
}

// renameAside moves a file away to where a human may look at it.
func renameAside(path string) error {
	if err := os.Rename(path, path+".corrupt"); err != nil {
		return fmt.Errorf("set a file aside: %w", err)
	}
	return nil
}
