package main

import (
	"testing"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/events"
)

func TestStepFlips(t *testing.T) {
	is := is.New(t)
	now := make([]events.Status, 1000)
	s := nextStep(3, 1, now)
	is.Equal(s, nextStep(3, 1, now))        // decided by the seed
	is.True(len(s) > 400 && len(s) < 600)   // about half
	is.True(len(nextStep(3, 2, now)) > 400) // and others next time
	for i, status := range s {
		is.True(status != now[i]) // something else
	}
}
