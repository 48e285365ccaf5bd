package events

import (
	"fmt"
	"strconv"
	"time"
)

// Report is the data of [TypeReport]: what one worker found in several polls of
// the hosts of one partition. It is how results travel that are no news, so that
// a thousand checks that are as they were do not cost a thousand messages.
type Report struct {
	Worker  string       `json:"worker"`
	Pool    string       `json:"pool"`
	Results []PollResult `json:"results"`
}

// PollResult is one result of a [Report], at most one of each check. Worker and
// pool of the result itself are empty: they are those of the report.
type PollResult struct {
	Host   string `json:"host"`
	Check  string `json:"check"`
	Time   Time   `json:"time"` // when it was observed
	Result Result `json:"result"`
}

// Limits of results that travel in a report.
const (
	MaxReport         = 1000             // results of a report
	MaxReportBytes    = 128 << 10        // of all but the last together, by PollResult.Size: with that one, too, it is no more than MaxEvent
	MaxReportInterval = 15 * time.Second // between the polls of a check; what is polled less often travels alone
)

// ReportWindow is how far back reports have to be read to know the last result
// of every check: who was silent for longer has missed three intervals, so that
// it was told already.
const ReportWindow = 4 * MaxReportInterval

// Size is how many bytes p has in a report at most.
func (p PollResult) Size() int {
	const around, escaped = 320, 6 // names of members, times and numbers; a byte that JSON escapes
	return around + escaped*(len(p.Host)+len(p.Check)+len(p.Result.Message)) + len(p.Result.Document)
}

// DecodeReport reads a structured CloudEvent of [TypeReport]. Worker and pool
// are set in each result; documents are parts of b. The error wraps [ErrEvent],
// [ErrResult], [ErrStatus] or [ErrName].
func DecodeReport(b []byte) (id string, r Report, err error) {
	var v view
	if v.parse(b) && string(v.kind) == TypeReport && parseReport(v.data, &r) {
		id = string(v.id)
	} else if id, r, err = decodeReport(b); err != nil {
		return id, Report{}, err
	}
	for i := range r.Results {
		p := &r.Results[i]
		if host, err := ParseHost(p.Host); err != nil || host != p.Host {
			return id, Report{}, fmt.Errorf("%w: host %q of a report", ErrName, Cut(p.Host, 64))
		}
		if _, err := ParseCheck(p.Check); err != nil {
			return id, Report{}, err
		}
		p.Result.Worker, p.Result.Pool = r.Worker, r.Pool
	}
	return id, r, nil
}

// decodeReport is [DecodeReport] for events that are not plain.
func decodeReport(b []byte) (id string, r Report, err error) {
	e, err := Decode(b)
	if err != nil {
		return "", r, err
	}
	if e.Type() != TypeReport {
		return e.ID(), r, otherType(e, TypeReport)
	}
	return e.ID(), r, DataAs(e, &r)
}

// appendReport appends r as [marshal] writes it; ok is false where r is unusual.
func appendReport(b []byte, r Report) (_ []byte, ok bool) {
	if r.Results == nil {
		return b, false
	}
	if b, ok = appendText(append(b, `{"worker":`...), r.Worker); !ok {
		return b, false
	}
	if b, ok = appendText(append(b, `,"pool":`...), r.Pool); !ok {
		return b, false
	}
	b = append(b, `,"results":[`...)
	for i, p := range r.Results {
		if i > 0 {
			b = append(b, ',')
		}
		if b, ok = appendPollResult(b, p); !ok {
			return b, false
		}
	}
	return append(b, `]}`...), true
}

func appendPollResult(b []byte, p PollResult) (_ []byte, ok bool) {
	if y := p.Time.UTC().Year(); p.Time.IsZero() || y < 1 || y > 9999 {
		return b, false
	}
	if b, ok = appendText(append(b, `{"host":`...), p.Host); !ok {
		return b, false
	}
	if b, ok = appendText(append(b, `,"check":`...), p.Check); !ok {
		return b, false
	}
	b = p.Time.UTC().AppendFormat(append(b, `,"time":"`...), milliLayout)
	if b, ok = appendResult(append(b, `","result":`...), p.Result); !ok {
		return b, false
	}
	return append(b, '}'), true
}

// parseReport reads a plain report, and is false for any other.
func parseReport(b []byte, r *Report) bool {
	seen, bit := 0, 0
	end := object(b, 0, func(name []byte, i int) int {
		switch string(name) {
		case "worker":
			bit = 1
			r.Worker, i = stringAt(b, i)
		case "pool":
			bit = 2
			r.Pool, i = stringAt(b, i)
		case "results":
			bit = 4
			r.Results, i = pollResultsAt(b, i)
		default:
			return -1
		}
		return once(&seen, bit, i)
	})
	return end == len(b) && seen == 7
}

func pollResultsAt(b []byte, i int) (results []PollResult, end int) {
	const shortest = 128 // bytes of a result, about: what is allocated is in proportion to what came
	results = make([]PollResult, 0, min(len(b)/shortest+1, MaxReport))
	end = list(b, i, func(i int) int {
		results = append(results, PollResult{})
		return pollResultAt(b, i, &results[len(results)-1])
	})
	return results, end
}

func pollResultAt(b []byte, i int, p *PollResult) (end int) {
	seen, bit := 0, 0
	end = object(b, i, func(name []byte, i int) int {
		switch string(name) {
		case "host":
			bit = 1
			p.Host, i = stringAt(b, i)
		case "check":
			bit = 2
			p.Check, i = stringAt(b, i)
		case "time":
			bit = 4
			p.Time.Time, i = timeAt(b, i)
		case "result":
			bit = 8
			i = resultAt(b, i, &p.Result)
		default:
			return -1
		}
		return once(&seen, bit, i)
	})
	if seen != 15 {
		return -1
	}
	return end
}

// once notes that the member of a bit was seen, and returns end; -1 where it was
// seen before.
func once(seen *int, bit, end int) int {
	if *seen&bit != 0 {
		return -1
	}
	*seen |= bit
	return end
}

// stringAt reads the plain string that begins at i; end is -1 for any other.
func stringAt(b []byte, i int) (s string, end int) {
	if end = skipString(b, i); end < 0 {
		return "", -1
	}
	s, ok := plainString(b[i:end])
	if !ok {
		return "", -1
	}
	return s, end
}

// timeAt is stringAt for a time.
func timeAt(b []byte, i int) (t time.Time, end int) {
	if end = skipString(b, i); end < 0 {
		return t, -1
	}
	t, ok := parseTime(b[i+1 : end-1])
	if !ok {
		return t, -1
	}
	return t, end
}

// ReportSubjects is the pattern of the subjects of reports.
const ReportSubjects = root + "report.*.*.*"

// ReportSubject is where a worker publishes reports of one partition of hosts.
// The partition stands where the stream puts it in the subject of a single result.
func ReportSubject(partition int, pool, worker string) string {
	return root + "report." + strconv.Itoa(partition) + "." + Token(pool) + "." + Token(worker)
}

// PartitionReports is the pattern of the reports of one partition.
func PartitionReports(p int) string { return root + "report." + strconv.Itoa(p) + ".>" }
