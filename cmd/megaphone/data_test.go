package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"
)

func TestDataIsTakenOnce(t *testing.T) {
	is := is.New(t)
	dir := filepath.Join(t.TempDir(), "a", "b")
	d, err := openData(dir)
	is.NoErr(err)
	info, err := os.Stat(dir)
	is.NoErr(err)
	is.Equal(info.Mode().Perm(), os.FileMode(0o700))

	_, err = openData(dir) // a second time
	is.True(err != nil)
	is.True(strings.HasSuffix(err.Error(), "stop it or give another --data"))

	id := d.id
	is.NoErr(d.Close())
	d, err = openData(dir)
	is.NoErr(err) // free again
	is.Equal(d.id, id)
	is.NoErr(d.Close())
}

func TestDataUnwritable(t *testing.T) {
	is := is.New(t)
	_, err := openData("/proc/no-such")
	is.True(err != nil)
	is.True(strings.Contains(err.Error(), "choose another with --data"))
}

func TestDataDefault(t *testing.T) {
	for name, tt := range map[string]struct {
		env  map[string]string
		euid int
		want string
	}{
		"systemd's":      {env: map[string]string{"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, want: "/var/lib/a"},
		"root's":         {want: "/var/lib/megaphone"},
		"a user's":       {euid: 1000, env: map[string]string{"HOME": "/home/u"}, want: "/home/u/.local/state/megaphone"},
		"a user's own":   {euid: 1000, env: map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "/s"}, want: "/s/megaphone"},
		"systemd's user": {euid: 1000, env: map[string]string{"STATE_DIRECTORY": "/s/a"}, want: "/s/a"},
	} {
		t.Run(name, func(t *testing.T) {
			is.New(t).Equal(dataDefault(func(k string) string { return tt.env[k] }, tt.euid), tt.want)
		})
	}
}

func TestHostName(t *testing.T) {
	for name, tt := range map[string]struct {
		stored  string
		machine string
		flag    string
		given   bool
		want    string
		logged  bool
	}{
		"the machine's at first":        {machine: "Web01", want: "web01"},
		"the stored one stays":          {stored: "web01", machine: "renamed", want: "web01", logged: true},
		"the same is not told":          {stored: "web01", machine: "web01", want: "web01"},
		"what is set wins":              {stored: "web01", machine: "web01", flag: "web02", given: true, want: "web02", logged: true},
		"set at first":                  {machine: "web01", flag: "web02", given: true, want: "web02"},
		"a gateway may be without any":  {stored: "web01", machine: "web01", given: true, want: ""},
		"the machine's name has a dot ": {machine: "web01.example.com.", want: "web01.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			d, err := openData(t.TempDir())
			is.NoErr(err)
			defer d.Close()
			if tt.stored != "" {
				is.NoErr(os.WriteFile(d.file("host"), []byte(tt.stored+"\n"), 0o600))
			}
			var log bytes.Buffer
			got, err := d.hostName(&Config{Host: tt.flag, HostGiven: tt.given},
				func() (string, error) { return tt.machine, nil }, slog.New(slog.NewTextHandler(&log, nil)))
			is.NoErr(err)
			is.Equal(got, tt.want)
			is.Equal(log.Len() > 0, tt.logged) // a difference is told
		})
	}
}

func TestHostNameUnusable(t *testing.T) {
	is := is.New(t)
	d, err := openData(t.TempDir())
	is.NoErr(err)
	defer d.Close()
	_, err = d.hostName(&Config{}, func() (string, error) { return "büro pc", nil }, slog.New(slog.DiscardHandler))
	is.True(err != nil && strings.Contains(err.Error(), "--host"))
}
