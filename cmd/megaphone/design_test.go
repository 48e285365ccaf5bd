package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// Every test that DESIGN.md names as the proof of a promise is there.
func TestDesignNamesTests(t *testing.T) {
	is := is.New(t)
	design, err := os.ReadFile("../../DESIGN.md")
	is.NoErr(err)
	names := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(design), -1)
	is.True(len(names) > 20)
	var code strings.Builder
	is.NoErr(filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		code.Write(b)
		return err
	}))
	for _, name := range names {
		if !strings.Contains(code.String(), "\nfunc "+name[1]+"(") {
			t.Errorf("DESIGN.md names %s, which is not there", name[1])
		}
	}
}
