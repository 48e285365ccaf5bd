package pollers

import (
	"encoding/json"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
)

// Limits of polls that somebody asks for.
const (
	orderPause = time.Second // between two of one check; who asks meanwhile gets what the last one found
	orderShare = 4           // one in so many of the places for quick polls is theirs at most
	maxWaiting = 10_000      // who wait for one, in all
)

// orders are polls that were asked for. Who asks for one that others wait for
// waits with them. It is guarded by the worker's mutex.
type orders struct {
	open    map[name]*order
	told    []name // those that were answered, in this order
	pending int    // those that were not
	waiting int    // who wait for these
}

// order is a check that was asked for, until orderPause after the answer.
type order struct {
	waiting []string // subjects to answer on
	at      time.Time
	answer  []byte // nil while they wait
}

// moved is the answer where another worker may know more.
var moved = events.PollReply{Refused: "its partition is being handed over", Again: true}

// listen takes orders for the checks of a slot, until hangUp is called.
func (w *Worker) listen(s *slot) (hangUp func()) {
	sub, err := w.conf.Conn.NATS().Subscribe(events.PollSubject(s.pool, s.partition), func(m *nats.Msg) { w.take(s, m) })
	if err != nil {
		w.conf.Logger.Warn("polls cannot be asked for", "pool", s.pool, "partition", s.partition, "error", err)
		return func() {}
	}
	return func() { _ = sub.Unsubscribe() } // at worst the connection is closed
}

// take answers an order, or lets it wait for its poll.
func (w *Worker) take(s *slot, m *nats.Msg) {
	var o events.PollOrder
	if json.Unmarshal(m.Data, &o) != nil || o.Check == "" {
		w.reply(encoded(w.conf.Name, events.PollReply{Refused: "an order is JSON with host and check"}), m.Reply)
		return
	}
	if answer := w.accept(s, name{o.Host, o.Check}, m.Reply, time.Now()); answer != nil {
		w.reply(answer, m.Reply)
	}
}

// accept lets an order wait for its poll, which is made at once unless it is
// under way; or it returns the answer.
func (w *Worker) accept(s *slot, id name, reply string, now time.Time) (answer []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tasks[id]
	if s.held == nil || !s.held.lease.Valid() || t == nil || t.slot != s { // or not known yet
		return encoded(w.conf.Name, moved)
	}
	w.orders.forget(now)
	o := w.orders.open[id]
	switch {
	case o != nil && o.answer != nil:
		return o.answer
	case w.orders.waiting >= maxWaiting, o == nil && w.orders.pending >= max(w.conf.Concurrency/orderShare, 1):
		return encoded(w.conf.Name, events.PollReply{Refused: "too many polls are asked for; ask again later"})
	case o == nil:
		o = &order{}
		if w.orders.open == nil {
			w.orders.open = map[name]*order{}
		}
		w.orders.open[id] = o
		w.orders.pending++
		w.agenda.hurry(t, now.UnixMilli())
		w.rouse()
	}
	o.waiting = append(o.waiting, reply)
	w.orders.waiting++
	return nil
}

// hurry has a task polled now that waits for its time.
func (a *agenda) hurry(t *task, now int64) {
	if t.index >= 0 && t.due > now {
		t.due = now
		a.due.fix(t)
	}
}

// wanted reports whether somebody waits for the poll of t.
func (o *orders) wanted(t *task) bool {
	open := o.open[name{t.host, t.check}]
	return open != nil && open.answer == nil
}

// forget drops answers that are older than orderPause.
func (o *orders) forget(now time.Time) {
	for len(o.told) > 0 && now.Sub(o.open[o.told[0]].at) >= orderPause {
		delete(o.open, o.told[0])
		o.told = o.told[1:]
	}
}

// tell answers those who wait for a poll of t.
func (w *Worker) tell(t *task, r events.PollReply) {
	w.mu.Lock()
	id := name{t.host, t.check}
	o := w.orders.open[id]
	if o == nil || o.answer != nil {
		w.mu.Unlock()
		return
	}
	o.answer, o.at = encoded(w.conf.Name, r), time.Now()
	waiting := o.waiting
	o.waiting = nil
	w.orders.pending--
	w.orders.waiting -= len(waiting)
	if r.Refused == "" {
		w.orders.told = append(w.orders.told, id)
	} else { // whoever asks next may have more luck
		delete(w.orders.open, id)
	}
	w.mu.Unlock()
	w.reply(o.answer, waiting...)
}

func encoded(worker string, r events.PollReply) []byte {
	r.Worker = worker
	b, _ := json.Marshal(r) // texts and numbers are never refused
	return b
}

func (w *Worker) reply(answer []byte, to ...string) {
	for _, subject := range to {
		if subject == "" {
			continue
		}
		if err := w.conf.Conn.NATS().Publish(subject, answer); err != nil {
			w.conf.Logger.Debug("answer who asked for a poll", "error", err) // they ask again
			return
		}
	}
}
