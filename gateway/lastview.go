package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// The last view, on the disk: a gateway that is restarted while the bus is away
// answers from it, as stale, until it has the bus again.

const (
	lastVersion  = 1
	lastEvery    = 10 * time.Second // between two writes of the file
	lastShare    = 50               // a write takes at most this part of the time: of a large view they are rarer
	maxLastBytes = 64 << 20         // of the file; hosts that have no room are left out, whole
)

// lastHead is the first value in the file, lastEnd the last; between them there
// is one for each host. A file without its end is not read.
type lastHead struct {
	V     int       `json:"v"`
	Heard time.Time `json:"heard"` // last sign of life of the bus
}

type lastEnd struct {
	End     bool `json:"end"`
	Hosts   int  `json:"hosts"`
	LeftOut int  `json:"left_out,omitempty"` // for want of room
}

// lastHost is a host as the view has it.
type lastHost struct {
	Host     string             `json:"host"`
	State    events.HostState   `json:"state"`
	Record   *events.HostRecord `json:"record,omitempty"`
	Override *bus.OverrideEntry `json:"override,omitempty"`
	Checks   []lastCheck        `json:"checks,omitempty"`

	lastEnd // of the value that ends the file
}

type lastCheck struct {
	Entry bus.Entry         `json:"entry"`
	State events.CheckState `json:"state"`
	Last  *events.Result    `json:"last,omitempty"`
}

// keepView writes the view down, again and again, until ctx ends, and then once
// more. It begins once the view is complete.
func (s *Server) keepView(ctx context.Context) {
	select {
	case <-s.follower.Ready():
	case <-ctx.Done():
		return // what the file says is newer than what is known here
	}
	var kept uint64
	var fault string
	for pause := time.Duration(0); ; {
		ended := ctx.Err() != nil // before the look at what changed: that is then written below
		if n := s.view.changes.Load(); n != kept {
			began := time.Now()
			err := saveView(s.cfg.ViewFile, s.view, s.follower.lastHeard())
			pause = max(lastEvery, lastShare*time.Since(began))
			switch {
			case err == nil:
				kept, fault = n, ""
			case err.Error() != fault: // told once
				fault = err.Error()
				s.log.Error("the last view is not kept on the disk", "error", err)
			}
		}
		if ended {
			return
		}
		select {
		case <-time.After(max(pause, lastEvery)):
		case <-ctx.Done():
		}
	}
}

// saveView replaces the file by what the view holds.
func saveView(path string, v *View, heard time.Time) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return fmt.Errorf("write the last view: %w", err)
	}
	defer os.Remove(f.Name()) // gone already when all went well
	w := bufio.NewWriterSize(f, 64<<10)
	err = writeView(w, v, heard, maxLastBytes)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the last view: %w", err)
	}
	return nil
}

// writeView writes at most so many bytes. Where these are scarce, documents are
// left out first, then hosts: half a host could look better than it is.
func writeView(w io.Writer, v *View, heard time.Time, most int) error {
	left := most - 1024 // for the end
	write := func(b []byte, err error) error {
		if err == nil {
			left -= len(b)
			_, err = w.Write(b)
		}
		return err
	}
	if err := write(encodeLine(lastHead{lastVersion, heard})); err != nil {
		return err
	}
	end := lastEnd{End: true}
	for _, name := range v.allNames() {
		h, ok := v.lastHost(name, left > most/2)
		if !ok {
			continue
		}
		line, err := encodeLine(h)
		if err == nil && len(line) > left {
			end.LeftOut++
			continue
		}
		if err := write(line, err); err != nil {
			return err
		}
		end.Hosts++
	}
	return write(encodeLine(end))
}

func encodeLine(v any) ([]byte, error) {
	var b jsonBuffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // documents and urls stay as they are
	err := enc.Encode(v)
	return b, err
}

// jsonBuffer is as much of a buffer as an encoder needs.
type jsonBuffer []byte

// Write appends.
func (b *jsonBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

func (v *View) allNames() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string(nil), v.sortedNames()...)
}

