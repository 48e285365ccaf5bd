package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looprock/megaphone/events"
)

// MaxChecks is how many checks a host may have; [Registry.Register] refuses more.
const MaxChecks = 10_000

// Errors of writes to the registry that callers branch on.
var (
	// ErrCache says that the original's cache file cannot be written. Nothing was registered.
	ErrCache = errors.New("cache file cannot be written")
	// ErrFull says that the bus has no room for another registration. Nothing was registered.
	ErrFull = errors.New("no room for registrations on the bus")
	// ErrTooMany says that a host has [MaxChecks] checks. Nothing was registered.
	ErrTooMany = errors.New("too many checks on one host")
)

// Entry is a registered check. What it points to must not be changed.
type Entry struct {
	Registration events.Registration // Host and ID are always set
	Position     uint64              // in REGISTRATIONS
	Stored       time.Time           // bus time
}

// OverrideEntry is an override that is set. What it points to must not be changed.
type OverrideEntry struct {
	Override events.Override
	Position uint64
	Stored   time.Time
}

// RegistryChange says what may have changed. Check is empty where it concerns a
// host itself, Host where it is an override that selects by label: anything may
// have changed.
type RegistryChange struct {
	Position uint64
	Stored   time.Time
	Host     string
	Check    string
}

// RegistryOptions say what a [Registry] keeps on the disk. The zero value keeps
// nothing.
type RegistryOptions struct {
	File  string // registrations.jsonl; empty for none
	Cache string // the original's cache file; empty for none
	Local string // the host of which Cache speaks; empty: there is no cache

	// Invalid is told of events that are refused, so that somebody can say so
	// and mend it by [Registry.Restore]. It is called by one goroutine at a time
	// and must not block.
	Invalid func(subject string, position uint64, reason string, data []byte)

	Logger *slog.Logger // nil discards
}

// Registry is a process's copy of the stream REGISTRATIONS: what is registered
// of checks and hosts, and the overrides. Reads are from memory, and go on while
// the bus is away; writes are stored on the bus, applied to the copy and synced
// to the disk before they return. It is safe for concurrent use. Nothing happens
// before [Registry.Run].
//
// Events that are not valid are ignored: what was valid before stays.
type Registry struct {
	c   *Conn
	o   RegistryOptions
	log *slog.Logger

	journal *journal
	cache   *cacheFile

	ready     chan struct{}
	fromCache atomic.Bool
	created   time.Time     // of the stream that was loaded; zero before; used by Run alone
	reload    chan struct{} // asks Run to load the stream anew

	mu    sync.RWMutex
	ix    *index
	moved chan struct{} // closed at the next change of position; nil if nobody waits
	subs  map[*subscriber]struct{}
}

// NewRegistry makes a registry; [Registry.Run] fills it.
func NewRegistry(c *Conn, o RegistryOptions) *Registry {
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.Local = strings.ToLower(o.Local)
	if o.Local == "" {
		o.Cache = ""
	}
	r := &Registry{
		c: c, o: o, log: log.With("component", "registry"), ix: newIndex(),
		ready: make(chan struct{}), reload: make(chan struct{}, 1), subs: map[*subscriber]struct{}{},
	}
	r.journal = newJournal(o.File, r.log, r.position, r.askReload)
	r.cache = newCacheFile(o.Cache, r.log, r.localURLs)
	return r
}

// Ready is closed once the copy has caught up with the stream as it was at the
// start, both files are written from it, and writes are taken.
func (r *Registry) Ready() <-chan struct{} { return r.ready }

// FromCache reports, once the registry is ready, whether all that is registered
// was taken over from an original's cache file.
func (r *Registry) FromCache() bool { return r.fromCache.Load() }

// CacheError is why the cache file cannot be written; nil if it can.
func (r *Registry) CacheError() error { return r.cache.failure() }

// Position is the position in REGISTRATIONS of the last event applied.
func (r *Registry) Position() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ix.position
}

