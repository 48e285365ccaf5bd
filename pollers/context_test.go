package pollers

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// A pollContext ends as one of package context would, whether anybody waits for
// it or not.
func TestPollContext(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(lease context.CancelFunc, c *pollContext)
		want error
	}{
		"deadline":           {func(context.CancelFunc, *pollContext) { time.Sleep(time.Minute) }, context.DeadlineExceeded},
		"just before":        {func(context.CancelFunc, *pollContext) { time.Sleep(time.Minute - 1) }, nil},
		"lease":              {func(lease context.CancelFunc, _ *pollContext) { lease() }, context.Canceled},
		"over":               {func(_ context.CancelFunc, c *pollContext) { c.end() }, context.Canceled},
		"over twice":         {func(_ context.CancelFunc, c *pollContext) { c.end(); c.end() }, context.Canceled},
		"lease and deadline": {func(lease context.CancelFunc, _ *pollContext) { lease(); time.Sleep(time.Hour) }, context.Canceled},
	} {
		for _, waited := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					is := is.New(t)
					lease, cancel := context.WithCancel(t.Context())
					c := &pollContext{Context: lease, deadline: time.Now().Add(time.Minute)}
					defer c.end()
					child := context.Context(c)
					if waited {
						goroutines := runtime.NumGoroutine()
						var stop context.CancelFunc
						child, stop = context.WithCancel(c)
						defer stop()
						is.Equal(runtime.NumGoroutine(), goroutines) // package context follows it without one
					}
					is.NoErr(c.Err())
					tt.end(cancel, c)
					synctest.Wait()
					is.True(errors.Is(child.Err(), tt.want))
					is.True(errors.Is(c.Err(), tt.want))
					select {
					case <-c.Done():
						is.True(tt.want != nil)
					default:
						is.NoErr(tt.want)
					}
					is.True(errors.Is(c.Err(), tt.want)) // also after Done
					cancel()
				})
			})
		}
	}
}
