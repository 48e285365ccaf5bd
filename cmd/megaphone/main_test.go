package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// TestMain makes the test binary stand in for megaphone, and for a service that is
// watched: tests and scripts find it under these names in their PATH.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "megaphone", legacyCheckName:
		os.Exit(mainExit())
	case statusdName:
		os.Exit(statusd(os.Args[1:]))
	case speedTargetName:
		os.Exit(speedTarget())
	}
	os.Exit(runTests(m, []string{"megaphone", legacyCheckName, statusdName}))
}

func runTests(m *testing.M, names []string) int {
	bin, err := os.MkdirTemp("", "megaphone-bin-*")
	if err != nil {
		return problem(err)
	}
	defer os.RemoveAll(bin)
	self, err := os.Executable()
	if err != nil {
		return problem(err)
	}
	for _, name := range names {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			return problem(err)
		}
	}
	os.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	if code := m.Run(); code != 0 {
		return code
	}
	// Idle connections of the default HTTP client are nobody's leak.
	if err := goleak.Find(goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop")); err != nil {
		return problem(err)
	}
	return 0
}

func problem(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
