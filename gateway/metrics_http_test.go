package gateway

import (
	"strings"
	"testing"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/events"
)

// What is scraped: the local host and this process on /metrics, all hosts on
// /metrics/hosts, in both text formats.
func TestMetricsOverHTTP(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.registered("a/é", `"http://x/"`, events.Result{Status: events.Warning, Message: "w"})
	is.Equal(r.do("PUT", "/hosts/web02/checks/b", `{"url": "http://x/"}`).code, 201)
	got := r.get("/metrics")
	is.Equal(got.code, 200)
	is.True(strings.HasPrefix(got.header.Get("Content-Type"), "text/plain"))
	for _, line := range []string{
		`megaphone_host_status{host="web01",status="warning"} 1`,
		`megaphone_host_status{host="web01",status="ok"} 0`,
		`megaphone_check_status{check="a/é",host="web01",status="warning"} 1`,
		`megaphone_check_transitions_total{check="a/é",host="web01"} 1`,
		`megaphone_check_last_result_timestamp_seconds{check="a/é",host="web01"} `,
		`megaphone_bus_connected 1`,
		`megaphone_view_age_seconds 0`,
		`version="1.2.3"`,
		"go_goroutines ", "process_start_time_seconds ",
	} {
		is.True(strings.Contains(got.body, line)) // the line is there
	}
	is.True(!strings.Contains(got.body, "web02")) // the local host alone

	fleet := r.get("/metrics/hosts").body
	is.True(strings.Contains(fleet, `megaphone_host_status{host="web01",status="warning"} 1`))
	is.True(strings.Contains(fleet, `megaphone_host_status{host="web02",status="unknown"} 1`))
	is.True(!strings.Contains(fleet, "go_goroutines"))

	open := r.do("GET", "/metrics", "", "Accept", "application/openmetrics-text; version=1.0.0")
	is.True(strings.HasPrefix(open.header.Get("Content-Type"), "application/openmetrics-text"))
	is.True(strings.HasSuffix(open.body, "# EOF\n"))
}
