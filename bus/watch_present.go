package bus

import (
	"context"
	"fmt"

	"github.com/looprock/megaphone/events"
)

// present yields how everything is that the filter chooses, and places the
// watcher so that what follows joins it. A gateway answers page by page, each
// with the position of CHANGES that it certainly includes. Reading begins after
// the lowest of them: what a page includes beyond its position comes again, and
// is recognised by its number. What is interrupted begins again.
func (w *watcher) present(ctx context.Context) error {
	clear(w.seen)
	position := uint64(0)
	for q := (events.PresentQuery{Filter: w.o.Filter}); ; {
		var page events.PresentAnswer
		if err := w.c.request(ctx, events.PresentRequest, q, &page); err != nil {
			return fmt.Errorf("ask for the present state: %w", err)
		}
		w.began = true
		if position == 0 || page.Position < position {
			position = page.Position
		}
		for _, b := range page.Events {
			if err := w.isNow(b, page.Position); err != nil {
				return err
			}
		}
		if page.Next == nil {
			break
		}
		q.After = page.Next
	}
	w.next, w.resume, w.mark = position+1, true, false
	return w.say(Change{Complete: true, Position: position}, nil)
}

// isNow yields how a check or host is.
func (w *watcher) isNow(b []byte, position uint64) error {
	e, err := events.Decode(b)
	if err != nil {
		return fmt.Errorf("read the present state: %w", err)
	}
	ch := Change{Event: e, Present: true}
	if err := events.DataAs(e, &ch.Transition); err != nil {
		return fmt.Errorf("read the present state: %w", err)
	}
	t := ch.Transition
	w.seen[events.StatusSubject(t.Host, t.Check)] = seen{t.Number, position}
	return w.say(ch, nil)
}
