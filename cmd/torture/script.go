package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/looprock/megaphone/events"
)

// name is a check of a host; with an empty check, the host.
type name struct{ Host, Check string }

func (n name) String() string { return events.SubjectName(n.Host, n.Check) }

// told is one state of a check's script.
type told struct {
	Status events.Status
	At     time.Time // when the service began to say it
}

// checksPerHost is small enough that the hosts spread over the partitions.
const checksPerHost = 40

// names lists the checks of a run. Those with an even index are polled, the
// others are pushed.
func names(n int) []name {
	list := make([]name, n)
	for i := range list {
		list[i] = name{fmt.Sprintf("host%02d", i/checksPerHost), fmt.Sprintf("c%04d", i)}
	}
	return list
}

func polled(i int) bool { return i%2 == 0 }

// hasty reports whether a service that pushes does so before it is registered.
func hasty(i int) bool { return i%4 == 3 }

// step is what happens at one step of the script: the checks that flip, and to
// which status.
type step map[int]events.Status

// nextStep decides a step by the seed, given the present statuses: about half of
// the checks become something else.
func nextStep(seed uint64, number int, now []events.Status) step {
	r := rand.New(rand.NewPCG(seed, uint64(number)))
	s := step{}
	for i, status := range now {
		others := []events.Status{}
		for _, o := range events.Statuses() {
			if o != status {
				others = append(others, o)
			}
		}
		if pick, flips := others[r.IntN(len(others))], r.IntN(2) == 0; flips {
			s[i] = pick
		}
	}
	return s
}
