package pollers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
)

// patience bounds looks that nothing can interrupt: at a file on a file system
// whose server is gone, or for the end of a program that waits for one. Such a
// look is left behind, and a few of one check at most: its goroutine ends when
// the system lets go of it, which nobody can wait for.
type patience struct {
	grace time.Duration // after the end of a poll, for what can be interrupted
	mu    sync.Mutex
	busy  map[string]int
}

// maxHanging is how many looks at one target may hang: two checks may have the same.
const maxHanging = 4

var errHangs = errors.New("the system does not answer: it hangs")

// with makes a check of one that may hang.
func (p *patience) with(f Check) Check {
	return func(ctx context.Context, t events.Target) Finding {
		key := t.Addr + "\x00" + t.Options
		if !p.enter(key) {
			return failed(t, errHangs)
		}
		done := make(chan Finding, 1)
		go func() {
			defer p.leave(key)
			done <- f(ctx, t)
		}()
		select {
		case found := <-done:
			return found
		case <-ctx.Done():
		}
		timer := time.NewTimer(p.grace)
		defer timer.Stop()
		select {
		case found := <-done:
			return found
		case <-timer.C:
			return failed(t, errHangs)
		}
	}
}

func (p *patience) enter(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy == nil {
		p.busy = map[string]int{}
	}
	if p.busy[key] >= maxHanging {
		return false
	}
	p.busy[key]++
	return true
}

func (p *patience) leave(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy[key]--; p.busy[key] == 0 {
		delete(p.busy, key)
	}
}
