package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// waitLimit is how long scripts wait for something; the machine may be busy.
const waitLimit = 30 * time.Second

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, "NO_PROXY=*", "USER=tester")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfile": scriptWaitfile, "httpget": scriptHTTPGet, "httpsend": scriptHTTPSend,
			"waitget": scriptWaitGet, "ready": scriptReady, "waitout": scriptWaitOut,
		},
	})
}

// eventuallyIn tries until ok is true.
func eventuallyIn(ts *testscript.TestScript, what string, ok func() bool) {
	for end := time.Now().Add(waitLimit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("%s: not within %s", what, waitLimit)
		}
	}
}

// waitfile FILE waits until it exists and is not empty; with "!", until it is gone.
func scriptWaitfile(ts *testscript.TestScript, neg bool, args []string) {
	eventuallyIn(ts, "waitfile "+args[0], func() bool {
		info, err := os.Stat(ts.MkAbs(args[0]))
		return neg == (err != nil || info.Size() == 0)
	})
}

// ready FILE waits for a ready file and sets $HTTP, $PORT, $BUS and $MEGAPHONE_BUS.
func scriptReady(ts *testscript.TestScript, neg bool, args []string) {
	scriptWaitfile(ts, neg, args)
	var r readiness
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &r))
	ts.Setenv("HTTP", r.HTTP)
	ts.Setenv("PORT", r.HTTP[strings.LastIndex(r.HTTP, ":")+1:])
	ts.Setenv("BUS", r.Bus)
	ts.Setenv("MEGAPHONE_BUS", r.Bus)
}

// httpget URL prints the body, for stdout and cmp; with "!", the answer must not be 200.
func scriptHTTPGet(ts *testscript.TestScript, neg bool, args []string) {
	code, body, err := fetch(http.MethodGet, args[0], "")
	ts.Check(err)
	if neg == (code == http.StatusOK) {
		ts.Fatalf("%s: %d: %s", args[0], code, body)
	}
	_, err = io.WriteString(ts.Stdout(), body)
	ts.Check(err)
}

// httpsend METHOD URL BODY CODE checks the code and prints the body.
func scriptHTTPSend(ts *testscript.TestScript, _ bool, args []string) {
	code, body, err := fetch(args[0], args[1], args[2])
	ts.Check(err)
	if fmt.Sprint(code) != args[3] {
		ts.Fatalf("%s %s: %d, want %s: %s", args[0], args[1], code, args[3], body)
	}
	_, err = io.WriteString(ts.Stdout(), body)
	ts.Check(err)
}

// waitget URL TEXT asks until the answer holds the text; with "!", until it does not.
func scriptWaitGet(ts *testscript.TestScript, neg bool, args []string) {
	last := ""
	defer func() { ts.Logf("%s: %s", args[0], last) }()
	eventuallyIn(ts, "waitget "+strings.Join(args, " "), func() bool {
		_, body, err := fetch(http.MethodGet, args[0], "")
		last = body
		return err == nil && neg != strings.Contains(body, args[1])
	})
}

// waitout FILE TEXT waits until a file that some process writes holds the text.
func scriptWaitOut(ts *testscript.TestScript, neg bool, args []string) {
	eventuallyIn(ts, "waitout "+strings.Join(args, " "), func() bool {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && neg != strings.Contains(string(b), args[1])
	})
}

func fetch(method, url, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}
