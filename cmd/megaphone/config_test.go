package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/spf13/pflag"
)

// loaded returns the configuration of serve for these flags, variables and
// text of a settings file.
func loaded(t *testing.T, args []string, env map[string]string, file string) (*Config, error) {
	t.Helper()
	vars := map[string]string{"HOME": t.TempDir(), "STATE_DIRECTORY": "/data"}
	for k, v := range env {
		vars[k] = v
	}
	if file != "" {
		path := filepath.Join(t.TempDir(), "megaphone.conf")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		vars["MEGAPHONE_CONFIG"] = path
	}
	c := Default()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.bind(fs, allParts)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	err := c.Load(fs, func(name string) string { return vars[name] })
	return c, errors.Join(err, c.Validate(allParts))
}

func TestPrecedence(t *testing.T) {
	const file = "[settings]\nPORT = 3\nLISTEN = 127.0.0.3\nTIMEOUT = 3\n"
	env := map[string]string{"MEGAPHONE_PORT": "2", "MEGAPHONE_LISTEN": "127.0.0.2"}
	is := is.New(t)
	c, err := loaded(t, []string{"--port", "1"}, env, file)
	is.NoErr(err)
	is.Equal(c.Port, 1)                             // the flag wins
	is.Equal(c.Listen, "127.0.0.2")                 // over the environment
	is.Equal(c.Timeout, 3*time.Second)              // over the file
	is.Equal(c.Interval, 10*time.Second)            // over the default
	is.Equal(c.BusListen, "127.0.0.1:4222")         // default
	is.Equal(c.RegisterWait, 3200*time.Millisecond) // the timeout and a little
}

func TestSettings(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		env  map[string]string
		file string
		want func(c *Config) bool
	}{
		"the original's cache settings": {
			file: "[settings]\nCACHEDIR = /opt/cache\nCACHEFILE = c.json\n",
			want: func(c *Config) bool { return c.Cache == "/opt/cache/c.json" },
		},
		"a directory alone has the original's name": {
			file: "[settings]\nCACHEDIR = /opt/cache\n",
			want: func(c *Config) bool { return c.Cache == "/opt/cache/megaphone.json" },
		},
		"a name alone lies in the data directory": {
			file: "[settings]\nCACHEFILE = c.json\n",
			want: func(c *Config) bool { return c.Cache == "/data/c.json" },
		},
		"MEGAPHONE_CACHE is a whole path and wins": {
			file: "[settings]\nCACHEDIR = /opt/cache\n", env: map[string]string{"MEGAPHONE_CACHE": "/else/c.json"},
			want: func(c *Config) bool { return c.Cache == "/else/c.json" },
		},
		"cache by default": {want: func(c *Config) bool { return c.Cache == "/data/cache.json" }},
		"keys and section in any case, a missing key hides none": {
			file: "[Settings]\nport = 7\nListen=127.0.0.1\n",
			want: func(c *Config) bool { return c.Port == 7 && c.Listen == "127.0.0.1" },
		},
		"what has no effect is named once": {
			file: "[settings]\nQUIET = True\nDEBUG = False\nHEARTBEAT = 30\nPORT = 7\n", env: map[string]string{"MEGAPHONE_WSGISERVER": "paste"},
			want: func(c *Config) bool {
				return c.Port == 7 && len(c.Notes) == 1 && strings.HasSuffix(c.Notes[0], "[DEBUG QUIET WSGISERVER HEARTBEAT]")
			},
		},
		"seconds with decimals": {
			env:  map[string]string{"MEGAPHONE_TIMEOUT": "0.5", "MEGAPHONE_INTERVAL": "1m"},
			want: func(c *Config) bool { return c.Timeout == 500*time.Millisecond && c.Interval == time.Minute },
		},
		"a data directory": {args: []string{"--data", "/else"}, want: func(c *Config) bool { return c.Data == "/else" }},
		"never wait":       {args: []string{"--register-wait", "0"}, want: func(c *Config) bool { return c.RegisterWait == 0 }},
		"sizes":            {args: []string{"--data-max", "512MiB"}, want: func(c *Config) bool { return c.DataMax == 512<<20 }},
		"networks": {
			args: []string{"--write-from", "10.1.2.3/8, 192.0.2.1"},
			want: func(c *Config) bool {
				return len(c.WriteFrom) == 2 && c.WriteFrom[0] == netip.MustParsePrefix("10.0.0.0/8") && c.WriteFrom[1].Bits() == 32
			},
		},
		"an empty variable is none": {env: map[string]string{"MEGAPHONE_PORT": ""}, want: func(c *Config) bool { return c.Port == 18001 }},
		"host names are folded":     {args: []string{"--host", "WEB01"}, want: func(c *Config) bool { return c.Host == "web01" }},
		"comments after a value":    {file: "[settings]\nPORT = 7 ; seven\n", want: func(c *Config) bool { return c.Port == 7 }},
		"an empty file":             {file: "; nothing\n", want: func(c *Config) bool { return c.Port == 18001 && len(c.Notes) == 0 }},
		"a # belongs to its value":  {file: "[settings]\nTOKEN_FILE = /a#b\n", want: func(c *Config) bool { return c.TokenFile == "/a#b" }},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			c, err := loaded(t, tt.args, tt.env, tt.file)
			is.NoErr(err)
			if !tt.want(c) {
				t.Fatalf("got %+v", *c)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		env  map[string]string
		file string
		want []string // each is in the error
	}{
		"a port that is none":     {env: map[string]string{"MEGAPHONE_PORT": "abc"}, want: []string{"MEGAPHONE_PORT=abc", "--port"}},
		"a bad value in the file": {file: "[settings]\nTIMEOUT = soon\n", want: []string{"TIMEOUT = soon", "megaphone.conf", "--timeout"}},
		"all faults at once": {
			args: []string{"--port", "70000", "--interval", "0", "--bus-listen", "here", "--read", "nobody", "--replicas", "2"},
			want: []string{"--port 70000", "--interval 0s", "--bus-listen here", "--read nobody", "--replicas 2"},
		},
		"no section":               {file: "PORT = 1\n", want: []string{"[settings]"}},
		"not an INI file":          {file: "[settings]\nwhat is this\n", want: []string{"--config", "what is this"}},
		"a file that is not there": {env: map[string]string{"MEGAPHONE_CONFIG": "/no/such.conf"}, want: []string{"--config /no/such.conf", "no such file"}},
		"DEBUG is a boolean":       {env: map[string]string{"MEGAPHONE_DEBUG": "maybe"}, want: []string{"DEBUG", "maybe"}},
		"reading by token alone":   {args: []string{"--read", "token"}, want: []string{"--token-file"}},
		"no host for a worker":     {args: []string{"--host", ""}, want: []string{"--host"}},
		"checks.d that is none":    {args: []string{"--checks-d", "/no/such"}, want: []string{"--checks-d /no/such"}},
		"creds of no bus":          {args: []string{"--bus-creds", "x"}, want: []string{"--bus-creds x", "--bus"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := loaded(t, tt.args, tt.env, tt.file)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %q", want, err)
				}
			}
		})
	}
}

