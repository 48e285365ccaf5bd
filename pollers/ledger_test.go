package pollers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// host is a ledger with its registry, and a clock that is moved by hand.
type host struct {
	t     *testing.T
	l     ledger
	set   ruleSet
	reg   map[string]events.Registration
	now   time.Time
	there map[string][]thing // by rule
	err   map[string]error
	bad   faults
	did   []string // by the last step, in order
}

func newHost(t *testing.T, rules ...string) *host {
	h := &host{t: t, l: ledger{}, reg: map[string]events.Registration{}, now: time.Unix(1e9, 0), there: map[string][]thing{}, err: map[string]error{}}
	h.rules(rules...)
	return h
}

func (h *host) rules(rules ...string) {
	h.set = ruleSet{complete: true}
	for _, text := range rules {
		h.set.rules = append(h.set.rules, mustRule(h.t, text))
	}
}

// finds says what a rule finds from now on: units.
func (h *host) finds(rule string, units ...string) {
	h.there[rule] = nil
	for _, u := range units {
		h.there[rule] = append(h.there[rule], thing{"unit": u, "name": strings.TrimSuffix(u, ".service"), "host": "web01"})
	}
}

// after looks once, that much later, does what follows, and says what it was.
func (h *host) after(d time.Duration) string {
	h.t.Helper()
	h.now = h.now.Add(d)
	var looks []look
	for _, r := range h.set.rules {
		looks = append(looks, look{h.there[r.Name], h.err[r.Name]})
	}
	h.bad, _ = h.l.see(h.now, h.set, looks)
	steps := h.l.steps(h.now, h.set, func(id string) (events.Registration, bool) { r, ok := h.reg[id]; return r, ok }, h.bad)
	h.did = nil
	for _, s := range steps {
		id := s.registration.ID
		if s.reason != "" {
			delete(h.reg, id)
			delete(h.l, id)
			h.did = append(h.did, "-"+id)
			continue
		}
		h.reg[id] = s.registration
		h.did = append(h.did, "+"+id)
	}
	return strings.Join(h.did, " ")
}

func (h *host) ids() string { return strings.Join(slices.Sorted(maps.Keys(h.reg)), " ") }

const (
	stays  = `{"rule":"s","unit":"a","register":{"id":"{name}","url":"systemd:{unit}"}}`
	leaves = `{"rule":"l","unit":"a","register":{"id":"{name}","url":"systemd:{unit}"},"gone":"deregister","grace":"10s"}`
)

func TestWhatVanishesStays(t *testing.T) {
	is := is.New(t)
	h := newHost(t, stays)
	h.finds("s", "a.service", "b.service")
	is.Equal(h.after(0), "+a +b")          // at once
	is.Equal(h.after(time.Second), "")     // once
	h.finds("s", "b.service")              //
	is.Equal(h.after(time.Second), "")     // a is gone
	is.Equal(h.after(1000*time.Hour), "")  // and stays, Critical by its polls
	h.finds("s", "a.service", "b.service") //
	is.Equal(h.after(time.Second), "")     // it is back
	h.finds("s", "b.service")              //
	is.Equal(h.after(time.Second), "")     //
	delete(h.reg, "a")                     // somebody deregisters it
	is.Equal(h.after(time.Second), "")     // it is gone: that is what they wanted
	delete(h.reg, "b")                     //
	is.Equal(h.after(time.Second), "+b")   // it is there: it is monitored
	is.Equal(slices.Collect(maps.Keys(h.l)), []string{"b"})
}

func TestWhatVanishesLeaves(t *testing.T) {
	is := is.New(t)
	h := newHost(t, leaves)
	h.finds("l", "a.service")
	is.Equal(h.after(0), "+a")
	h.finds("l")
	is.Equal(h.after(time.Second), "")   // the grace begins
	is.Equal(h.after(9*time.Second), "") //
	h.finds("l", "a.service")            //
	is.Equal(h.after(0), "")             // it was back in time
	h.finds("l")                         //
	is.Equal(h.after(time.Second), "")   // the grace begins anew
	is.Equal(h.after(9*time.Second), "")
	is.Equal(h.after(time.Second), "-a")
	is.Equal(h.after(time.Second), "")
	h.finds("l", "a.service")
	is.Equal(h.after(time.Second), "+a")
}

func TestNothingIsKnown(t *testing.T) {
	is := is.New(t)
	h := newHost(t, leaves)
	h.finds("l", "a.service", "b.service")
	h.after(0)
	h.err["l"] = errors.New("systemd could not be asked")
	h.finds("l", "c.service") // the error says that there may be others
	is.Equal(h.after(time.Hour), "+c")
	is.Equal(h.after(time.Hour), "") // a and b may be there
	is.Equal(h.bad["rule l"], h.err["l"])
	delete(h.err, "l")
	is.Equal(h.after(time.Hour), "") // now they are gone
	is.Equal(h.after(10*time.Second), "-a -b")
	is.Equal(len(h.bad), 0)
}

