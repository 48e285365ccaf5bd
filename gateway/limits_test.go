package gateway

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// docs/limits.md has the numbers of the code.
func TestLimitsAreDocumented(t *testing.T) {
	is := is.New(t)
	b, err := os.ReadFile("../docs/limits.md")
	is.NoErr(err)
	text := strings.Join(strings.Fields(string(b)), " ")
	for what, limit := range map[string]string{
		"connections":                        grouped(maxConns) + " at the same time",
		"requests on one connection, HTTP/2": fmt.Sprint(maxRequests, " at"), "header, with the path and query": fmt.Sprint(maxHeader>>10, " KiB"),
		"time to send a header": fmt.Sprint(headerTime.Seconds(), " s"), "time between two requests of a connection": fmt.Sprint(idleTime.Minutes(), " min"),
		"body": fmt.Sprint(maxBody>>10, " KiB"), "time to send a body": fmt.Sprint(bodyTime.Seconds(), " s"),
		"time to send a body that nobody reads, as that of a refusal": fmt.Sprint(unreadTime.Seconds(), " s"),
		"time to take an answer": fmt.Sprint(writeTime.Seconds(), " s"), "batch of events": fmt.Sprint(grouped(maxBatch), " events, ", maxBatchBytes>>20, " MiB"),
		"policy in a query": fmt.Sprint(maxPolicy, " bytes"), "Accept": fmt.Sprint(grouped(maxAccept), " bytes, ", maxRanges, " media ranges"),
		"hosts in one answer": grouped(maxPage), "readers of `GET /events`": grouped(maxStreams), "transitions that a reader may be behind, in memory": grouped(ringSize),
		"readers that catch up from the stream": fmt.Sprint(maxCatchUps), "time for a reader of events to take a write": fmt.Sprint(streamWrite.Seconds(), " s"),
		"long polls and gRPC's Watch": fmt.Sprint(grouped(maxWaiters), " together, ", maxWait.Minutes(), " min"), "a write's wait for the bus": fmt.Sprint(writeTimeout.Seconds(), " s"),
		"roll-ups under Watch of gRPC":   fmt.Sprint(maxRollups, " different ones"),
		"scrapes of one path of metrics": fmt.Sprint(maxScrapes), "time to end what is under way, after SIGTERM": fmt.Sprint(stopTime.Seconds(), " s"),
		"tokens of `--token-file`": grouped(maxTokens), "the token files": fmt.Sprint(maxTokenFile>>20, " MiB"), "the last view on the disk": fmt.Sprint(maxLastBytes>>20, " MiB"),
	} {
		if row := "| " + what + " | " + limit; !strings.Contains(text, row) {
			t.Errorf("docs/limits.md has no row %q", row)
		}
	}
}

// grouped writes a number as the documentation does: 10,000.
func grouped(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}
