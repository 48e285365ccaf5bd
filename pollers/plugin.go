package pollers

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/looprock/megaphone/events"
)

// Plugin is what a Nagios plugin said.
type Plugin struct {
	ExitCode   int           `json:"exit_code"`
	Output     string        `json:"output"`                // the first line, without performance data
	LongOutput string        `json:"long_output,omitempty"` // the lines after it
	Perfdata   []Measurement `json:"perfdata,omitempty"`
}

// Measurement is one value of a plugin's performance data. Value is nil where
// the plugin said that it is not known; ranges are as the plugin wrote them.
type Measurement struct {
	Label    string   `json:"label"`
	Value    *float64 `json:"value"`
	Unit     string   `json:"unit,omitempty"`
	Warning  string   `json:"warning,omitempty"`
	Critical string   `json:"critical,omitempty"`
	Min      string   `json:"min,omitempty"`
	Max      string   `json:"max,omitempty"`
}

// maxPerfdata is how many values are kept.
const maxPerfdata = 200

// ReadPlugin reads what a plugin printed: text, a bar, performance data; then
// lines of long text, in the last of which more performance data may begin.
func ReadPlugin(code int, out string) Plugin {
	first, rest, _ := strings.Cut(strings.TrimRight(strings.ReplaceAll(out, "\r\n", "\n"), "\n"), "\n")
	text, perf, _ := strings.Cut(first, "|")
	long, more, _ := strings.Cut(rest, "|")
	return Plugin{
		ExitCode: code, Output: strings.TrimSpace(text), LongOutput: strings.TrimSpace(long),
		Perfdata: perfdata(perf + " " + more),
	}
}

// fit shortens what is too long for a document: JSON writes some characters, such
// as the < of HTML, in six bytes. Texts go first.
func (p Plugin) fit() Plugin {
	for keep := maxOutput; ; keep /= 2 {
		if b, err := json.Marshal(p); err != nil || len(b) <= events.MaxDocument {
			return p
		}
		p.Output, p.LongOutput = events.Cut(p.Output, keep), events.Cut(p.LongOutput, keep)
		if keep < maxErrors {
			p.Perfdata = p.Perfdata[:len(p.Perfdata)/2]
		}
	}
}

// Status maps the exit code: 0 OK, 1 Warning, 2 Critical; 3 and everything else
// is Unknown.
func (p Plugin) Status() events.Status {
	switch p.ExitCode {
	case 0:
		return events.OK
	case 1:
		return events.Warning
	case 2:
		return events.Critical
	}
	return events.Unknown
}

// perfdata reads 'label'=value[unit];warning;critical;min;max, separated by
// blanks. What is not in that form is left out.
func perfdata(s string) (list []Measurement) {
	for len(list) < maxPerfdata {
		s = strings.TrimLeft(s, " \t\n")
		if s == "" {
			break
		}
		label, rest, ok := perfLabel(s)
		end := strings.IndexAny(rest, " \t\n")
		if end < 0 {
			end = len(rest)
		}
		if m, good := measurement(label, rest[:end]); ok && good {
			list = append(list, m)
		}
		s = rest[end:]
	}
	return list
}

// perfLabel splits the label off; in quotes it may hold blanks, and two quotes
// stand for one.
func perfLabel(s string) (label, rest string, ok bool) {
	if !strings.HasPrefix(s, "'") {
		end := strings.IndexAny(s, "= \t\n")
		if end <= 0 || s[end] != '=' {
			return "", s, false
		}
		return s[:end], s[end+1:], true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '\'':
			b.WriteByte(s[i])
		case strings.HasPrefix(s[i:], "''"):
			b.WriteByte('\'')
			i++
		case strings.HasPrefix(s[i:], "'="):
			return b.String(), s[i+2:], b.Len() > 0
		default:
			return "", s[i+1:], false
		}
	}
	return "", "", false
}

func measurement(label, s string) (m Measurement, ok bool) {
	fields := append(strings.Split(s, ";"), "", "", "", "")
	number := strings.TrimRightFunc(fields[0], func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	m = Measurement{
		Label: label, Unit: fields[0][len(number):], Warning: fields[1], Critical: fields[2], Min: fields[3], Max: fields[4],
	}
	if fields[0] == "U" {
		m.Unit = ""
		return m, true
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || v != v || v > 1e300 || v < -1e300 {
		return m, false
	}
	m.Value = &v
	return m, true
}
