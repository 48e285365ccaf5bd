package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/matryer/is"
)

var (
	console = regexp.MustCompile("(?s)```console\n(.*?)```")
	date    = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[A-Z]+`)
)

// The session in the README works as it is written, dates aside.
func TestReadmeSession(t *testing.T) {
	is := is.New(t)
	real(t, "curl")
	real(t, "python3")
	b, err := os.ReadFile("../../README.md")
	is.NoErr(err)
	session := console.FindStringSubmatch(string(b))
	is.Equal(len(session), 2) // there is one session
	p := serve(t, t.TempDir())
	web := freeAddress(t)
	ports := strings.NewReplacer("localhost:18001", strings.TrimPrefix(p.Ready.HTTP, "http://"),
		"localhost:8080", web, "-b 127.0.0.1 8080", "-b 127.0.0.1 "+web[strings.LastIndex(web, ":")+1:])
	script, want := strings.Builder{}, ""
	for line := range strings.Lines(session[1]) {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			want += line
			continue
		}
		command = strings.TrimSuffix(ports.Replace(command), "\n")
		if strings.HasPrefix(command, "curl ") {
			command = strings.Replace(command, "curl ", "curl -sS ", 1) + " | sed -e '$a\\'" // answers have no newline at their end
		}
		script.WriteString(command + "\n")
		if strings.HasSuffix(command, "&") { // a person types slower than it starts
			script.WriteString("until curl -s -o /dev/null " + web + "; do sleep 0.1; done\n")
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", "trap 'kill $(jobs -p)' EXIT\n"+script.String())
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	is.NoErr(err)
	is.Equal(date.ReplaceAllString(string(out), "DATE"), date.ReplaceAllString(ports.Replace(want), "DATE"))
}
