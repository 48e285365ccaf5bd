package pollers

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func TestPatience(t *testing.T) {
	is := is.New(t)
	release := make(chan struct{})
	ended := make(chan struct{}, 100)
	hang := (&patience{grace: time.Millisecond}).with(func(_ context.Context, t events.Target) Finding {
		defer func() { ended <- struct{}{} }()
		if t.Addr == "file:/slow" {
			<-release
		}
		return found(t, events.OK, "fine", nil)
	})
	look := func(addr string) Finding {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return hang(ctx, events.Target{Addr: addr})
	}
	for range maxHanging + 3 {
		is.True(errors.Is(look("file:/slow").Err, errHangs))
	}
	is.Equal(look("file:/quick").Message, "fine") // others are not held up
	close(release)
	for range maxHanging + 1 {
		<-ended
	}
	for look("file:/slow").Err != nil { // it is looked at again
		time.Sleep(time.Millisecond)
	}
}
