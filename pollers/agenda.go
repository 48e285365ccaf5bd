package pollers

import (
	"slices"
	"time"

	"github.com/looprock/megaphone/events"
)

// task is one check as its worker sees it: its registration of one position,
// and when it is polled next. A new registration makes a new task. There are many:
// one of more than 256 bytes takes 288.
type task struct {
	host, check string
	reg         uint64 // position of the registration
	stored      int64  // when it was registered, bus time, Unix milliseconds
	target      events.Target
	local       *events.Registration // of a local kind; nil for others
	endpoint    endpoint             // what polls at once are limited by
	port        *queue               // there, while it is polled
	schedule    Schedule
	timeout     time.Duration // of one poll
	slot        *slot

	due      int64 // of the next poll, Unix milliseconds
	key      int64 // of the last poll; grows even where the clock steps back
	failures int   // in a row, before the first answer; -1 once there was one

	begun int64 // when its last poll was, Unix milliseconds

	index   int  // in the heap; -1 when not there
	running bool // its poll has not been published yet
	removed bool // waiting for its target only to be thrown away
	slow    bool // its last poll was
	slowly  bool // the present one counts as such

	interrupted bool // its last poll found nothing out; read once it has ended
	owed        debt // under this lease

	told   events.Status // the last status that was stored under this lease
	same   int           // how often in a row it was
	settle int           // how often it has to be before it is no news
	waits  *report       // in which its last result waits to be sent; nil for none
}

// again returns the task for another lease, in which its check has answered
// before.
func (t *task) again() *task {
	return &task{
		host: t.host, check: t.check, reg: t.reg, stored: t.stored, target: t.target, local: t.local, endpoint: t.endpoint,
		schedule: t.schedule, timeout: t.timeout, slot: t.slot, settle: t.settle, failures: -1, index: -1,
	}
}

// slowAfter is how long a poll may take before it counts as slow.
const slowAfter = time.Second

// limits are how many polls there may be at once.
type limits struct {
	quick   int // that have not taken slowAfter yet
	slow    int // that have, or whose last one did: they take no place from quick ones
	perHost int // of one host, whatever is polled there
	perPort int // of one port of a host
}

// agenda decides which poll comes next: the one due first, among those whose
// target is not busy. It has no clock and starts nothing. Times are Unix
// milliseconds. Not safe for concurrent use.
type agenda struct {
	limits
	due     dueHeap
	running int               // quick polls under way
	slowly  int               // slow polls under way
	young   []young           // polls that began as quick ones, in this order
	waiting []*task           // that have to be polled slowly
	ports   map[uint64]*queue // that are being polled, or waited for
	hosts   map[uint64]*queue
}

// young is a poll that began as a quick one; its key tells it from later ones.
type young struct {
	*task
	key int64
}

// queue is a target with polls under way, and those that wait for it.
type queue struct {
	polls   int
	waiting []*task
	host    *queue // of a port
	ports   int    // of a host: that have a queue
}

func newAgenda(l limits) *agenda {
	return &agenda{limits: l, ports: map[uint64]*queue{}, hosts: map[uint64]*queue{}}
}

// put enters a task that is not in the agenda, to be polled at due.
func (a *agenda) put(t *task, due int64) {
	t.due = due
	a.due.push(t)
}

// remove takes a task out for good, unless it is being polled.
func (a *agenda) remove(t *task) {
	t.removed = true
	if t.index >= 0 {
		a.due.remove(t)
	} else if t.running {
		return
	}
	if port := a.ports[t.endpoint.port]; port != nil { // others in place of t, if it was let in, be it to wait elsewhere
		a.admit(port, t.endpoint)
	} else if host := a.hosts[t.endpoint.host]; host != nil {
		a.admitHost(host)
		a.forgetHost(host, t.endpoint)
	}
	a.admitSlow()
}

// next returns when take is worth calling; ok is false where only the end of a
// poll can change anything.
func (a *agenda) next() (due int64, ok bool) {
	if len(a.due) == 0 {
		return 0, false
	}
	if a.running < a.quick {
		return a.due[0].at, true
	}
	a.forget()
	if len(a.young) == 0 || a.slowly >= a.slow {
		return 0, false
	}
	return max(a.due[0].at, a.young[0].begun+slowAfter.Milliseconds()), true
}

// behind is how long the poll that comes next has been due.
func (a *agenda) behind(now int64) time.Duration {
	if len(a.due) == 0 {
		return 0
	}
	return time.Duration(max(now-a.due[0].at, 0)) * time.Millisecond
}

// take returns a task to poll now, nil if there is none, and how many of its
// polls are dropped because a later one is due already. The caller calls
// fetched and done of it.
func (a *agenda) take(now int64) (t *task, dropped int64) {
	a.slowDown(now)
	for a.running < a.quick && len(a.due) > 0 && a.due[0].at <= now {
		t := a.due.pop()
		if t.slow && a.slowly >= a.slow {
			a.waiting = append(a.waiting, t)
			continue
		}
		if !a.occupy(t) {
			continue
		}
		if dropped = t.schedule.Missed(t.due, now); dropped > 0 {
			t.due = t.schedule.Last(now)
		}
		t.key = max(t.due, t.key+1)
		t.running, t.interrupted, t.begun = true, false, now
		if t.slowly = t.slow; t.slow {
			a.slowly++
		} else {
			a.running++
			a.young = append(a.young, young{t, t.key})
		}
		return t, dropped
	}
	return nil, 0
}

