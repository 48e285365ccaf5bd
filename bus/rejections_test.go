package bus

import (
	"fmt"
	"testing"
	"time"

	"github.com/matryer/is"
)

// Whoever sends what is refused on ever other subjects is told of a hundred times a
// second; the rest is counted.
func TestRejectionsInAll(t *testing.T) {
	is := is.New(t)
	var r rejections
	now, told := time.Now(), 0
	for i := range 10 * maxTold {
		if _, tell := r.admit(fmt.Sprint(i), now); tell {
			told++
		}
	}
	is.Equal(told, maxTold)
	more, tell := r.admit(fmt.Sprint(2*maxTold), now.Add(time.Second))
	is.True(tell)
	is.Equal(more, uint64(1))
}
