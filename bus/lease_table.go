package bus

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// leaseRecord is what a lease holds in the bucket.
type leaseRecord struct {
	V      int    `json:"v"`
	Holder string `json:"holder"`
	Name   string `json:"name"`
	Epoch  uint64 `json:"epoch,omitempty"` // revision of its acquisition; absent in that one
	Mark   string `json:"mark,omitempty"`  // for whoever takes the partition if the holder dies
}

// leaseRow is what is known of a partition.
type leaseRow struct {
	revision uint64 // of the last message
	held     bool
	holder   string // empty where the record is of a later version: it is not touched
	name     string
	note     string    // of the holder that released it; empty while it is held
	stored   time.Time // bus time of the last renewal that was seen
	mark     string    // that this renewal bore
	seen     time.Time // when the last message came, by this process's clock
	since    time.Time // when it was seen to become held or free
}

// takable reports whether the lease may be tried: it is free, bears one's own
// id, or was not renewed for so long that its end must have been missed.
func (r leaseRow) takable(holder string, now time.Time) bool {
	return !r.held || r.holder == holder || r.overdue(now)
}

func (r leaseRow) overdue(now time.Time) bool {
	return r.held && now.Sub(r.seen) > LeaseTTL+2*time.Second
}

// leaseTable is who holds what, as the bucket says. It is safe for concurrent use.
type leaseTable struct {
	changed func() // somebody else holds a partition, or nobody does

	mu    sync.Mutex
	rows  []leaseRow
	ready bool
	dead  map[string]bool // members whose lease ended by itself, until they are heard again
}

func newLeaseTable(partitions int, changed func()) *leaseTable {
	return &leaseTable{changed: changed, rows: make([]leaseRow, partitions), dead: map[string]bool{}}
}

func (t *leaseTable) snapshot() (rows []leaseRow, ready bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]leaseRow(nil), t.rows...), t.ready
}

func (t *leaseTable) unready() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ready = false
}

func (t *leaseTable) isDead(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dead[name]
}

func (t *leaseTable) alive(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.dead, name)
}

// blank returns rows to be read into, as if everything became free just now.
func (t *leaseTable) blank() []leaseRow {
	rows := make([]leaseRow, len(t.rows))
	for i := range rows {
		rows[i].since = time.Now()
	}
	return rows
}

// become makes rows, which were read whole, the table.
func (t *leaseTable) become(rows []leaseRow) {
	t.mu.Lock()
	for p := range rows {
		if rows[p].stored.IsZero() {
			rows[p].stored, rows[p].mark = t.rows[p].stored, t.rows[p].mark // it ended while nobody looked
		}
	}
	t.rows, t.ready = rows, true
	t.mu.Unlock()
	t.changed()
}

// fill applies a message to rows that are not yet the table's.
func (t *leaseTable) fill(rows []leaseRow, m jetstream.Msg, meta *jetstream.MsgMetadata) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read(rows, m, meta)
}

func (t *leaseTable) update(m jetstream.Msg, meta *jetstream.MsgMetadata) {
	t.mu.Lock()
	changed := t.read(t.rows, m, meta)
	t.mu.Unlock()
	if changed {
		t.changed()
	}
}

// read applies a message to rows, and reports whether a holder changed. The
// caller holds mu.
func (t *leaseTable) read(rows []leaseRow, m jetstream.Msg, meta *jetstream.MsgMetadata) (changed bool) {
	token := m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]
	p, err := strconv.Atoi(token)
	if err != nil || p < 0 || p >= len(rows) {
		return false // of nobody
	}
	row := &rows[p]
	was := *row
	row.revision, row.seen = meta.Sequence.Stream, time.Now()
	row.held, row.holder, row.name, row.note = false, "", "", ""
	if !ended(m.Headers()) {
		row.held, row.stored, row.mark = true, meta.Timestamp, ""
		var rec leaseRecord
		if json.Unmarshal(m.Data(), &rec) == nil && rec.V <= events.RecordVersion {
			row.holder, row.name, row.mark = rec.Holder, rec.Name, rec.Mark
			delete(t.dead, rec.Name)
		}
	} else if m.Headers().Get(markerReason) == "" {
		row.note = string(m.Data())
	} else if was.held && m.Headers().Get(markerReason) == "MaxAge" {
		t.dead[was.name] = true
	}
	if changed = row.held != was.held || row.holder != was.holder || row.name != was.name; changed {
		row.since = row.seen
	}
	return changed
}

// Headers of the messages with which a lease ends.
const (
	markerReason = "Nats-Marker-Reason" // by the server: it was not renewed
	kvOperation  = "KV-Operation"       // by its holder
)

func ended(h nats.Header) bool { return h.Get(markerReason) != "" || h.Get(kvOperation) != "" }
