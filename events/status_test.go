package events_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func TestStatusOrder(t *testing.T) {
	is := is.New(t)
	all := events.Statuses()
	is.Equal(all, []events.Status{events.OK, events.Unknown, events.Warning, events.Critical})
	for i, s := range all {
		is.Equal(s.Severity(), i)
		for j, o := range all {
			is.Equal(events.Worse(s, o), all[max(i, j)])
		}
	}
	var zero events.Status
	is.Equal(zero, events.Unknown) // nothing known is never OK
}

func TestStatusText(t *testing.T) {
	is := is.New(t)
	for _, s := range events.Statuses() {
		b, err := json.Marshal(s)
		is.NoErr(err)
		var back events.Status
		is.NoErr(json.Unmarshal(b, &back))
		is.Equal(back, s)
	}
	for _, bad := range []string{"ok", "", "CRITICAL", "OK "} {
		_, err := events.ParseStatus(bad)
		is.True(errors.Is(err, events.ErrStatus)) // case matters
	}
}