func TestRolesNeedABus(t *testing.T) {
	is := is.New(t)
	for _, p := range []parts{{worker: true}, {aggregator: true}, {gateway: true}} {
		err := Default().Validate(p)
		is.True(err != nil && strings.Contains(err.Error(), "--bus")) // named
	}
}

func TestConfigSearch(t *testing.T) {
	is := is.New(t)
	home, xdg := t.TempDir(), t.TempDir()
	env := map[string]string{"HOME": home}
	get := func(name string) string { return env[name] }
	is.NoErr(os.MkdirAll(filepath.Join(home, ".config", "megaphone"), 0o700))
	inHome := filepath.Join(home, ".config", "megaphone", "megaphone.conf")
	is.NoErr(os.WriteFile(inHome, nil, 0o600))
	is.Equal(searchConfig(get), inHome) // the XDG default

	env["XDG_CONFIG_HOME"] = xdg
	is.NoErr(os.MkdirAll(filepath.Join(xdg, "megaphone", "checks.d"), 0o700))
	is.Equal(besideConfig("checks.d", "", get), filepath.Join(xdg, "megaphone", "checks.d"))
	is.Equal(besideConfig("checks.d", "/etc/x/megaphone.conf", get), "/etc/x/checks.d") // beside the file
}

func TestSampleSettings(t *testing.T) {
	is := is.New(t)
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "megaphone.conf"))
	is.NoErr(err)
	_, err = loaded(t, nil, nil, string(b))
	is.NoErr(err)

	// Without the comment sign each of its settings is one that exists, with its default.
	defaults := Default()
	all := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	defaults.bind(all, allParts)
	shown := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(line, "; "), "\n"), " = ")
		if !ok || strings.ToUpper(key) != key {
			continue
		}
		shown[key] = true
		f := all.Lookup(strings.ToLower(strings.ReplaceAll(key, "_", "-")))
		if f == nil {
			is.True(slices.Contains(legacyKeys, key)) // a setting of the original at least
			continue
		}
		if f.DefValue != "" && !strings.EqualFold(value, f.DefValue) {
			t.Errorf("%s = %s, but the default is %s", key, value, f.DefValue)
		}
		is.NoErr(f.Value.Set(value))
	}
	all.VisitAll(func(f *pflag.Flag) {
		if !shown[keyOf(f.Name)] && f.Name != "config" {
			t.Errorf("--%s is missing", f.Name)
		}
	})
}

// A network that is denied is denied however it is written.
func TestPrefixesOfMappedAddresses(t *testing.T) {
	is := is.New(t)
	var v prefixesValue
	is.NoErr(v.Set("::ffff:10.0.0.0/104, ::ffff:192.0.2.1, ::ffff:0:0/96, fd00::/8, 2001:db8::1"))
	is.Equal(v.String(), "10.0.0.0/8,192.0.2.1/32,0.0.0.0/0,fd00::/8,2001:db8::1/128")
}
