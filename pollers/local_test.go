package pollers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

// writeProgram writes a file that can be run at once: no child of this process may
// be begun that inherits it while it is open for writing ("text file busy").
func writeProgram(t testing.TB, path string, b []byte) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	must(t, os.WriteFile(path, b, 0o700))
}

// script writes a program.
func script(t testing.TB, lines string) string {
	path := filepath.Join(t.TempDir(), "check_x")
	writeProgram(t, path, []byte("#!/bin/sh\n"+lines+"\n"))
	return path
}

func TestExec(t *testing.T) {
	for name, tt := range map[string]struct {
		lines string
		more  object
		want  string
		doc   string // part of the document
	}{
		"OK":                {`echo 'DISK OK - 40% | /=2643MB;5948;5958;0;5968'; echo 'long text'; echo "more | 'a b'=1s"`, nil, "OK DISK OK - 40%", `{"exit_code":0,"output":"DISK OK - 40%","long_output":"long text\nmore","perfdata":[{"label":"/","value":2643,"unit":"MB","warning":"5948","critical":"5958","min":"0","max":"5968"},{"label":"a b","value":1,"unit":"s"}]}`},
		"Warning":           {"echo w; exit 1", nil, "Warning w", ""},
		"Critical":          {"echo c; exit 2", nil, "Critical c", ""},
		"Unknown":           {"echo u; exit 3", nil, "Unknown u", ""},
		"another code":      {"echo x; exit 42", nil, "Unknown exit code 42: x", `"exit_code":42`},
		"a signal":          {"echo x; kill -9 $$", nil, "Unknown signal: killed: x", ""},
		"no output":         {"exit 0", nil, "OK (no output)", ""},
		"only complaints":   {"echo oops >&2; exit 2", nil, "Critical oops", ""},
		"arguments":         {`printf '%s,' "$@"`, object{"args": []string{"-w", "80 %; id", "$(id)"}}, "OK -w,80 %; id,$(id),", ""}, // no shell
		"environment":       {`env | sort | tr '\n' ' '`, object{"env": object{"TOKEN": "t"}}, "OK HOME=/ LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PWD=/ TOKEN=t", ""},
		"binary":            {`printf 'a\377b\0c'`, nil, "OK a\uFFFDb", ""},
		"much HTML":         {`echo "well | a=1"; head -c 40000 /dev/zero | tr '\0' '<'`, nil, "OK well", `"output":"well","long_output":"\u003c`},
		"much of a line":    {`head -c 40000 /dev/zero | tr '\0' '<'; echo '|a=1'`, nil, "OK <<<", `"perfdata":[{"label":"a","value":1}]`},
		"many labels":       {`printf 'ok |'; for i in $(seq 200); do printf "'<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<$i'=1 "; done`, nil, "OK ok", `"output":"ok","perfdata":[{`},
		"endless":           {"yes", nil, "Critical", ""},
		"hangs":             {"sleep 60 & sleep 60; echo never", nil, "did not end in time and was killed", ""},
		"leaves a daemon":   {"sleep 3 & echo done; exit 1", nil, "Warning done", ""},
		"not a program":     {"", object{"addr": "exec:/etc"}, "Unknown run /etc: permission denied", ""},
		"does not exist":    {"", object{"addr": "exec:/no/such"}, "Unknown run /no/such: no such file or directory", ""},
		"override":          {"exit 2", object{"statusoverride": "OK"}, "OK NOTICE", ""},
		"secrets stay here": {`echo "${CANARY:-none}"`, nil, "OK none", ""},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			if name != "secrets stay here" {
				t.Parallel()
			} else {
				t.Setenv("CANARY", "secret")
			}
			url := object{"addr": "exec:" + script(t, tt.lines)}
			for k, v := range tt.more {
				url[k] = v
			}
			start := time.Now()
			f := look(t, url)
			t.Log(says(f), string(f.Document))
			is.True(time.Since(start) < 5*time.Second)
			is.True(strings.Contains(says(f), tt.want))
			is.True(strings.Contains(string(f.Document), tt.doc))
		})
	}
}

// What a plugin that is killed has started is killed with it.
func TestExecKillsTheGroup(t *testing.T) {
	is := is.New(t)
	file := filepath.Join(t.TempDir(), "pid")
	path := script(t, `sleep 60 & echo $! > `+file+`; wait`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	kinds, done := pollers.KindsOf(pollers.Config{})
	defer done()
	f := kinds.Check(ctx, events.Target{Addr: "exec:" + path})
	is.Equal(f.Status, events.Critical)
	pid, err := os.ReadFile(file)
	is.NoErr(err)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(state), ") Z") {
			return
		}
		is.True(time.Now().Before(end)) // the child is gone
	}
}

