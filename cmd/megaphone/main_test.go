package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// TestMain makes the test binary stand in for megaphone: tests and scripts find
// it under both of its names in their PATH.
func TestMain(m *testing.M) {
	names := []string{"megaphone", legacyCheckName}
	for _, name := range names {
		if filepath.Base(os.Args[0]) == name {
			os.Exit(mainExit())
		}
	}
	if os.Args[0] == speedTargetName {
		os.Exit(speedTarget())
	}
	os.Exit(runTests(m, names))
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