// lastHost copies a host; false where nothing is registered of it any more.
func (v *View) lastHost(name string, documents bool) (lastHost, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[name]
	if h == nil || !h.registered() {
		return lastHost{}, false
	}
	out := lastHost{Host: name, State: h.state, Record: h.record, Override: h.override, Checks: make([]lastCheck, len(h.order))}
	for i, c := range h.order {
		k := lastCheck{Entry: *c.entry, State: c.state}
		if c.lastAt > 0 {
			last := c.last
			if !documents {
				last.Document = nil
			}
			k.Last = &last
		}
		out.Checks[i] = k
	}
	return out, true
}

// errLast says that a file holds no whole view that this program reads.
var errLast = errors.New("it holds no view")

// loadView reads the last view, and when it last heard of the bus. Everything
// that was live is stale in it. nil: there is no file.
func loadView(path string, interval time.Duration) (*View, time.Time, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the last view: %w", err)
	}
	defer f.Close()
	v, heard, err := readView(io.LimitReader(f, maxLastBytes), interval)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the last view %s: %w", path, err)
	}
	return v, heard, nil
}

func readView(r io.Reader, interval time.Duration) (*View, time.Time, error) {
	dec := json.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	var head lastHead
	switch err := dec.Decode(&head); {
	case err != nil:
		return nil, time.Time{}, fmt.Errorf("%w: %w", errLast, err)
	case head.V != lastVersion:
		return nil, time.Time{}, fmt.Errorf("%w: version %d, this program reads %d", errLast, head.V, lastVersion)
	}
	v := NewView(nil, interval)
	for n := 0; ; n++ {
		var h lastHost
		if err := dec.Decode(&h); err != nil {
			return nil, time.Time{}, fmt.Errorf("%w: %w", errLast, err)
		}
		if h.End {
			if n != h.Hosts {
				return nil, time.Time{}, fmt.Errorf("%w: %d hosts of %d", errLast, n, h.Hosts)
			}
			return v, head.Heard, nil
		}
		if err := v.restore(h); err != nil {
			return nil, time.Time{}, fmt.Errorf("%w: %w", errLast, err)
		}
	}
}

// restore puts a host into a view that nobody reads yet.
func (v *View) restore(saved lastHost) error {
	name, err := events.ParseHost(saved.Host)
	if err != nil {
		return err
	}
	h := v.host(name)
	h.state, h.record, h.override = saved.State, saved.Record, saved.Override
	for _, k := range saved.Checks {
		if k.Entry.Registration.ID == "" {
			return errors.New("a check without an id")
		}
		c := h.check(k.Entry.Registration.ID)
		h.set(c, &k.Entry)
		c.state, c.pendings.Number = k.State, k.State.Number
		c.state.Host, c.state.Check = name, c.id
		if c.state.Phase == events.Live {
			c.state.Phase = events.Stale
		}
		h.tally.recount(c)
		if k.Last != nil {
			c.last, c.lastAt = *k.Last, max(k.State.Applied, 1)
		}
	}
	return nil
}

// restoreView reads the last view, where there is one, before anything else is known.
func (s *Server) restoreView() {
	if s.cfg.ViewFile == "" {
		return
	}
	v, heard, err := loadView(s.cfg.ViewFile, s.cfg.Interval)
	if err != nil {
		s.log.Error("there is no last view to answer from until the bus is there", "error", err)
		return
	}
	if v != nil {
		s.follower.heard.Store(heard.UnixNano())
		s.last.Store(v)
	}
}

// forgetLast ends the time of the last view: the present one is complete. Who
// waits for a change is answered.
func (s *Server) forgetLast() {
	if last := s.last.Swap(nil); last != nil {
		last.end()
	}
}

// end wakes all who wait for a change, for good.
func (v *View) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	for _, h := range v.hosts {
		wake(&h.watch)
		for _, c := range h.checks {
			wake(&c.watch)
		}
	}
}

// seen is the view that readers are answered from.
func (s *Server) seen() *View {
	if last := s.last.Load(); last != nil {
		return last
	}
	return s.view
}
