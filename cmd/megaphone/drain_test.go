package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// drainRig is ten hosts with one push check each, and a directory in which the
// drain command leaves a file for each host that it took out.
type drainRig struct {
	*process
	out string // the directory
}

func newDrainRig(t *testing.T) *drainRig {
	t.Helper()
	r := &drainRig{process: serve(t, t.TempDir()), out: t.TempDir()}
	for i := range 10 {
		host := fmt.Sprintf("h%02d", i)
		r.must("PUT", "/hosts/"+host+"/checks/app", `{"ttl":"1h"}`, http.StatusCreated)
		r.push(host, "OK")
	}
	return r
}

func (r *drainRig) push(host, status string) {
	r.t.Helper()
	r.must("PUT", "/hosts/"+host+"/checks/app/status", fmt.Sprintf(`{"status":%q}`, status), http.StatusNoContent)
}

// drained waits until exactly these hosts are out.
func (r *drainRig) drained(want ...string) {
	r.t.Helper()
	eventually(r.t, 60*time.Second, fmt.Sprint("drained: ", want), func() error {
		got := []string{}
		files, err := os.ReadDir(r.out)
		for _, f := range files {
			got = append(got, f.Name())
		}
		if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			return fmt.Errorf("%v %w", got, errNotYet)
		}
		return nil
	})
}

func says(t *testing.T, out *syncBuffer, text string) {
	t.Helper()
	eventually(t, 60*time.Second, "it says "+text, func() error {
		if !strings.Contains(out.String(), text) {
			return errNotYet
		}
		return nil
	})
}

// Drain takes out what is Critical and looked at, and what is silent; not what was
// set by hand; no more than a fifth; and after a kill -9 it knows what is so.
func TestDrainExample(t *testing.T) {
	is := is.New(t)
	program := filepath.Join(t.TempDir(), "drain")
	build, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../deploy/examples").CombinedOutput()
	t.Log(string(build))
	is.NoErr(err)
	r := newDrainRig(t)
	args := []string{program, "--bus", r.Ready.Bus, "--drain", "touch " + r.out + "/{host}", "--undrain", "rm " + r.out + "/{host}"}
	cmd, out := background(t, args...)
	says(t, out, "10 hosts")
	r.push("h00", "Critical")
	r.drained("h00")
	r.must("PUT", "/hosts/h01/override", `{"status":"Critical","until":"1h"}`, http.StatusOK)
	r.must("PUT", "/hosts/h02/checks/app/status", `{"status":"OK","ttl":"1s"}`, http.StatusNoContent)
	r.drained("h00", "h02") // silent; and h01 came before
	r.push("h03", "Critical")
	says(t, out, "h03 is NOT drained: 2 of 10 hosts are, and the limit is 20 %")
	r.push("h00", "OK")
	r.drained("h02", "h03") // there is room now

	is.NoErr(cmd.Process.Kill())
	r.push("h03", "OK")
	r.push("h04", "Critical")
	_, again := background(t, args...)
	says(t, again, "10 hosts")
	r.drained("h02", "h03", "h04") // it does not know that h03 was drained before it
	is.True(!strings.Contains(again.String(), "h02"))
}

// The same with the nats tool and a shell.
func TestDrainShellExample(t *testing.T) {
	is := is.New(t)
	nats := natsCLI(t)
	r := newDrainRig(t)
	tools := t.TempDir()
	for name, text := range map[string]string{"out": "touch", "in": "rm"} {
		is.NoErr(os.WriteFile(filepath.Join(tools, name), []byte("#!/bin/sh\n"+text+" "+r.out+"/\"$1\"\n"), 0o700))
	}
	args := []string{
		"env", "NATS_URL=" + r.Ready.Bus, "NATS_CLI=" + nats, "sh", "../../deploy/examples/drain.sh", t.TempDir(), tools + "/out", tools + "/in",
	}
	cmd, out := background(t, args...)
	says(t, out, "ready")
	r.push("h00", "Critical")
	r.drained("h00")
	r.must("PUT", "/hosts/h01/override", `{"status":"Critical","until":"1h"}`, http.StatusOK)
	r.must("PUT", "/hosts/h02/checks/app/status", `{"status":"OK","ttl":"1s"}`, http.StatusNoContent)
	r.drained("h00", "h02")
	r.push("h03", "Critical")
	says(t, out, "h03 is NOT drained: 2 of 10 hosts are, and the limit is 20 %")

	is.NoErr(cmd.Process.Kill())
	r.push("h00", "OK")
	r.push("h04", "Critical")
	background(t, args...)
	r.drained("h02", "h04") // the bus kept its place, and DIR what was drained
}
