package pollers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
)

// Bounds of discovery. MaxRules times MaxFound is less than the checks that a
// host may have.
const (
	MaxRules = 64  // of one host, of all files together
	MaxFound = 128 // checks of one rule at once

	DefaultGrace = 30 * time.Second // until what vanished is deregistered
	MinGrace     = 2 * time.Second  // two looks: one alone may have been unlucky

	maxValue = 128 // bytes that a variable may stand for
)

// ErrRule is wrapped by every error about what a rule says.
var ErrRule = errors.New("bad rule")

// What a rule does with a check whose thing has vanished.
const (
	GoneCritical   = "critical"   // it stays registered, and its polls say what they find
	GoneDeregister = "deregister" // the same for the grace, then it is deregistered
)

// Rule says what to look for on this host, and what to register for each thing
// that is found. Exactly one of Process, Unit and Service is set.
type Rule struct {
	Name     string          `json:"rule"` // unique on its host
	Process  *ProcessRule    `json:"process,omitempty"`
	Unit     string          `json:"unit,omitempty"`    // pattern of the names of systemd's units
	Service  string          `json:"service,omitempty"` // pattern of the names of NATS micro services
	Register json.RawMessage `json:"register"`          // a registration with variables in its texts
	Gone     string          `json:"gone,omitempty"`    // default GoneCritical
	Grace    events.Duration `json:"grace,omitzero"`    // default DefaultGrace; of GoneDeregister only
}

// ProcessRule selects processes: by both where both are given.
type ProcessRule struct {
	Name    string `json:"name,omitempty"`    // the whole of it
	Command string `json:"command,omitempty"` // pattern of the command line
}

// Validate checks everything about a rule of a host. The error wraps [ErrRule].
func (r Rule) Validate(host string) error {
	_, err := compile(r, host)
	return err
}

// variables of each source, with a value that a registration is tried with.
var variables = map[source]map[string]string{
	fromProcesses: {"name": "name", "pid": "1", "port": "1", "address": "localhost", "host": "host"},
	fromUnits:     {"unit": "name.service", "name": "name", "host": "host"},
	fromServices:  {"service": "name", "id": "ID", "version": "1.0.0", "host": "host"},
}

// rule is a Rule that is ready to be used.
type rule struct {
	Rule
	host     string
	source   source
	pattern  *regexp.Regexp // nil: any
	template any            // of the registration, as decoded JSON
	uses     map[string]bool
}

var ruleName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func compile(r Rule, host string) (*rule, error) {
	c := &rule{Rule: r, host: host, uses: map[string]bool{}}
	for _, step := range []func() error{c.selects, c.ends, c.readTemplate, c.guardAddress, c.try} {
		if err := step(); err != nil {
			if !errors.Is(err, ErrRule) {
				err = fmt.Errorf("%w: %w", ErrRule, err)
			}
			return nil, err
		}
	}
	return c, nil
}

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRule, fmt.Errorf(format, args...))
}

// selects checks the name, and what the rule looks for.
func (r *rule) selects() (err error) {
	if !ruleName.MatchString(r.Name) {
		return wrong("rule %q: its name is 1 to 64 of a-z 0-9 . _ -", r.Name)
	}
	var sources []source
	text := r.Unit + r.Service
	if r.Process != nil {
		sources = append(sources, fromProcesses)
		text = r.Process.Command
		if *r.Process == (ProcessRule{}) {
			return wrong("process: give the name of the process, or a pattern of its command")
		}
	}
	if r.Unit != "" {
		sources = append(sources, fromUnits)
	}
	if r.Service != "" {
		sources = append(sources, fromServices)
	}
	if len(sources) != 1 {
		return wrong("a rule looks for one of process, unit and service")
	}
	r.source = sources[0]
	r.pattern, err = events.Pattern(text)
	return err
}

// ends checks what happens when a thing has vanished.
func (r *rule) ends() error {
	switch r.Gone {
	case "":
		r.Gone = GoneCritical
	case GoneCritical, GoneDeregister:
	default:
		return wrong("gone is %q, it must be %s or %s", r.Gone, GoneCritical, GoneDeregister)
	}
	switch {
	case r.Gone == GoneCritical && r.Grace != 0:
		return wrong("grace is about \"gone\": %q; of a check that stays, \"fall\" in register says how many polls may fail", GoneDeregister)
	case r.Gone == GoneDeregister && r.Grace == 0:
		r.Grace = events.Duration(DefaultGrace)
	case r.Gone == GoneDeregister && r.Grace.D() < MinGrace:
		return wrong("grace is %s, it must be at least %s", r.Grace, events.Duration(MinGrace))
	}
	return nil
}

