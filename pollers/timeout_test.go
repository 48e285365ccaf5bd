package pollers

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// A place for polls is taken for a time that is bounded, whatever anybody registers.
// What this host's own files say is taken as it is.
func TestTimeoutIsBounded(t *testing.T) {
	is := is.New(t)
	w := New(Config{Host: "web01", Timeout: time.Minute})
	defer w.http.Close()
	timeout := func(addr string, timeout time.Duration) time.Duration {
		url, err := json.Marshal(addr)
		is.NoErr(err)
		task, ok := w.newTask(bus.Entry{Registration: events.Registration{Host: "web01", ID: "x", URL: url, Timeout: events.Duration(timeout)}})
		is.True(ok)
		return task.timeout
	}
	is.Equal(timeout("http://192.0.2.1/", 0), time.Minute)
	is.Equal(timeout("http://192.0.2.1/", 2*time.Minute), 2*time.Minute)
	is.Equal(timeout("http://192.0.2.1/", 1000*time.Hour), MaxTimeout)
	is.Equal(timeout("exec:///usr/lib/slow", time.Hour), time.Hour)
	w.conf.Timeout = time.Hour // which the operator wants
	is.Equal(timeout("http://192.0.2.1/", 1000*time.Hour), time.Hour)
}
