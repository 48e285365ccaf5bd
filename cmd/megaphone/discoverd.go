package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"

	"github.com/looprock/megaphone/pollers"
)

// discoverDir keeps the rules of discovery equal to a directory of JSON files. A
// file holds one rule or a list of them. While one cannot be read its rules stay
// as they were.
type discoverDir struct {
	jsonDir
	host  string
	rules interface {
		SetRules(rules []pollers.Rule, complete bool) error
	}
	good map[string][]pollers.Rule // by file: what was read last
}

// newDiscoverDir makes one that does nothing before Sync and Run.
func newDiscoverDir(path, host string, d *pollers.Discovery, log *slog.Logger) *discoverDir {
	return &discoverDir{
		jsonDir: newJSONDir(path, "discover.d", "its rules stay as they were", log),
		host:    host, rules: d, good: map[string][]pollers.Rule{},
	}
}

// Run follows the directory until ctx ends, then returns nil. The caller has
// called Sync once.
func (d *discoverDir) Run(ctx context.Context) error { return d.follow(ctx, d.Sync) }

// Sync reads the rules once. What is wrong with a file is logged, once.
func (d *discoverDir) Sync(context.Context) {
	names, err := d.files()
	if err != nil {
		d.fault(d.path, err)
		return // as it was: a directory that cannot be read says nothing
	}
	good, complete := map[string][]pollers.Rule{}, true
	var all []pollers.Rule
	owner := map[string]string{}
	for _, name := range names {
		rules, err := d.read(name)
		if err != nil {
			rules, complete = d.good[name], false
		}
		good[name] = rules
		for _, r := range rules {
			switch first, ok := owner[r.Name]; {
			case ok:
				err = cmp.Or(err, fmt.Errorf("rule %s is also in %s, which has it", r.Name, first))
			case len(all) == pollers.MaxRules:
				err, complete = cmp.Or(err, fmt.Errorf("there are more than %d rules: %s and those after it are not taken", pollers.MaxRules, r.Name)), false
			default:
				owner[r.Name] = name
				all = append(all, r)
			}
		}
		d.fault(name, err)
	}
	d.good = good
	d.fault(d.path, d.rules.SetRules(all, complete))
}

// read returns the rules of a file, each valid.
func (d *discoverDir) read(name string) ([]pollers.Rule, error) {
	rules, err := readList[pollers.Rule](&d.jsonDir, name, "rule")
	if err != nil {
		return nil, err
	}
	for i, r := range rules {
		if err := r.Validate(d.host); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return rules, nil
}