func TestRuleIsGone(t *testing.T) {
	is := is.New(t)
	h := newHost(t, stays, `{"rule":"z","unit":"z","register":{"id":"z-{name}","ttl":"9s"}}`)
	h.finds("s", "a.service")
	h.finds("z", "z.service")
	is.Equal(h.after(0), "+a +z-z")
	h.rules(stays)
	h.set.complete = false
	is.Equal(h.after(time.Hour), "") // some file is broken: it may be in there
	h.set.complete = true
	is.Equal(h.after(time.Second), "-z-z")
	h.rules(strings.Replace(stays, `"systemd:{unit}"`, `{"addr":"systemd:{unit}","expect_state":"active"}`, 1))
	is.Equal(h.after(time.Second), "+a") // as the rule says now
	h.rules(strings.Replace(stays, `"rule":"s"`, `"rule":"t"`, 1))
	h.finds("t", "a.service")
	is.Equal(h.after(time.Second), "+a") // under another name
	is.Equal(h.reg["a"].Origin, "discovered:t")
}

func TestTwoRulesOneCheck(t *testing.T) {
	is := is.New(t)
	h := newHost(t, stays, leaves)
	h.finds("s", "a.service")
	h.finds("l", "a.service", "b.service")
	is.Equal(h.after(0), "+a +b")
	is.Equal(h.reg["a"].Origin, "discovered:s") // the first
	is.Equal(fmt.Sprint(h.bad), `map[rule l:check "a" is also of rule s, which has it]`)
	h.rules(leaves, stays)
	is.Equal(h.after(time.Second), "")   // also when they are asked in another order
	h.finds("s")                         //
	is.Equal(h.after(time.Second), "")   // gone, and still the first rule's
	is.Equal(h.after(100*time.Hour), "") //
	h.rules(leaves)
	is.Equal(h.after(time.Second), "+a")
	is.Equal(h.reg["a"].Origin, "discovered:l")
	is.Equal(len(h.bad), 0)
}

func TestSomebodyElsesCheck(t *testing.T) {
	is := is.New(t)
	h := newHost(t, leaves)
	h.reg["a"] = events.Registration{ID: "a", Host: "web01", TTL: 9e9, Origin: "http"}
	h.finds("l", "a.service")
	is.Equal(h.after(0), "") // left alone
	is.Equal(fmt.Sprint(h.bad), "map[check a:rule l found it, but it is registered already (origin http): that is left alone]")
	is.Equal(h.after(time.Second), "")
	h.finds("l")
	is.Equal(h.after(time.Hour), "")
	is.Equal(h.after(time.Hour), "")
	is.Equal(h.ids(), "a") // not ours to deregister
	h.finds("l", "a.service")
	delete(h.reg, "a")
	is.Equal(h.after(time.Second), "+a")
	h.reg["a"] = events.Registration{ID: "a", Host: "web01", TTL: 9e9, Origin: "file:a.json"}
	is.Equal(h.after(time.Second), "") // a file says otherwise, and wins
	h.reg["a"] = events.Registration{ID: "a", Host: "web01", TTL: 9e9, Origin: "discovered:l"}
	is.Equal(h.after(time.Second), "+a") // a forgery is mended
}

func TestRestart(t *testing.T) {
	is := is.New(t)
	h := newHost(t, stays, `{"rule":"l","unit":"b","register":{"id":"l-{name}","url":"systemd:{unit}"},"gone":"deregister","grace":"10s"}`)
	h.finds("s", "a.service", "b.service")
	h.finds("l", "x.service", "y.service")
	is.Equal(h.after(0), "+a +b +l-x +l-y")
	b, err := h.l.encode()
	is.NoErr(err)
	h.l, err = readLedger(b, "web01")
	is.NoErr(err)
	again, err := h.l.encode()
	is.NoErr(err)
	is.Equal(string(again), string(b))
	h.finds("s", "a.service")
	h.finds("l", "x.service")
	is.Equal(h.after(0), "")                  // what is still there is not touched
	is.Equal(h.after(10*time.Second), "-l-y") // what vanished meanwhile is treated as its rule says
	is.Equal(h.ids(), "a b l-x")

	other, err := readLedger(b, "web02")
	is.NoErr(err)
	is.Equal(len(other), 0) // another host's is none
	_, err = readLedger([]byte("{"), "web01")
	is.True(err != nil)
}

