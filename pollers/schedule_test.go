package pollers_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
	"pgregory.net/rapid"
)

// The schedule is a contract between workers of different versions.
func TestScheduleIsFixed(t *testing.T) {
	is := is.New(t)
	s := pollers.NewSchedule("web01.example.com", "db", 10*time.Second)
	is.Equal(s.Next(1_800_000_000_000), int64(1_800_000_008_714))
	is.Equal(s.Every(), 10*time.Second)
}

func TestScheduleProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		every := rapid.Int64Range(0, 1e9).Draw(t, "interval in ms")
		now := rapid.Int64Range(-1e13, 1e13).Draw(t, "now")
		s := pollers.NewSchedule("h", rapid.String().Draw(t, "check"), time.Duration(every)*time.Millisecond)
		last, next := s.Last(now), s.Next(now)
		step := max(every, 1)
		if last > now || next <= now || next-last != step {
			t.Fatalf("last %d, now %d, next %d", last, now, next)
		}
		if s.Last(last) != last || s.Next(last) != next {
			t.Fatal("a due time is its own last")
		}
		n := rapid.Int64Range(0, 1000).Draw(t, "n")
		if s.Missed(last, last+n*step) != n || s.Missed(now, now) != 0 || s.Missed(next, last) != 0 {
			t.Fatal("missed")
		}
	})
}

func TestScheduleSpreads(t *testing.T) {
	is := is.New(t)
	const checks, interval = 10_000, 10_000
	var seconds [interval / 1000]int
	for i := range checks {
		s := pollers.NewSchedule("web01", fmt.Sprintf("check-%d", i), interval*time.Millisecond)
		seconds[s.Next(0)%interval/1000]++
	}
	for _, n := range seconds {
		is.True(n > 850 && n < 1150) // a thousand in each second
	}
}

func TestRetryPause(t *testing.T) {
	for name, tt := range map[string]struct {
		n        int
		interval time.Duration
		want     time.Duration
	}{
		"the first":             {1, 10 * time.Second, 250 * time.Millisecond},
		"the second":            {2, 10 * time.Second, 500 * time.Millisecond},
		"the sixth":             {6, 10 * time.Second, 8 * time.Second},
		"never above":           {7, 10 * time.Second, 10 * time.Second},
		"a short interval":      {1, 50 * time.Millisecond, 50 * time.Millisecond},
		"no overflow":           {math.MaxInt, time.Duration(math.MaxInt64), firstRetry << 32},
		"none failed, the same": {0, 10 * time.Second, 250 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			is.Equal(pollers.RetryPause(tt.n, tt.interval), tt.want)
		})
	}
}

const firstRetry = 250 * time.Millisecond