// occupy takes a place at the target of t, else lets it wait there.
func (a *agenda) occupy(t *task) bool {
	port := a.ports[t.endpoint.port]
	var host *queue
	if port != nil {
		host = port.host
	} else {
		host = a.hosts[t.endpoint.host]
	}
	switch {
	case port != nil && port.polls >= a.perPort:
		port.waiting = append(port.waiting, t)
		return false
	case host != nil && host.polls >= a.perHost:
		host.waiting = append(host.waiting, t)
		return false
	case host == nil:
		host = &queue{}
		a.hosts[t.endpoint.host] = host
	}
	if port == nil {
		port = &queue{host: host}
		a.ports[t.endpoint.port] = port
		host.ports++
	}
	port.polls++
	host.polls++
	t.port = port
	return true
}

// slowDown counts quick polls that have taken too long as slow ones, where there
// is room for that.
func (a *agenda) slowDown(now int64) {
	for a.forget(); len(a.young) > 0 && a.young[0].begun+slowAfter.Milliseconds() <= now && a.slowly < a.slow; a.forget() {
		a.young[0].slowly = true
		a.running--
		a.slowly++
	}
}

// forget drops what has ended, or counts as slow, from the head of young.
func (a *agenda) forget() {
	n := 0
	for n < len(a.young) && (!a.young[n].running || a.young[n].task.key != a.young[n].key || a.young[n].slowly) {
		a.young[n] = young{}
		n++
	}
	a.young = a.young[n:]
}

// fetched says that t no longer uses its target.
func (a *agenda) fetched(t *task, now int64) {
	t.slow = now-t.begun >= slowAfter.Milliseconds()
	port := t.port
	t.port = nil
	port.polls--
	port.host.polls--
	a.admit(port, t.endpoint)
}

// admit lets in as many of those who wait for a port and its host as there is
// room for there, and forgets what is idle of both. e is the key of the port.
func (a *agenda) admit(port *queue, e endpoint) {
	a.admitHost(port.host)
	for room := a.perPort - port.polls; room > 0 && len(port.waiting) > 0; {
		if a.let(shift(&port.waiting)) {
			room--
		}
	}
	if port.polls == 0 && len(port.waiting) == 0 {
		delete(a.ports, e.port)
		port.host.ports--
	}
	a.forgetHost(port.host, e)
}

// forgetHost forgets a host that is idle.
func (a *agenda) forgetHost(host *queue, e endpoint) {
	if host.ports == 0 && len(host.waiting) == 0 {
		delete(a.hosts, e.host)
	}
}

// admitHost is admit for those who wait for the host. Who finds the port busy
// goes on waiting there.
func (a *agenda) admitHost(host *queue) {
	for room := a.perHost - host.polls; room > 0 && len(host.waiting) > 0; {
		t := shift(&host.waiting)
		if port := a.ports[t.endpoint.port]; port != nil && port.polls >= a.perPort {
			port.waiting = append(port.waiting, t)
		} else if a.let(t) {
			room--
		}
	}
}

// admitSlow is admit for those who wait for the end of a slow poll.
func (a *agenda) admitSlow() {
	for room := a.slow - a.slowly; room > 0 && len(a.waiting) > 0; {
		if a.let(shift(&a.waiting)) {
			room--
		}
	}
}

// let enters a task that waited; false where it was removed meanwhile.
func (a *agenda) let(t *task) bool {
	if !t.removed {
		a.due.push(t)
	}
	return !t.removed
}

// shift takes the first of those who wait.
func shift(waiting *[]*task) *task {
	t := (*waiting)[0]
	(*waiting)[0] = nil
	*waiting = (*waiting)[1:]
	return t
}

// done says that the poll of t is over, and returns how many of its polls fell
// into it. A task that was not removed is entered again.
func (a *agenda) done(t *task, now int64) (dropped int64) {
	t.running = false
	if t.slowly {
		a.slowly--
		a.admitSlow()
	} else {
		a.running--
	}
	if t.removed {
		return 0
	}
	from := max(t.due, now) // a clock that stepped back must not repeat a poll, nor silence the check until it has caught up
	dropped, due := t.schedule.Missed(t.due, from), min(t.schedule.Next(from), t.schedule.Next(now)+t.schedule.interval)
	switch {
	case t.interrupted: // only if the lease goes on
		due = min(due, now+firstRetry.Milliseconds())
	case t.failures > 0:
		due = min(due, now+RetryPause(t.failures, t.schedule.Every()).Milliseconds())
	}
	a.put(t, due)
	return dropped
}

// rebase enters all tasks anew after the clock stepped back: they would be
// silent until it has caught up. See done for those that are being polled.
func (a *agenda) rebase(now int64) {
	for _, t := range a.due {
		t.due = min(t.due, t.schedule.Next(now))
	}
	a.due.order()
	for _, y := range a.young {
		y.begun = min(y.begun, now)
	}
	waiting := [][]*task{a.waiting}
	for _, targets := range []map[uint64]*queue{a.ports, a.hosts} {
		for _, q := range targets {
			waiting = append(waiting, q.waiting)
		}
	}
	for _, t := range slices.Concat(waiting...) {
		t.due = min(t.due, t.schedule.Last(now))
	}
}
