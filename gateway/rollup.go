package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
)

// A roll-up is a choice of hosts that a prober sees as one, which is as its worst
// host is: "rollup:WORD[,WORD...][?policy]". A word is host=PATTERN, or a label of
// the host, KEY=VALUE or KEY, escaped as in a URL where it holds "," "?" or "%".
// All words hold.

const rollupPrefix = "rollup:"

// Limits of roll-ups.
const (
	maxRollups = 32                     // watched at the same time; who watches the same one shares it
	rollupScan = presentScan            // hosts looked at, with the view locked
	rollupTime = 100 * time.Microsecond // how long an answer is kept, for each host looked at; grpcLook at most
)

// rollup is a choice of hosts, and how a prober wants to see them.
type rollup struct {
	name   string
	filter events.Filter
	policy policy
}

// parseRollup reads a name that begins with rollupPrefix.
func parseRollup(name string) (*rollup, error) {
	if len(name) > agentLine {
		return nil, refuse(http.StatusBadRequest, "the name has more than %d bytes", agentLine)
	}
	selector, query, _ := strings.Cut(strings.TrimPrefix(name, rollupPrefix), "?")
	p, err := parsePolicy(query)
	if err != nil {
		return nil, err
	}
	words := events.FilterWords{Hosts: true}
	for word := range strings.SplitSeq(selector, ",") {
		if word, err = url.PathUnescape(word); err != nil {
			return nil, refuse(http.StatusBadRequest, "a roll-up: %v", err)
		}
		pattern, isHost := strings.CutPrefix(word, "host=")
		switch {
		case !isHost:
			words.Labels = append(words.Labels, word)
		case pattern == "" || words.Host != "":
			return nil, refuse(http.StatusBadRequest, "a roll-up has host=PATTERN once, such as host=* for all")
		default:
			words.Host = pattern
		}
	}
	f, err := events.ParseFilter(words)
	if err != nil {
		return nil, err
	}
	return &rollup{name, f, p}, nil
}

// rollups holds answers about roll-ups for others who ask the same, and counts
// those that are watched: what a look costs grows with the number of hosts.
type rollups struct {
	mu      sync.Mutex // held during a look: there is one at a time
	kept    map[string]keptRollup
	watched map[string]int
}

type keptRollup struct {
	worst verdict
	view  *View
	until time.Time
}

// watch counts a reader of r until leave is called. It is an error where too many
// others are watched.
func (c *rollups) watch(r *rollup) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watched[r.name] == 0 && len(c.watched) >= maxRollups {
		return nil, refuse(http.StatusServiceUnavailable, "%d roll-ups are watched already: ask for this one by Check", maxRollups)
	}
	if c.watched == nil {
		c.watched = map[string]int{}
	}
	c.watched[r.name]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.watched[r.name]--; c.watched[r.name] == 0 {
			delete(c.watched, r.name)
		}
	}, nil
}

// rolledUp is the worst verdict on the hosts of r, absent where there is none.
func (s *Server) rolledUp(r *rollup, now time.Time) verdict {
	c := &s.rollups
	c.mu.Lock()
	defer c.mu.Unlock()
	v := s.seen()
	if k, ok := c.kept[r.name]; ok && k.view == v && now.Before(k.until) {
		return k.worst
	}
	worst, looked := s.lookAt(v, r, now)
	c.keep(r.name, keptRollup{worst, v, now.Add(min(time.Duration(looked)*rollupTime, grpcLook))}, now)
	return worst
}

// keep keeps maxRollups answers at most, those that hold.
func (c *rollups) keep(name string, k keptRollup, now time.Time) {
	if c.kept == nil {
		c.kept = map[string]keptRollup{}
	}
	delete(c.kept, name)
	if len(c.kept) >= maxRollups {
		for name, k := range c.kept {
			if !now.Before(k.until) {
				delete(c.kept, name)
			}
		}
	}
	if len(c.kept) < maxRollups {
		c.kept[name] = k
	}
}

// lookAt looks at all hosts. Before the view is complete there may be more of
// them, of which nothing is known.
func (s *Server) lookAt(v *View, r *rollup, now time.Time) (worst verdict, looked int) {
	worst = absent
	take := func(seen *sight) {
		if next := r.policy.decide(seen, now); worst == absent || next > worst {
			worst = next
		}
	}
	select {
	case <-s.follower.Ready():
	default:
		take(&sight{status: events.Unknown, phase: events.Pending})
	}
	for after, more := "", true; more; {
		var names []string
		var n int
		names, n, after = v.chooseHosts(r.filter, after)
		looked, more = looked+n, after != ""
		for _, name := range names {
			if seen, ok := v.sightHost(name, now); ok {
				take(&seen)
			}
		}
	}
	return worst, looked
}

// chooseHosts returns those of the next hosts after a name that f chooses, how
// many it looked at, and the name after which to go on, empty where there is no
// more.
func (v *View) chooseHosts(f events.Filter, after string) (chosen []string, looked int, next string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	names := v.sortedNames()
	from, found := slices.BinarySearch(names, after)
	if found {
		from++
	}
	names = names[from:]
	if len(names) > rollupScan {
		names = names[:rollupScan]
		next = names[rollupScan-1]
	}
	labels := HostFilter{Labels: f.Labels}
	for _, name := range names {
		if labels.matches(v.hosts[name]) && f.MatchName(name, "") {
			chosen = append(chosen, name)
		}
	}
	return chosen, len(names), next
}
