package main

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/matryer/is"
)

func TestActorsStopInReverse(t *testing.T) {
	is := is.New(t)
	var a actors
	var order []string
	for _, name := range []string{"bus", "registry", "gateway"} {
		a.onStop(name, func() { order = append(order, name) }) // one at a time: stop waits
	}
	is.NoErr(a.stop(time.Second))
	is.True(slices.Equal(order, []string{"gateway", "registry", "bus"}))
}

func TestActorsFail(t *testing.T) {
	is := is.New(t)
	var a actors
	broken := errors.New("broken")
	a.start("good", func(ctx context.Context) error { <-ctx.Done(); return nil })
	a.start("bad", func(context.Context) error { return broken })
	err := a.wait(t.Context(), nil)
	is.True(errors.Is(err, broken))
	is.Equal(err.Error(), "bad: broken")
	is.True(errors.Is(a.stop(time.Second), broken)) // told again with what else went wrong
}

func TestActorsDoNotWaitForEver(t *testing.T) {
	is := is.New(t)
	var a actors
	stuck := make(chan struct{})
	a.onStop("bus", func() {})
	a.start("stuck", func(context.Context) error { <-stuck; return nil })
	err := a.stop(20 * time.Millisecond)
	is.True(err != nil)
	is.Equal(err.Error(), "stuck did not stop within 20ms")
	close(stuck)
	for _, p := range a.list {
		<-p.done
	}
}

func TestActorsEndByThemselves(t *testing.T) {
	is := is.New(t)
	var a actors
	a.start("odd", func(context.Context) error { return nil })
	is.Equal(a.wait(t.Context(), nil).Error(), "odd: it ended by itself")
	is.True(a.stop(time.Second) != nil)
}
