package aggregator

import (
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// A first push is older, on the bus, than the registration that it makes; it
// counts all the same, whatever it says.
func TestFirstPushIsOlderThanItsRegistration(t *testing.T) {
	for _, status := range events.Statuses() {
		is := is.New(t)
		b := &bench{}
		b.levels(Levels{Registration: &events.Registration{TTL: events.Duration(PushKept), Origin: OriginPush}, Position: 1}, 1)
		b.push(status, 0, 0.5)
		is.Equal(b.s.Phase, events.Live)
		is.Equal(b.s.Status, status)
		is.Equal(len(b.told), 1)
	}
}