// A plugin that has ended was not too slow because a daemon that it left still
// holds its output when its time is over.
func TestExecEndsBeforeItsTime(t *testing.T) {
	is := is.New(t)
	file := filepath.Join(t.TempDir(), "pid")
	path := script(t, `sleep 5 & echo done; echo $$ > `+file)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	kinds, done := pollers.KindsOf(pollers.Config{})
	defer done()
	found := make(chan pollers.Finding, 1)
	go func() { found <- kinds.Check(ctx, events.Target{Addr: "exec:" + path}) }()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		pid, _ := os.ReadFile(file) // not there yet
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); strings.HasSuffix(string(pid), "\n") && err != nil {
			break
		}
		is.True(time.Now().Before(end)) // it has ended, and was waited for
	}
	cancel()
	is.Equal(says(<-found), "OK done")
}

func TestReadPlugin(t *testing.T) {
	one := func(label string, value float64, unit string) []pollers.Measurement {
		return []pollers.Measurement{{Label: label, Value: &value, Unit: unit}}
	}
	for out, want := range map[string]pollers.Plugin{
		"text":                      {Output: "text"},
		"text\r\nmore\r\n":          {Output: "text", LongOutput: "more"},
		"text|a=1":                  {Output: "text", Perfdata: one("a", 1, "")},
		"text | a=-1.5% junk b c=x": {Output: "text", Perfdata: one("a", -1.5, "%")},
		"t|'it''s = it'=3KB":        {Output: "t", Perfdata: one("it's = it", 3, "KB")},
		"t|a=U;1;2":                 {Output: "t", Perfdata: []pollers.Measurement{{Label: "a", Warning: "1", Critical: "2"}}},
		"t|a=1;~:5;@1:2;;9":         {Output: "t", Perfdata: []pollers.Measurement{{Label: "a", Value: one("", 1, "")[0].Value, Warning: "~:5", Critical: "@1:2", Max: "9"}}},
		"t|'open":                   {Output: "t"},
		"t|=1 a= ''=2":              {Output: "t"},
		"t|a=NaN b=1e999":           {Output: "t"},
		"":                          {},
	} {
		got := pollers.ReadPlugin(0, out)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", out, got, want)
		}
	}
}

func FuzzReadPlugin(f *testing.F) {
	f.Add(0, "DISK OK - free | /=2643MB;5948;5958;0;5968\nlong\nmore | 'a b'=1s;;;0")
	f.Fuzz(func(t *testing.T, code int, out string) {
		p := pollers.ReadPlugin(code, out)
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if utf8.ValidString(out) && !utf8.ValidString(p.Output) || !json.Valid(b) {
			t.Fatalf("%q", b)
		}
	})
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, age time.Duration) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		must(t, os.Chtimes(path, time.Time{}, time.Now().Add(-age)))
		return path
	}
	stamp := write("stamp", "0123456789", 2*time.Hour)
	for name, tt := range map[string]struct {
		url  object
		want string
	}{
		"is there":      {object{"addr": "file:" + stamp}, "OK " + stamp + " has 10 bytes, changed "},
		"with slashes":  {object{"addr": "file://" + stamp}, "OK "},
		"is not there":  {object{"addr": "file:" + dir + "/none"}, "Critical " + dir + "/none does not exist"},
		"young enough":  {object{"addr": "file:" + stamp, "age_warning": "3h"}, "OK "},
		"old":           {object{"addr": "file:" + stamp, "age_warning": 3600, "age_critical": "3h"}, "Warning " + stamp + " was not changed for more than 3600s: since "},
		"too old":       {object{"addr": "file:" + stamp, "age_warning": "1m", "age_critical": "1h"}, "Critical "},
		"too small":     {object{"addr": "file:" + stamp, "min_size_bytes": 11}, "Critical " + stamp + " has 10 bytes, at least 11 are expected"},
		"large":         {object{"addr": "file:" + stamp, "size_warning_bytes": 9}, "Warning " + stamp + " has 10 bytes, more than 9"},
		"both":          {object{"addr": "file:" + stamp, "size_critical_bytes": 5, "age_warning": "1h"}, "; " + stamp + " has 10 bytes, more than 5"},
		"says OK":       {object{"addr": "file:" + write("a", "OK: all well\nmore", 0), "dialect": "status"}, "OK all well"},
		"a bare word":   {object{"addr": "file:" + write("b", "warning\n", 0), "dialect": "status"}, "Warning Detected Warning state [no message specified]"},
		"of Windows":    {object{"addr": "file:" + write("w", "OK\r\nmore\r\n", 0), "dialect": "status"}, "OK Detected OK state [no message specified]"},
		"a code":        {object{"addr": "file:" + write("c", "2 disk full\n", 0), "dialect": "status"}, "Critical disk full"},
		"a document":    {object{"addr": "file:" + write("d", okDocument, 0), "dialect": "status"}, "OK fine"},
		"a path":        {object{"addr": "file:" + write("e", `{"a":{"b":"Warning"}}`, 0), "dialect": "status", "jsonpath": "a/b"}, "Warning Status from path a/b: Warning"},
		"neither":       {object{"addr": "file:" + write("f", "hello", 0), "dialect": "status"}, "holds neither"},
		"empty":         {object{"addr": "file:" + write("g", "", 0), "dialect": "status"}, "holds neither"},
		"old but OK":    {object{"addr": "file:" + write("h", "OK fine", time.Hour), "dialect": "status", "age_critical": "1m"}, "; it says: fine"},
		"a directory":   {object{"addr": "file:" + dir, "dialect": "status"}, "is not a regular file"},
		"no end":        {object{"addr": "file:/dev/zero", "dialect": "status"}, "is not a regular file"},
		"other dialect": {object{"addr": "file:" + stamp, "dialect": "goss"}, `has no dialect "goss"`},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := look(t, tt.url)
			t.Log(says(f), string(f.Document))
			is.True(strings.Contains(says(f), tt.want))
		})
	}
}

