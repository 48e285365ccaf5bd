package pollers

import (
	"testing"
	"time"

	"github.com/matryer/is"
)

func TestWindow(t *testing.T) {
	is := is.New(t)
	var w window
	sum, length := w.sum(1_000_000)
	is.Equal(sum, windowSlot{})
	is.Equal(length, time.Duration(0))

	count := func(now, late int64) {
		s := w.at(now)
		s.polls++
		s.late = max(s.late, late)
	}
	count(1_000_000, 70)
	count(1_001_000, 30)
	count(1_010_000, 50)
	sum, length = w.sum(1_010_000)
	is.Equal(sum.polls, uint64(3))
	is.Equal(sum.late, int64(70))
	is.Equal(length, 10*time.Second) // since the first count

	sum, length = w.sum(1_064_999)
	is.Equal(sum.polls, uint64(1)) // those of a minute ago are forgotten
	is.Equal(sum.late, int64(50))
	is.Equal(length, 59_999*time.Millisecond) // a minute at most
	count(1_070_000, 1)
	sum, _ = w.sum(1_070_000)
	is.Equal(sum.polls, uint64(1)) // the slot of a minute ago is used again
	sum, _ = w.sum(2_000_000)
	is.Equal(sum.polls, uint64(0))
}
