package aggregator

import (
	"context"
	"testing"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/events"
)

// A bus that goes away just when what waited has been read ends the tenure, not
// the process: the reader was closed twice, and the aggregator panicked.
func TestPartition_BusGoesAfterTheBacklog(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	p := f.partition("owner", events.Partition("web01"))
	is.NoErr(p.takeOver(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	is.True(p.goLive(ctx) != nil)
	p.close()
}
