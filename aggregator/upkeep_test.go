package aggregator

import (
	"testing"
	"time"

	"github.com/matryer/is"
)

// Between two times of upkeep nothing that is written nowhere else may leave
// RESULTS, however fast that is filled.
func TestUpkeepIsNeeded(t *testing.T) {
	now := time.Now()
	last := upkeep{due: now.Add(time.Minute), first: 1000, half: 2000}
	for name, tt := range map[string]struct {
		last  upkeep
		now   time.Time
		first uint64
		want  bool
	}{
		"nothing is forgotten":             {last, now, 1000, false},
		"a little is forgotten":            {last, now, 1500, false},
		"a flood: half of the older half":  {last, now, 1501, true},
		"a minute later":                   {last, now.Add(time.Minute + 1), 1000, true},
		"RESULTS is not known yet":         {upkeep{due: last.due}, now, 0, false},
		"it is, for the first time":        {upkeep{due: last.due}, now, 1000, true},
		"taken over, and nothing happened": {upkeep{due: last.due, first: 1000, half: 1000}, now, 1000, false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			is.Equal(tt.last.needed(tt.now, tt.first), tt.want)
		})
	}
}
