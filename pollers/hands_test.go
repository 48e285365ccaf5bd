package pollers

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

func TestHands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newHands()
		var done atomic.Int64
		job := func() {
			time.Sleep(time.Second)
			done.Add(1)
		}
		for _, jobs := range []int{3, 2, 200} { // all at once: none waits for another
			began := done.Load()
			for range jobs {
				h.do(job)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			is.Equal(done.Load()-began, int64(jobs))
			is.Equal(h.idle.Load(), int64(min(max(jobs, 3), maxIdleHands))) // two of the three were used again
		}
		h.do(job)
		h.end()
		is.Equal(done.Load(), int64(206)) // end waits for them
	})
}
