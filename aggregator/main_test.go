package aggregator

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raceEnabled is set in binaries with the race detector.
var raceEnabled bool

// skipUnderRace is for tests that demand a time which the race detector, several
// times slower, cannot keep on a busy machine. They run without it.
func skipUnderRace(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("too slow with the race detector for the time that this test demands; it runs without it")
	}
}
