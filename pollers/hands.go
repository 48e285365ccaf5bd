package pollers

import (
	"sync"
	"sync/atomic"
)

// hands are goroutines that do one job after the other, all jobs at once: the
// stack of a new goroutine would have to grow in each poll. Make it with newHands.
type hands struct {
	jobs chan func() // to one that is idle
	idle atomic.Int64
	all  sync.WaitGroup
}

// maxIdleHands is how many wait for a job, with stacks of some 16 kB; others end
// after theirs.
const maxIdleHands = 64

func newHands() *hands { return &hands{jobs: make(chan func())} }

// do has a job done, and does not wait for that. It must not be called once end
// has been.
func (h *hands) do(job func()) {
	select {
	case h.jobs <- job:
	default:
		h.all.Go(func() { h.work(job) })
	}
}

func (h *hands) work(job func()) {
	for ok := true; ok; job, ok = h.next() {
		job()
	}
}

func (h *hands) next() (job func(), ok bool) {
	defer h.idle.Add(-1)
	if h.idle.Add(1) > maxIdleHands {
		return nil, false
	}
	job, ok = <-h.jobs
	return job, ok
}

// end waits until all jobs are done.
func (h *hands) end() {
	close(h.jobs)
	h.all.Wait()
}