// Whatever the bus says, a worker runs what its own process's files say, and no
// more: the origin of an event can be forged.
func TestWorkerRunsItsOwnProgramsOnly(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	dir := t.TempDir()
	program := func(name string) json.RawMessage {
		return quoted("exec:" + script(t, "touch "+dir+"/"+name+"; echo ran"))
	}
	reg := func(id string, url json.RawMessage) events.Registration {
		return events.Registration{Host: "web01", ID: id, URL: url, Interval: never, Origin: "file:a.json"}
	}
	own := reg("own", program("own"))
	files := map[string]events.Registration{"web01/own": own}
	for _, id := range []string{"other program", "other arguments", "shorter", "a file", "other pool"} {
		files["web01/"+id] = reg(id, quoted("exec:/bin/true"))
	}
	files["web02/elsewhere"] = events.Registration{Host: "web02", ID: "elsewhere", URL: program("elsewhere"), Origin: "file:a.json"}
	local := func(host, id string) (events.Registration, bool) {
		r, ok := files[host+"/"+id]
		return r, ok
	}
	f.worker(pollers.Config{Name: "w1", Host: "web01", Pool: "@web02", Local: local})
	f.worker(pollers.Config{Name: "w2", Host: "web03"}) // has no files

	put := func(r events.Registration) {
		t.Helper()
		_, err := f.registry.Register(t.Context(), r) // as a raw event would
		is.NoErr(err)
	}
	put(own)
	attempts := map[string]events.Registration{
		"unknown":         reg("unknown", program("unknown")),
		"other program":   reg("other program", program("other")),
		"other arguments": reg("other arguments", json.RawMessage(`{"addr":"exec:/bin/true","args":["x"]}`)),
		"shorter":         {Host: "web01", ID: "shorter", URL: quoted("exec:/bin/true"), Interval: events.Duration(events.MinDuration), Origin: "file:a.json"},
		"capitals":        reg("capitals", json.RawMessage(strings.Replace(string(program("capitals")), "exec:", "EXEC://", 1))),
		"a file":          reg("a file", quoted("file:/etc/passwd")),
		"process":         reg("process", quoted("process:init")),
		"unit":            reg("unit", quoted("systemd:ssh.service")),
		"another pool":    {Host: "web01", ID: "another pool", URL: program("pool"), Pool: "default", Interval: never, Origin: "file:a.json"},
		"elsewhere":       files["web02/elsewhere"],
		"no files":        {Host: "web03", ID: "no files", URL: program("none"), Interval: never, Origin: "file:a.json"},
	}
	for _, r := range attempts {
		put(r)
	}
	all := f.wait(soon, func(all []bus.Incoming) bool {
		for id := range attempts {
			if len(of(all, id)) == 0 {
				return false
			}
		}
		return len(of(all, "own")) > 0
	})
	is.Equal(of(all, "own")[0].Result.Message, "ran")
	for id, r := range attempts {
		got := of(all, id)[0].Result
		is.Equal(got.Status, events.Critical)
		is.True(strings.Contains(got.Message, "only from checks.d on the host itself") || id == "a file" && got.Message == "timeout connecting to file:/etc/passwd")
		is.Equal(got.Pool, "@"+r.Host) // never another's
	}
	entries, err := os.ReadDir(dir)
	is.NoErr(err)
	is.Equal(len(entries), 1) // only its own program ran
	is.Equal(fmt.Sprint(entries[0].Name()), "own")
}
