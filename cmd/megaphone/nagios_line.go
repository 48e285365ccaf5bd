package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/looprock/megaphone/events"
)

// finding is what the plugin found out about a host or check.
type finding struct {
	name        string // of the host, or of check and host
	status      events.Status
	maintenance bool
	message     string
	counts      *events.Counts // of a host; nil where unknown
	age         *float64       // seconds
}

// line is the plugin's output: text, "|", figures.
func (d finding) line(shown events.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s - %s: ", nagiosTable[shown].word, plain(d.name))
	text := plain(d.message)
	if d.maintenance {
		fmt.Fprintf(&b, "maintenance, %s without it: ", d.status)
	}
	if c := d.counts; c != nil && !d.maintenance {
		var parts []string
		for _, n := range []struct {
			count int
			word  string
		}{{c.Critical, "critical"}, {c.Warning, "warning"}, {c.Unknown, "unknown"}, {c.Pending, "pending"}} {
			if n.count > 0 {
				parts = append(parts, strconv.Itoa(n.count)+" "+n.word)
			}
		}
		if len(parts) > 0 {
			text = fmt.Sprintf("%s of %d (%s)", strings.Join(parts, ", "), total(*c), partsOf(d.message))
		}
	}
	b.WriteString(text)
	if figures := d.figures(); figures != "" {
		b.WriteString(" | " + figures)
	}
	return b.String()
}

// partsOf writes the original's joined message for people.
func partsOf(message string) string {
	parts := strings.Split(message, "|")
	for i, part := range parts {
		for _, s := range []string{":Unknown:", ":Warning:", ":Critical:"} {
			if id, text, ok := strings.Cut(part, s); ok {
				part = id + ": " + text
				break
			}
		}
		parts[i] = plain(part)
	}
	return strings.Join(parts, "; ")
}

func total(c events.Counts) int { return c.OK + c.Unknown + c.Warning + c.Critical + c.Pending }

// figures are performance data as the plugin guidelines have them,
// label=value[unit];[warn];[crit];[min];[max], and as Nagios, Icinga and Checkmk
// read them: one check that is Warning makes its host so, one that is Critical too.
func (d finding) figures() string {
	var parts []string
	if c := d.counts; c != nil {
		n := total(*c)
		parts = append(
			parts, fmt.Sprintf("checks=%d;;;0 ok=%d;;;0;%d", n, c.OK, n),
			fmt.Sprintf("warning=%d;0;;0;%d critical=%d;;0;0;%d unknown=%d;;;0;%d", c.Warning, n, c.Critical, n, c.Unknown, n),
		)
	}
	if d.age != nil {
		parts = append(parts, "age="+strconv.FormatFloat(*d.age, 'f', 1, 64)+"s;;;0")
	}
	return strings.Join(parts, " ")
}

// countMessage counts the parts id:Status:text of a message joined by "|". A
// text may hold "|" itself; then what follows it is no part unless it begins
// with an id that is registered.
func countMessage(message string, checks map[string]json.RawMessage) events.Counts {
	told := map[string]events.Status{}
	for part := range strings.SplitSeq(message, "|") {
		for _, s := range []events.Status{events.Unknown, events.Warning, events.Critical} {
			id, _, ok := strings.Cut(part, ":"+s.String()+":")
			if _, known := checks[id]; ok && known {
				told[id] = s
			}
		}
	}
	var c events.Counts
	for id := range checks {
		switch told[id] { // the zero value is Unknown: look whether it was told
		case events.Warning:
			c.Warning++
		case events.Critical:
			c.Critical++
		default:
			if _, ok := told[id]; ok {
				c.Unknown++
			} else {
				c.OK++
			}
		}
	}
	return c
}

// plain makes a text fit for the one line before the figures.
func plain(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" })
	return strings.ReplaceAll(strings.Join(lines, "; "), "|", "/")
}
