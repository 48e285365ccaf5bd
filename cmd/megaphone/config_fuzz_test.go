package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzSettings demands of any file of settings that it is refused or read, in
// keys that a flag may have.
func FuzzSettings(f *testing.F) {
	for _, text := range []string{
		"[settings]\nPORT = 18001\n", "[Settings]\nport: 1 ; why\n# x\n", "PORT=1\n", "[settings]\nA=\"b\nc\n", "[settings]\nA=`b\nc`\n", "[settings\n", "[a]\n[settings]\nB=%(B)s\n",
		"\ufeff[settings]\nA=1\n", "[settings]\nA=\"\"\"b\nc\"\"\"\n", "[settings]\n=1\n", "[settings]\n-=1\n-=2\n", "[settings]\nA=%(B)s\nB=%(A)s\n", "\xff\xfe[\x00",
	} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), configName)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := readSettings(path)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("%v: of which file?", err)
			}
			return
		}
		for key, value := range s.values {
			if got, ok := s.get(key); key != strings.ToUpper(key) || got != value || ok != (value != "") {
				t.Fatalf("%q = %q", key, value)
			}
		}
	})
}

// FuzzChecksFile demands of any file of checks.d that what is taken of it is
// taken again as it is written. Of files of discover.d FuzzRule does.
func FuzzChecksFile(f *testing.F) {
	for _, text := range []string{
		`{"id":"db","url":"http://x/"}`, `[{"id":"a/b","host":"WEB02","url":{"addr":"http://x/"},"labels":{"a":"b"},"interval":"5s"}]`, "\ufeff []", "[", "", "null", "[null]",
		`{"id":"x","url":"exec:/bin/x","host":"web02"}`, `{"id":"x","ttl":"60s"}{}`, `{"id":"x","nope":1}`, `{"ID":"x","url":"file:/x"}`,
	} {
		f.Add([]byte(text))
	}
	const name = "a.json"
	d := newChecksDir(f.TempDir(), "web01", true, nil, slog.New(slog.DiscardHandler))
	path := filepath.Join(d.path, name)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := d.read(name)
		if err != nil {
			return
		}
		var lines [2]string
		for i := range lines {
			b, err := json.Marshal(list)
			if err == nil {
				err = os.WriteFile(path, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			lines[i] = string(b)
			if list, err = d.read(name); err != nil {
				t.Fatalf("%s\nis refused the second time: %v", b, err)
			}
		}
		if lines[0] != lines[1] {
			t.Fatalf("%s\nis read again as\n%s", lines[0], lines[1])
		}
	})
}
