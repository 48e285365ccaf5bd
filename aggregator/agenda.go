package aggregator

import (
	"container/heap"
	"time"
)

// timed is what has a deadline: a check or a host.
type timed interface {
	next() time.Time // by its state; zero: none
	slot() *slot
}

// slot is a place on the agenda; the zero value is none.
type slot struct {
	at    time.Time
	index int // from 1; 0: not on it
}

// agenda orders deadlines. A deadline that moves away, as it does with every
// result, costs nothing: it is looked at when the former one comes.
type agenda struct{ items byTime }

// put makes sure that t is looked at when its deadline comes.
func (a *agenda) put(t timed) {
	at, s := t.next(), t.slot()
	switch {
	case at.IsZero():
	case s.index == 0:
		s.at = at
		heap.Push(&a.items, t)
	case at.Before(s.at):
		s.at = at
		heap.Fix(&a.items, s.index-1)
	}
}

// drop makes sure that t is not looked at before it is put again.
func (a *agenda) drop(t timed) {
	if s := t.slot(); s.index > 0 {
		heap.Remove(&a.items, s.index-1)
	}
}

// first returns the next deadline, or the zero time.
func (a *agenda) first() time.Time {
	for len(a.items) > 0 {
		t := a.items[0]
		s, at := t.slot(), t.next()
		switch {
		case at.IsZero():
			heap.Pop(&a.items)
		case at.After(s.at):
			s.at = at
			heap.Fix(&a.items, 0)
		default:
			return s.at
		}
	}
	return time.Time{}
}

// due takes everything off the agenda whose deadline has come at now.
func (a *agenda) due(now time.Time) (out []timed) {
	for {
		if at := a.first(); at.IsZero() || at.After(now) {
			return out
		}
		out = append(out, heap.Pop(&a.items).(timed))
	}
}

type byTime []timed

func (b byTime) Len() int           { return len(b) }
func (b byTime) Less(i, j int) bool { return b[i].slot().at.Before(b[j].slot().at) }
func (b byTime) Swap(i, j int) {
	b[i], b[j] = b[j], b[i]
	b[i].slot().index, b[j].slot().index = i+1, j+1
}

func (b *byTime) Push(x any) {
	t := x.(timed)
	*b = append(*b, t)
	t.slot().index = len(*b)
}

func (b *byTime) Pop() any {
	last := len(*b) - 1
	t := (*b)[last]
	(*b)[last] = nil
	*b = (*b)[:last]
	*t.slot() = slot{}
	return t
}
