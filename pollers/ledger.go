package pollers

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
)

// ledger is what was discovered on a host, by the id of its check. It is pure:
// looks go in, what is to be registered and deregistered comes out.
type ledger map[string]*discovered

// discovered is a check that was discovered.
type discovered struct {
	Rule         string              `json:"rule"`
	Registration events.Registration `json:"registration"`

	gone    time.Time // since when it is not there; zero while it is
	orphan  bool      // its rule does not exist any more
	adopted bool      // known from the bus alone, where anyone may write
	yields  bool      // somebody else has registered its id since
}

// ruleSet is all rules, in the order of their files.
type ruleSet struct {
	rules    []*rule
	complete bool // no file is broken: a rule that is not there does not exist
}

func (s ruleSet) index(name string) int {
	return slices.IndexFunc(s.rules, func(r *rule) bool { return r.Name == name })
}

// faults are what is wrong, by what it is about.
type faults map[string]error

// see enters a look at each rule. It returns what is wrong with them, and what
// has come and gone.
func (l ledger) see(now time.Time, set ruleSet, looks []look) (bad faults, news []string) {
	bad = faults{}
	there := map[string]bool{}
	for i, r := range set.rules {
		claims, err := r.claims(looks[i].things, l)
		for _, reg := range claims {
			if owner := l.owner(reg.ID, set); owner != "" && (owner != r.Name || there[reg.ID]) {
				err = cmp.Or(err, fmt.Errorf("check %q is also of rule %s, which has it", reg.ID, owner))
				continue
			}
			there[reg.ID] = true
			if f := l[reg.ID]; f == nil || !f.gone.IsZero() || f.adopted {
				news = append(news, fmt.Sprintf("rule %s found %q", r.Name, reg.ID))
			}
			yields := l[reg.ID] != nil && l[reg.ID].yields
			l[reg.ID] = &discovered{Rule: r.Name, Registration: reg, yields: yields}
		}
		if err = cmp.Or(err, looks[i].err); err != nil && !errors.Is(err, errEarly) {
			bad["rule "+r.Name] = err
		}
	}
	for id, f := range l {
		if there[id] {
			continue
		}
		i := set.index(f.Rule)
		f.orphan = i < 0 && set.complete
		if f.gone.IsZero() && i >= 0 && looks[i].err == nil {
			f.gone = now
			if !f.adopted {
				news = append(news, fmt.Sprintf("rule %s misses %q", f.Rule, id))
			}
		}
	}
	slices.Sort(news)
	return bad, news
}

// owner is the rule that has a check; empty where none has that still exists.
func (l ledger) owner(id string, set ruleSet) string {
	if f := l[id]; f != nil && set.index(f.Rule) >= 0 {
		return f.Rule
	}
	return ""
}

// claims are the registrations that a rule makes of things, by id, MaxFound at
// most: those that it has made before first. The error is about the others.
func (r *rule) claims(things []thing, have ledger) ([]events.Registration, error) {
	all := map[string]events.Registration{}
	var err error
	for _, t := range things {
		reg, bad := r.registration(t)
		if first, ok := all[reg.ID]; bad == nil && ok && !first.Equal(reg) {
			bad = fmt.Errorf("check %q would be two: an id that holds {pid}, {port} or {id} tells them apart", reg.ID)
		} else if bad == nil {
			all[reg.ID] = reg
			continue
		}
		err = cmp.Or(err, bad)
	}
	list := slices.SortedFunc(maps.Values(all), func(a, b events.Registration) int {
		return cmp.Or(cmp.Compare(have.rank(a.ID), have.rank(b.ID)), strings.Compare(a.ID, b.ID))
	})
	if len(list) > MaxFound {
		err = fmt.Errorf("it finds more than %d checks: %q and those after it are not registered", MaxFound, list[MaxFound].ID)
		list = list[:MaxFound]
	}
	return list, err
}

// rank orders what is known before what is new.
func (l ledger) rank(id string) int {
	if l[id] != nil {
		return 0
	}
	return 1
}

// step is something to do: register, or with a reason deregister.
type step struct {
	registration events.Registration
	reason       string
}

// steps returns what makes the registry equal to the ledger. registered is what
// the registry has under an id.
func (l ledger) steps(now time.Time, set ruleSet, registered func(id string) (events.Registration, bool), bad faults) []step {
	var all []step
	for _, id := range slices.Sorted(maps.Keys(l)) {
		f := l[id]
		there, ok := registered(id)
		f.yields = ok && foreign(there)
		reason := f.ends(now, set)
		switch {
		case !f.gone.IsZero() && (f.yields || !ok), f.orphan && (f.yields || !ok):
			delete(l, id) // somebody has dealt with it
		case f.yields:
			bad["check "+id] = fmt.Errorf("rule %s found it, but it is registered already (origin %s): that is left alone", f.Rule, cmp.Or(there.Origin, "unknown"))
		case reason != "":
			all = append(all, step{f.Registration, reason})
		case !f.adopted && (!ok || there.Origin != f.Registration.Origin || !there.Equal(f.Registration)):
			all = append(all, step{registration: f.Registration})
		}
	}
	return all
}

// foreign reports whether somebody else than discovery registered a check.
func foreign(r events.Registration) bool {
	return !strings.HasPrefix(r.Origin, events.OriginDiscovered)
}

// ends says why a check is to be deregistered; empty where it stays.
func (f *discovered) ends(now time.Time, set ruleSet) string {
	if f.orphan {
		return "its rule " + f.Rule + " is gone"
	}
	i := set.index(f.Rule)
	if i < 0 || f.gone.IsZero() {
		return ""
	}
	if r := set.rules[i]; r.Gone == GoneDeregister && now.Sub(f.gone) >= r.Grace.D() {
		return "it vanished, and the grace of " + r.Grace.String() + " is over"
	}
	return ""
}

// readLedger reads what encode wrote. Entries that are not this host's, or not
// valid any more, are left out.
func readLedger(b []byte, host string) (ledger, error) {
	l := ledger{}
	if len(b) == 0 {
		return l, nil
	}
	var list []*discovered
	if err := json.Unmarshal(b, &list); err != nil {
		return l, err
	}
	for _, f := range list {
		if f == nil {
			continue
		}
		r := f.Registration
		if r.Host == host && r.Origin == events.OriginDiscovered+f.Rule && r.ValidateStrict() == nil {
			l[r.ID] = f
		}
	}
	return l, nil
}

// encode is what readLedger reads, ordered by id.
func (l ledger) encode() ([]byte, error) {
	list := []*discovered{}
	for _, id := range slices.Sorted(maps.Keys(l)) {
		if !l[id].adopted {
			list = append(list, l[id])
		}
	}
	b, err := json.MarshalIndent(list, "", " ")
	return append(b, '\n'), err
}
