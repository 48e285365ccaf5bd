package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/spf13/pflag"
)

// deploy/megaphone.conf is one that megaphone takes, each of its settings
// included, and it names every setting that there is.
func TestSampleConfiguration(t *testing.T) {
	is := is.New(t)
	b, err := os.ReadFile("../../deploy/megaphone.conf")
	is.NoErr(err)
	setting := regexp.MustCompile(`(?m)^; ([A-Z_]+) = `)
	named := map[string]bool{}
	for _, m := range setting.FindAllStringSubmatch(string(b), -1) {
		named[m[1]] = true
	}
	cfg := Default()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	cfg.bind(flags, allParts)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "config" && f.Name != "help" {
			is.True(named[strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))]) // named in the sample
		}
	})
	// CACHE and the original's two names of the same file exclude each other; the
	// places it names need not exist here.
	all := setting.ReplaceAllString(string(b), "$1 = ")
	all = regexp.MustCompile(`(?m)^(CACHEDIR|CACHEFILE|CHECKS_D|DISCOVER_D) = .*$`).ReplaceAllString(all, "")
	for name, file := range map[string]string{"as it is": string(b), "every line": all} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			c, err := loaded(t, nil, nil, file)
			is.NoErr(err)
			is.Equal(c.Port, 18001) // the defaults stand in it
			is.Equal(c.DataMax, Default().DataMax)
		})
	}
}

// The rules in deploy/discover.d are taken, all of them.
func TestSampleRules(t *testing.T) {
	is := is.New(t)
	d := newDiscoverD(t)
	d.path = "../../deploy/discover.d"
	d.Sync(t.Context())
	is.Equal(d.out.String(), "")
	is.Equal(d.names, " java nginx jobs app-units services")
}
