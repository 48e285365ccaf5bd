package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/looprock/megaphone/events"
)

// Limits of a page of the present state.
const (
	presentScan  = 1024      // hosts and checks looked at, with the view locked
	presentBytes = 512 << 10 // of events; a message of the bus may have 1 MiB
)

// Present returns how the hosts and checks are that f chooses, by name, a host
// before its checks: at most presentScan are looked at, those after a name. next
// is that of the last one, nil where there is no more. They are in the form of
// their last transition: what readers of a view see beyond it, such as an age,
// has no number.
func (v *View) Present(f events.Filter, after *events.Name) (found []events.Transition, next *events.Name) {
	v.mu.Lock()
	defer v.mu.Unlock()
	names, from := v.everyName(), events.Name{}
	if after != nil {
		from = *after
	}
	i, _ := slices.BinarySearch(names, from.Host)
	looked := 0
	for _, name := range names[i:] {
		h, at := v.hosts[name], events.Name{Host: name}
		if name == from.Host {
			at = from
		} else if looked++; h.is() && f.MatchName(name, "") {
			found = choose(found, f, h.present())
		}
		for _, c := range h.checksAfter(at.Check) {
			if looked >= presentScan {
				return found, &at
			}
			if looked++; f.MatchName(name, c.id) {
				found = choose(found, f, v.presentCheck(c))
			}
			at.Check = c.id
		}
		if looked >= presentScan {
			return found, &at
		}
	}
	return found, nil
}

// everyName lists hosts of which anything is known, sorted.
func (v *View) everyName() []string {
	if v.all == nil {
		v.all = slices.Sorted(maps.Keys(v.hosts))
	}
	return v.all
}

// is reports whether the host exists, for the log of transitions or for the
// registry: what one of them knows already is told.
func (h *hostEntry) is() bool { return h.registered() || h.state.V > 0 && h.state.Phase != events.Gone }

// checksAfter are the checks that exist as [hostEntry.is] says, those after an id.
func (h *hostEntry) checksAfter(id string) []*checkEntry {
	list := h.order
	for _, c := range h.checks {
		if c.entry == nil && c.known() {
			list = append(slices.Clip(list), c)
		}
	}
	if len(list) > len(h.order) {
		slices.SortFunc(list, func(a, b *checkEntry) int { return cmp.Compare(a.id, b.id) })
	}
	i, found := slices.BinarySearchFunc(list, id, func(c *checkEntry, id string) int { return cmp.Compare(c.id, id) })
	if found {
		i++
	}
	return list[i:]
}

func choose(list []events.Transition, f events.Filter, t events.Transition) []events.Transition {
	if f.Match(t) {
		list = append(list, t)
	}
	return list
}

func (h *hostEntry) present() events.Transition {
	labels := h.state.Labels
	if h.state.Number == 0 && h.record != nil {
		labels = h.record.Labels
	}
	now := h.state.Moment()
	if now.Phase == events.Gone { // registered again
		now = events.Moment{Phase: events.Pending}
	}
	return events.Present(h.name, "", h.state.Number, now, h.message(), labels)
}

func (v *View) presentCheck(c *checkEntry) events.Transition {
	s := c.shown()
	labels := s.Labels
	if s.Labels == nil && c.entry != nil { // nothing was told of it yet
		labels = v.reg.Labels(*c.entry)
	}
	now := s.Moment()
	if !c.known() { // registered, or registered again, and not looked at yet
		now = events.Moment{Phase: events.Pending}
	}
	return events.Present(s.Host, c.id, s.Number, now, s.Text(), labels)
}

// presentPage is a page of the present state as events, each of at most
// presentBytes. It fails before the gateway has reached the bus.
func (s *Server) presentPage(f events.Filter, after *events.Name) (events.PresentAnswer, []events.Transition, error) {
	position, created, whole := s.hub.whole() // first: the view may only be ahead of it
	if !whole {
		return events.PresentAnswer{}, nil, refuse(http.StatusServiceUnavailable, "the gateway has not read the bus yet; try again")
	}
	found, next := s.view.Present(f, after)
	if _, again, whole := s.hub.whole(); !whole || !again.Equal(created) {
		return events.PresentAnswer{}, nil, refuse(http.StatusServiceUnavailable, "the gateway reads the bus anew; try again")
	}
	page := events.PresentAnswer{Position: position, Events: []json.RawMessage{}, Next: next}
	size := 0
	for i, t := range found {
		b, err := presentJSON(created, t)
		if err != nil {
			return page, nil, err
		}
		if size += len(b); size > presentBytes && i > 0 {
			last := found[i-1]
			page.Next = &events.Name{Host: last.Host, Check: last.Check}
			return page, found[:i], nil
		}
		page.Events = append(page.Events, b)
	}
	return page, found, nil
}

func presentJSON(created time.Time, t events.Transition) ([]byte, error) {
	e, err := events.PresentEvent(created, t)
	if err != nil {
		return nil, err
	}
	return events.Marshal(e)
}

// callPresent answers a page of the present state.
func (s *Server) callPresent(_ context.Context, body []byte) (any, error) {
	var q events.PresentQuery
	if len(body) > 0 {
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, refuse(http.StatusBadRequest, "the request: %v", err)
		}
	}
	if err := q.Filter.Validate(); err != nil {
		return nil, err
	}
	page, _, err := s.presentPage(q.Filter, q.After)
	return page, err
}