var variable = regexp.MustCompile(`\{[a-z]+\}`)

// readTemplate decodes the registration and finds its variables.
func (r *rule) readTemplate() error {
	dec := json.NewDecoder(bytes.NewReader(r.Register))
	dec.UseNumber()
	var o map[string]any
	if err := dec.Decode(&o); err != nil || o == nil {
		return wrong("register must be a registration, an object")
	}
	for key := range o {
		switch lower := strings.ToLower(key); {
		case lower == "host", lower == "origin":
			return wrong("register has no %q: that is said by where the rule is", key)
		case lower != key: // readers of JSON take it for the same
			return wrong("register has no %q: write it as %q", key, lower)
		}
	}
	r.template = o
	known := variables[r.source]
	var unknown []string
	each(o, func(text string) {
		for _, v := range variable.FindAllString(text, -1) {
			name := strings.Trim(v, "{}")
			r.uses[name] = true
			if _, ok := known[name]; !ok {
				unknown = append(unknown, v)
			}
		}
	})
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return wrong("%s has no %s; it has {%s}", r.source, unknown[0], strings.Join(slices.Sorted(maps.Keys(known)), "}, {"))
	}
	return nil
}

// guardAddress refuses addresses in which a thing could choose by its own name
// which machine is asked, or what program is run or file read.
func (r *rule) guardAddress() error {
	o, _ := r.template.(map[string]any)
	url := o["url"]
	if object, ok := url.(map[string]any); ok {
		url = object["addr"]
	}
	addr, _ := url.(string) // trying it says what is wrong with another
	_, rest, _ := strings.Cut(addr, ":")
	switch scheme := events.Scheme(addr); {
	case variable.MatchString(scheme):
		return wrong("the kind of check in %q must not be a variable", addr)
	case (scheme == "exec" || scheme == "file") && variable.MatchString(rest):
		return wrong("the path in %q must hold no variables: they belong into args and env", addr)
	}
	authority, ok := strings.CutPrefix(rest, "//")
	if end := strings.IndexAny(authority, `/\?#`); end >= 0 {
		authority = authority[:end]
	}
	if !ok {
		return nil
	}
	for _, v := range variable.FindAllString(authority, -1) {
		if !slices.Contains([]string{"{address}", "{port}", "{host}"}, v) {
			return wrong("%s must not choose the machine in %q: only {address}, {port} and {host} may", v, addr)
		}
	}
	return nil
}

// try makes a registration, to see now what would be wrong with all of them.
func (r *rule) try() error {
	sample := maps.Clone(variables[r.source])
	sample["host"] = r.host
	_, err := r.registration(sample)
	return err
}

// plain is what a variable may stand for: nothing that means something in a path,
// an address, a subject or a list of arguments. The backslash is systemd's.
var plain = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:@+\\-]*$`)

// registration puts values into the template.
func (r *rule) registration(values map[string]string) (events.Registration, error) {
	for name := range r.uses {
		v := values[name]
		if name != "address" && (len(v) > maxValue || !plain.MatchString(v)) { // addresses are none of its own choice
			return events.Registration{}, wrong("{%s} cannot stand for %.200q: it may have 1 to %d letters, digits and _ . : @ + - \\, and begins with one of the first three", name, v, maxValue)
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // an address stays readable
	if err := enc.Encode(substitute(r.template, values)); err != nil {
		return events.Registration{}, err
	}
	dec := json.NewDecoder(&b)
	dec.DisallowUnknownFields()
	var reg events.Registration
	if err := dec.Decode(&reg); err != nil {
		return events.Registration{}, fmt.Errorf("register: %w", err)
	}
	reg.Host, reg.Origin = r.host, events.OriginDiscovered+r.Name
	if err := reg.ValidateStrict(); err != nil {
		return events.Registration{}, fmt.Errorf("register: %w", err)
	}
	return reg, nil
}

// substitute returns decoded JSON with the variables in its texts replaced by
// their values. What a value holds is not looked at again.
func substitute(v any, values map[string]string) any {
	switch v := v.(type) {
	case string:
		return variable.ReplaceAllStringFunc(v, func(name string) string { return values[strings.Trim(name, "{}")] })
	case []any:
		out := make([]any, len(v))
		for i, one := range v {
			out[i] = substitute(one, values)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, one := range v {
			out[key] = substitute(one, values)
		}
		return out
	}
	return v
}

// each calls f with every text in decoded JSON; keys are none.
func each(v any, f func(string)) {
	switch v := v.(type) {
	case string:
		f(v)
	case []any:
		for _, one := range v {
			each(one, f)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			each(v[key], f)
		}
	}
}