// WaitFor returns once the copy holds everything up to a position.
func (r *Registry) WaitFor(ctx context.Context, position uint64) error {
	for {
		r.mu.Lock()
		if r.ix.position >= position {
			r.mu.Unlock()
			return nil
		}
		if r.moved == nil {
			r.moved = make(chan struct{})
		}
		moved := r.moved
		r.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Check returns what is registered under a host and an id.
func (r *Registry) Check(host, id string) (Entry, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if e := r.ix.check(host, id); e != nil {
		return *e, true
	}
	return Entry{}, false
}

// HostChecks returns the checks of a host, ordered by id.
func (r *Registry) HostChecks(host string) []Entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if h := r.ix.hosts[host]; h != nil {
		return values(make([]Entry, 0, len(h.checks)), h.checks)
	}
	return nil
}

// CountChecks returns how many checks a host has.
func (r *Registry) CountChecks(host string) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if h := r.ix.hosts[host]; h != nil {
		return len(h.checks)
	}
	return 0
}

// Checks returns all checks, ordered by host and id.
func (r *Registry) Checks() []Entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := 0
	for _, h := range r.ix.hosts {
		n += len(h.checks)
	}
	out := make([]Entry, 0, n)
	for _, host := range r.ix.names() {
		out = values(out, r.ix.hosts[host].checks)
	}
	return out
}

func values[E any](out []E, list []*E) []E {
	for _, e := range list {
		out = append(out, *e)
	}
	return out
}

// Host returns what is registered of a host itself.
func (r *Registry) Host(host string) (events.HostRecord, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if h := r.ix.hosts[host]; h != nil && h.record != nil {
		return h.record.record, true
	}
	return events.HostRecord{}, false
}

// Labels returns the labels of a check: its host's, overlaid with its own. They
// must not be changed.
func (r *Registry) Labels(e Entry) map[string]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ix.labels(e.Registration)
}

// Hosts returns the names of all hosts of which anything is registered or
// overridden, in order.
func (r *Registry) Hosts() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ix.names()
}

func (ix *index) names() []string {
	out := make([]string, 0, len(ix.hosts))
	for name := range ix.hosts {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Override returns the override that is set for a check: its own, else the first
// by name that selects its labels; with an empty check, that of the host. It may
// have ended by time or by a push: the registry has no clock.
func (r *Registry) Override(host, check string) (OverrideEntry, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if o := r.ix.override(host, check); o != nil {
		return *o, true
	}
	return OverrideEntry{}, false
}

// Overrides returns all overrides, ordered by host, check and name.
func (r *Registry) Overrides() []OverrideEntry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := values(nil, r.ix.selects)
	for _, h := range r.ix.hosts {
		if h.override != nil {
			out = append(out, *h.override)
		}
		out = values(out, h.overrides)
	}
	slices.SortFunc(out, func(a, b OverrideEntry) int {
		return cmp.Or(strings.Compare(a.Override.Host, b.Override.Host),
			strings.Compare(a.Override.Check, b.Override.Check), strings.Compare(a.Override.Name, b.Override.Name))
	})
	return out
}

// position is that of what is kept for a subject.
func (r *Registry) position(subject string) uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ix.at(subject)
}

// localURLs is what the original's format can say of the local host.
func (r *Registry) localURLs() map[string]json.RawMessage {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := map[string]json.RawMessage{}
	h := r.ix.hosts[r.o.Local]
	if h == nil {
		return out
	}
	for _, e := range h.checks {
		if !e.Registration.Push() {
			out[e.Registration.ID] = e.Registration.URL
		}
	}
	if h.override != nil && len(h.override.Override.Global) > 0 {
		out[events.GlobalID] = h.override.Override.Global
	}
	return out
}

// Subscribe returns a channel of the changes that are applied after the call, in
// order and without loss, however slowly they are taken. cancel closes the
// channel and must be called.
func (r *Registry) Subscribe() (changes <-chan RegistryChange, cancel func()) {
	s := &subscriber{out: make(chan RegistryChange, 64), wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	r.mu.Lock()
	r.subs[s] = struct{}{}
	r.mu.Unlock()
	go s.run()
	return s.out, sync.OnceFunc(func() {
		r.mu.Lock()
		delete(r.subs, s)
		r.mu.Unlock()
		close(s.stop)
		<-s.done
	})
}

// subscriber has a queue without bound, so that a slow reader stops nobody.
type subscriber struct {
	out  chan RegistryChange
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	queue []RegistryChange
}

func (s *subscriber) tell(changes ...RegistryChange) {
	s.mu.Lock()
	s.queue = append(s.queue, changes...)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscriber) run() {
	defer close(s.done)
	defer close(s.out)
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		}
		s.mu.Lock()
		queue := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, c := range queue {
			select {
			case s.out <- c:
			case <-s.stop:
				return
			}
		}
	}
}
