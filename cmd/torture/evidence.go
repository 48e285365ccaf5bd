package main

import (
	"time"

	"github.com/looprock/megaphone/events"
)

// evidence is all that [judge] goes by.
type evidence struct {
	Script      map[name][]told // of the polled checks
	Changes     []change        // in the order of CHANGES
	Results     []result        // in the order of RESULTS
	Ticks       []tick          // and records of outages, in the order of RESULTS
	Registered  map[name]registered
	AckedRegs   []ack          // registrations that were acknowledged
	AckedPushes []ack          // pushes that were acknowledged
	Shown       map[name]shown // what a gateway shows at the end
	Subscribers map[string]subscription
	Last        uint64        // position of the last transition that subscribers were waited for
	Interval    time.Duration // of polls
	TTL         time.Duration // of pushes
}

// stored counts the results of a check.
func (e *evidence) stored(n name) (count int) {
	for _, r := range e.Results {
		if r.Name == n {
			count++
		}
	}
	return count
}

// change is a transition as it lies in CHANGES.
type change struct {
	Position   uint64
	Stored     time.Time
	Decided    time.Time // bus time of what caused it
	ID         string    // source and id of the event
	Transition events.Transition
}

func (c change) name() name { return name{c.Transition.Host, c.Transition.Check} }

// result is a poll or push as it lies in RESULTS.
type result struct {
	Name     name
	Position uint64
	Stored   time.Time
	Polled   bool
	Status   events.Status
	Message  string
	Order    events.Order
}

// tick is a message that lets deadlines happen, or the record of an outage.
type tick struct {
	Position  uint64
	Stored    time.Time
	Partition int  // -1 for a record of an outage
	Outage    span // of the record
}

// span is a time in which the bus stored nothing.
type span struct{ From, To time.Time }

// registered is the last registration of a check as it lies in REGISTRATIONS.
type registered struct {
	Position uint64
	Pushed   bool // it is the one of a first push
}

// ack is an acknowledged write. Position is 0 where the answer has none.
type ack struct {
	Name     name
	Position uint64
	Message  string
}

// shown is the final view of a check.
type shown struct {
	Status events.Status
	Phase  events.Phase
	Number uint64
}

// subscription is what a subscriber got.
type subscription struct {
	Positions []uint64
	Gaps      int // that it was told of
	Losses    int // of its connection
}