// Without its memory a worker takes over what is registered, but knows better
// than to trust it.
func TestAdopted(t *testing.T) {
	is := is.New(t)
	h := newHost(t, stays, `{"rule":"l","unit":"b","register":{"id":"l-{name}","url":"systemd:{unit}"},"gone":"deregister","grace":"10s"}`)
	for _, id := range []string{"a", "b", "l-x", "l-y", "old"} {
		rule, _, found := strings.Cut(id, "-")
		if !found {
			rule = map[string]string{"old": "none"}[id]
			if rule == "" {
				rule = "s"
			}
		}
		r := events.Registration{ID: id, Host: "web01", TTL: 9e9, Origin: "discovered:" + rule}
		h.reg[id] = r
		h.l[id] = &discovered{Rule: rule, Registration: r, adopted: true}
	}
	h.finds("s", "a.service")
	h.finds("l", "x.service")
	is.Equal(h.after(0), "+a +l-x -old") // as the rules say
	is.Equal(h.after(10*time.Second), "-l-y")
	is.Equal(h.ids(), "a b l-x")
	b, err := h.l.encode()
	is.NoErr(err)
	is.True(!strings.Contains(string(b), `"id": "b"`)) // it is never remembered as one's own
}

func TestManyThings(t *testing.T) {
	is := is.New(t)
	h := newHost(t, leaves)
	var units []string
	for i := range MaxFound + 9 {
		units = append(units, fmt.Sprintf("u%03d.service", i+1))
	}
	h.finds("l", units[1:MaxFound+1]...)
	h.after(0)
	is.Equal(len(h.reg), MaxFound)
	is.Equal(len(h.bad), 0)
	h.finds("l", units...)
	is.Equal(h.after(time.Second), "") // those that are registered stay
	is.Equal(fmt.Sprint(h.bad), `map[rule l:it finds more than 128 checks: "u001" and those after it are not registered]`)

	h = newHost(t, `{"rule":"p","process":{"name":"a"},"register":{"id":"{name}","url":"tcp://{address}:{port}"}}`)
	h.there["p"] = []thing{
		{"name": "a", "pid": "1", "address": "localhost", "port": "1"},
		{"name": "a", "pid": "2", "address": "localhost", "port": "1"}, // its worker, with the same socket
		{"name": "a", "pid": "1", "address": "localhost", "port": "2"},
		{"name": "a b", "pid": "1", "address": "localhost", "port": "3"},
	}
	is.Equal(h.after(0), "+a")
	is.Equal(string(h.reg["a"].URL), `"tcp://localhost:1"`)
	is.Equal(fmt.Sprint(h.bad), `map[rule p:check "a" would be two: an id that holds {pid}, {port} or {id} tells them apart]`)
}

// registrar is a registry in which somebody else registers everything as well.
type registrar struct {
	reg    map[string]events.Registration
	writes int
}

func (r *registrar) Check(_, id string) (bus.Entry, bool) {
	reg, ok := r.reg[id]
	return bus.Entry{Registration: reg}, ok
}

func (r *registrar) HostChecks(string) []bus.Entry { return nil }

func (r *registrar) Register(context.Context, events.Registration) (uint64, error) {
	r.writes++
	return 1, nil
}

func (r *registrar) Deregister(context.Context, string, string, string) (bool, uint64, error) {
	r.writes++
	return true, 1, nil
}

// What somebody else registers after a look, and before what follows from it, is
// neither replaced nor deregistered.
func TestDiscoveryComesSecond(t *testing.T) {
	is := is.New(t)
	found := func(id string) events.Registration {
		return events.Registration{Host: "web01", ID: id, URL: json.RawMessage(`"http://localhost/"`), Origin: events.OriginDiscovered + "r"}
	}
	r := &registrar{reg: map[string]events.Registration{"gone": found("gone")}}
	d := NewDiscovery(DiscoveryConfig{Host: "web01", Registry: r, Remember: func([]byte) error {
		for _, id := range []string{"gone", "new"} {
			r.reg[id] = events.Registration{Host: "web01", ID: id, URL: json.RawMessage(`"http://10.0.0.1/"`), Origin: "http"}
		}
		return nil
	}})
	d.set = ruleSet{complete: true, rules: []*rule{{Rule: Rule{Name: "r"}}}}
	d.have["gone"] = &discovered{Rule: "r2", Registration: found("gone"), orphan: true}
	d.have["new"] = &discovered{Rule: "r", Registration: found("new")}
	bad := faults{}
	d.settle(t.Context(), bad)
	is.Equal(r.writes, 0)
	d.settle(t.Context(), bad)
	is.True(strings.Contains(fmt.Sprint(bad["check new"]), "registered already"))
	is.Equal(r.writes, 0)
}
