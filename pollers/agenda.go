package pollers

import (
	"container/heap"
	"time"

	"github.com/looprock/megaphone/events"
)

// task is one check as its worker sees it: its registration of one position,
// and when it is polled next. A new registration makes a new task.
type task struct {
	host, check string
	reg         uint64 // position of the registration
	stored      int64  // when it was registered, bus time, Unix milliseconds
	target      events.Target
	local       *events.Registration // of a local kind; nil for others
	endpoint    string               // what polls at once are limited by
	schedule    Schedule
	timeout     time.Duration // of one poll
	slot        *slot

	due      int64 // of the next poll, Unix milliseconds
	key      int64 // of the last poll; grows even where the clock steps back
	failures int   // in a row, before the first answer; -1 once there was one

	index   int  // in the heap; -1 when not there
	running bool // its poll has not been published yet
	removed bool // waiting for its target only to be thrown away

	interrupted bool // its last poll found nothing out; read once it has ended
}

// again returns the task for another lease, in which its check has answered
// before.
func (t *task) again() *task {
	return &task{
		host: t.host, check: t.check, reg: t.reg, stored: t.stored, target: t.target, local: t.local, endpoint: t.endpoint,
		schedule: t.schedule, timeout: t.timeout, slot: t.slot, failures: -1, index: -1,
	}
}

// agenda decides which poll comes next: the one due first, among those whose
// target is not busy. It has no clock and starts nothing. Times are Unix
// milliseconds. Not safe for concurrent use.
type agenda struct {
	limit, perTarget int // polls at once: in all, and per endpoint
	due              dueHeap
	running          int
	busy             map[string]*endpointQueue // endpoints that are being polled
}

// endpointQueue is a target with polls under way, and those that wait for it.
type endpointQueue struct {
	polls   int
	waiting []*task
}

func newAgenda(limit, perTarget int) *agenda {
	return &agenda{limit: limit, perTarget: perTarget, busy: map[string]*endpointQueue{}}
}

// put enters a task that is not in the agenda, to be polled at due.
func (a *agenda) put(t *task, due int64) {
	t.due = due
	heap.Push(&a.due, t)
}

// remove takes a task out for good, unless it is being polled.
func (a *agenda) remove(t *task) {
	t.removed = true
	if t.index >= 0 {
		heap.Remove(&a.due, t.index)
	}
}

// next returns when take is worth calling; ok is false where only the end of a
// poll can change anything.
func (a *agenda) next() (due int64, ok bool) {
	if len(a.due) == 0 || a.running >= a.limit {
		return 0, false
	}
	return a.due[0].due, true
}

// take returns a task to poll now, nil if there is none, and how many of its
// polls are dropped because a later one is due already. The caller calls
// fetched and done of it.
func (a *agenda) take(now int64) (t *task, dropped int64) {
	for a.running < a.limit && len(a.due) > 0 && a.due[0].due <= now {
		t := heap.Pop(&a.due).(*task)
		q := a.busy[t.endpoint]
		if q == nil {
			q = &endpointQueue{}
			a.busy[t.endpoint] = q
		}
		if q.polls >= a.perTarget {
			q.waiting = append(q.waiting, t)
			continue
		}
		q.polls++
		a.running++
		t.running, t.interrupted = true, false
		if dropped = t.schedule.Missed(t.due, now); dropped > 0 {
			t.due = t.schedule.Last(now)
		}
		t.key = max(t.due, t.key+1)
		return t, dropped
	}
	return nil, 0
}

// fetched says that t no longer uses its target.
func (a *agenda) fetched(t *task) {
	q := a.busy[t.endpoint]
	q.polls--
	for len(q.waiting) > 0 {
		next := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		if !next.removed {
			heap.Push(&a.due, next)
			break
		}
	}
	if q.polls == 0 && len(q.waiting) == 0 {
		delete(a.busy, t.endpoint)
	}
}

// done says that the poll of t is over, and returns how many of its polls fell
// into it. A task that was not removed is entered again.
func (a *agenda) done(t *task, now int64) (dropped int64) {
	a.running--
	t.running = false
	if t.removed {
		return 0
	}
	from := max(t.due, now) // a clock that stepped back must not repeat a poll
	dropped, due := t.schedule.Missed(t.due, from), t.schedule.Next(from)
	if t.failures > 0 {
		due = min(due, now+RetryPause(t.failures, t.schedule.Every()).Milliseconds())
	}
	a.put(t, due)
	return dropped
}

// rebase enters all tasks anew after the clock stepped back: they would be
// silent until it has caught up.
func (a *agenda) rebase(now int64) {
	for _, t := range a.due {
		t.due = min(t.due, t.schedule.Next(now))
	}
	heap.Init(&a.due)
}

// dueHeap is a heap of tasks, the one due first on top.
type dueHeap []*task

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push and Pop are for container/heap.
func (h *dueHeap) Push(x any) {
	t := x.(*task)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *dueHeap) Pop() any {
	old := *h
	last := len(old) - 1
	t := old[last]
	old[last] = nil
	*h = old[:last]
	t.index = -1
	return t
}
