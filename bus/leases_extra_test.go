package bus

import (
	"testing"
	"time"

	"github.com/matryer/is"
)

// What was taken above the share goes to a member that was only slow, and stays
// where nobody wants it.
func TestExtras(t *testing.T) {
	is := is.New(t)
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var e extras
	e.offer(0, at(0))
	is.Equal(e, extras{}) // nothing to offer

	for range 4 {
		e.took(at(0))
	}
	is.Equal(e.n, 4)
	e.offer(0, at(4))
	is.Equal(e.n, 4) // not yet
	e.offer(0, at(5))
	is.Equal(e.n, 3) // one is offered
	e.offer(0, at(6))
	is.Equal(e.n, 3) // and nobody took it
	e.took(at(10))
	is.Equal(e.n, 4) // so it is taken back
	e.offer(0, at(15))
	is.Equal(e.n, 4) // for twice as long
	e.offer(0, at(20))
	is.Equal(e.n, 3)
	e.offer(1, at(21))
	is.Equal(e, extras{}) // another takes it: it may have them all

	for range 20 {
		e.took(start)
		e.offer(0, e.next)
	}
	is.Equal(e.pause, leaseOffers) // in vain for long
}

// A partition that was released a moment ago, with a row that says that it still
// is one's own, is left to the others: else the share is never reached.
func TestStrayIsNotWhatWasReleased(t *testing.T) {
	is := is.New(t)
	now := time.Now()
	m := &leaseManager{l: &Leases{o: LeaseOptions{Holder: "me"}}, tenures: map[int]*tenure{}, again: map[int]time.Time{}}
	long := now.Add(-2 * leaseStray)
	is.True(!m.stray([]leaseRow{{held: true, holder: "me", since: long, seen: now}}, now))
	is.True(!m.stray([]leaseRow{{since: now}}, now))                                          // free for a moment
	is.True(m.stray([]leaseRow{{since: long}}, now))                                          // nobody takes it
	is.True(m.stray([]leaseRow{{held: true, holder: "other", since: long, seen: long}}, now)) // its end was missed
}
