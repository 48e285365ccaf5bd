package gateway

import (
	"cmp"
	"slices"

	"github.com/looprock/megaphone/events"
)

// tally is what a host's checks amount to, kept while they change one by one:
// what a change costs must not grow with the number of checks that do not change.
// Those that are well are only counted; the others are few, or have a part in
// the host's message anyway.
type tally struct {
	live, stale int           // that are OK
	told        []*checkEntry // all others that are registered, by id
}

// share is how a check is counted.
type share uint8

const (
	shareNone share = iota
	shareLive
	shareStale
	shareTold
)

func (c *checkEntry) share() share {
	s := c.shown()
	switch {
	case c.entry == nil || s.Phase == events.Gone:
		return shareNone
	case s.Status != events.OK || s.Phase == events.Pending || s.Phase == events.Maintenance:
		return shareTold
	case s.Phase == events.Stale:
		return shareStale
	}
	return shareLive
}

// recount takes note that a check is registered, or not, and how it is.
func (t *tally) recount(c *checkEntry) {
	had := c.counted
	c.counted = c.share()
	if had == c.counted {
		return
	}
	t.count(had, -1)
	t.count(c.counted, +1)
	if had == shareTold || c.counted == shareTold {
		t.told = among(t.told, c, c.counted == shareTold)
	}
}

func (t *tally) count(s share, n int) {
	switch s {
	case shareLive:
		t.live += n
	case shareStale:
		t.stale += n
	}
}

// summary is [events.Summarize] of all checks, for which one stands for each kind
// that is only counted.
func (t *tally) summary() events.Summary {
	states := make([]*events.CheckState, 0, len(t.told)+2)
	for _, c := range t.told {
		states = append(states, c.shown())
	}
	if t.live > 0 {
		states = append(states, &events.CheckState{Status: events.OK, Phase: events.Live})
	}
	if t.stale > 0 {
		states = append(states, &events.CheckState{Status: events.OK, Phase: events.Stale})
	}
	sum := events.Summarize(states)
	sum.Counts.OK += max(t.live-1, 0) + max(t.stale-1, 0)
	return sum
}

// among puts a check into a list ordered by id, or takes it out.
func among(list []*checkEntry, c *checkEntry, in bool) []*checkEntry {
	i, there := slices.BinarySearchFunc(list, c.id, func(c *checkEntry, id string) int { return cmp.Compare(c.id, id) })
	switch {
	case in && !there:
		return slices.Insert(list, i, c)
	case !in && there:
		return slices.Delete(list, i, i+1)
	}
	return list
}
