package pollers_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

const addr = "http://web01:8080/status"

// The document of the original's cases about paths.
const nested = `{"megaphone": {"status": "Warning", "n": {"status": "Critical"}, "num": 7, "obj": {"a": 1}, "list": [{"status": "OK"}]}, "status": "OK", "message": "root message"}`

// Texts and statuses are those that the original's recorded cases demand.
func TestRead(t *testing.T) {
	plain := events.Target{Addr: addr}
	path := func(p string) events.Target { return events.Target{Addr: addr, JSONPath: p, Object: true} }
	override := func(s string) events.Target { return events.Target{Addr: addr, Override: s, Object: true} }
	for name, tt := range map[string]struct {
		target events.Target
		body   string
		status events.Status
		text   string
	}{
		"status and message":        {plain, `{"status": "Warning", "message": "disk 91%"}`, events.Warning, "disk 91%"},
		"OK":                        {plain, `{"status": "OK", "message": "fine"}`, events.OK, "fine"},
		"no message":                {plain, `{"status": "OK"}`, events.OK, "Detected OK state [no message specified]"},
		"empty message":             {plain, `{"status": "Unknown", "message": ""}`, events.Unknown, ""},
		"message null is none":      {plain, `{"status": "OK", "message": null}`, events.OK, "Detected OK state [no message specified]"},
		"message is an object":      {plain, `{"status": "Warning", "message": {"a": [1, true]}}`, events.Warning, `{"a":[1,true]}`},
		"message is a number":       {plain, `{"status": "Warning", "message": 1.50}`, events.Warning, "1.50"},
		"message of several lines":  {plain, `{"status": "Critical", "message": "l1\nl2\tx"}`, events.Critical, "l1\nl2\tx"},
		"message in unicode":        {plain, `{"status": "Warning", "message": "☃ 90% | a:b \\ \"q\" <b>"}`, events.Warning, `☃ 90% | a:b \ "q" <b>`},
		"message of half a pair":    {plain, `{"status": "OK", "message": "a\ud800b"}`, events.OK, "a\uFFFDb"},
		"message too long":          {plain, `{"status": "OK", "message": "` + strings.Repeat("é", 4000) + `"}`, events.OK, strings.Repeat("é", 2046) + "..."},
		"no status":                 {plain, `{"message": "hello"}`, events.Critical, "No status was found on given path!"},
		"keys are case-sensitive":   {plain, `{"Status": "OK"}`, events.Critical, "No status was found on given path!"},
		"the last of two keys wins": {plain, `{"status": "OK", "message": "a", "status": "Warning", "message": "b"}`, events.Warning, "b"},
		"status in lower case":      {plain, `{"status": "ok", "message": "x"}`, events.Critical, "ERROR: status value 'ok' not valid!"},
		"invalid status":            {plain, `{"status": "FAIL"}`, events.Critical, "ERROR: status value 'FAIL' not valid!"},
		"status is empty":           {plain, `{"status": ""}`, events.Critical, "ERROR: status value '' not valid!"},
		"status is a number":        {plain, `{"status": 0}`, events.Critical, "ERROR: status value '0' not valid!"},
		"status is a huge number":   {plain, `{"status": 1e999999999}`, events.Critical, "ERROR: status value '1e999999999' not valid!"},
		"status is null":            {plain, `{"status": null}`, events.Critical, "ERROR: status value 'null' not valid!"},
		"status is an object":       {plain, `{"status": {"a": [1, "b"]}}`, events.Critical, `ERROR: status value '{"a":[1,"b"]}' not valid!`},
		"status is escaped":         {plain, `{"status": "\u004fK"}`, events.OK, "Detected OK state [no message specified]"},
		"blanks around":             {plain, " \r\n{\"status\": \"OK\", \"message\": \"\"}\n\n", events.OK, ""},
		"byte order mark":           {plain, "\xEF\xBB\xBF" + `{"status": "OK", "message": "m"}`, events.OK, "m"},
		"not UTF-8":                 {plain, "{\"status\": \"OK\", \"message\": \"caf\xe9\"}", events.OK, "caf\uFFFD"},
		"a string":                  {plain, `"OK"`, events.Critical, "status document is not a JSON object"},
		"a list":                    {plain, `["a", "b"]`, events.Critical, "status document is not a JSON object"},
		"null":                      {plain, `null`, events.Critical, "status document is not a JSON object"},
		"not JSON":                  {plain, `<html>hi</html>`, events.Critical, "timeout connecting to " + addr},
		"nothing":                   {plain, ``, events.Critical, "timeout connecting to " + addr},
		"broken JSON":               {plain, `{"status": "OK"`, events.Critical, "timeout connecting to " + addr},
		"more after the document":   {plain, `{"status": "OK"} {}`, events.Critical, "timeout connecting to " + addr},
		"nested too deeply":         {plain, `{"status": "OK", "a": ` + strings.Repeat("[", 600) + strings.Repeat("]", 600) + `}`, events.Critical, "timeout connecting to " + addr},
		"a bomb":                    {plain, strings.Repeat("[", 60_000), events.Critical, "timeout connecting to " + addr},
		"brackets in a string":      {plain, `{"status": "OK", "message": "\"` + strings.Repeat("[", 600) + `"}`, events.OK, `"` + strings.Repeat("[", 600)},
		"too large":                 {plain, `{"status": "OK", "message": "` + strings.Repeat("x", 200_000) + `"}`, events.Critical, "status document is larger than 65536 bytes"},
		"too large once repaired":   {plain, `{"status": "OK", "message": "` + strings.Repeat("\xffa", 32_000) + `"}`, events.Critical, "status document is larger than 65536 bytes"},

		"path":                    {path("megaphone/status"), nested, events.Warning, "Status from path megaphone/status: Warning"},
		"deep path":               {path("megaphone/n/status"), nested, events.Critical, "Status from path megaphone/n/status: Critical"},
		"empty segments":          {path("//megaphone//status/"), nested, events.Warning, "Status from path //megaphone//status/: Warning"},
		"root key":                {path("status"), nested, events.OK, "Status from path status: OK"},
		"empty path is none":      {path(""), nested, events.OK, "root message"},
		"only slashes are none":   {path("//"), nested, events.OK, "root message"},
		"list index":              {path("megaphone/list/0/status"), nested, events.OK, "Status from path megaphone/list/0/status: OK"},
		"index beyond the list":   {path("megaphone/list/1/status"), nested, events.Critical, "error collecting results from addr: " + addr + ", jsonpath: megaphone/list/1/status"},
		"negative index":          {path("megaphone/list/-1/status"), nested, events.Critical, "error collecting results from addr: " + addr + ", jsonpath: megaphone/list/-1/status"},
		"unresolved":              {path("megaphone/nope"), nested, events.Critical, "error collecting results from addr: " + addr + ", jsonpath: megaphone/nope"},
		"through a number":        {path("megaphone/num/x"), nested, events.Critical, "error collecting results from addr: " + addr + ", jsonpath: megaphone/num/x"},
		"an expression":           {path(`megaphone"]["status`), nested, events.Critical, "error collecting results from addr: " + addr + `, jsonpath: megaphone"]["status`},
		"to a number":             {path("megaphone/num"), nested, events.Critical, "ERROR: status value '7' not valid!"},
		"to an object":            {path("megaphone/obj"), nested, events.Critical, `ERROR: status value '{"a":1}' not valid!`},
		"path into a list":        {path("0/status"), `[{"status": "OK"}]`, events.Critical, "error collecting results from addr: " + addr + ", jsonpath: 0/status"},
		"path, not JSON":          {path("a"), `<html>`, events.Critical, "error collecting results from addr: " + addr + ", jsonpath: a"},
		"path, document too big":  {path("a"), strings.Repeat(" ", 70_000), events.Critical, "status document is larger than 65536 bytes"},
		"override":                {override("OK"), `{"status": "Critical", "message": "x"}`, events.OK, "NOTICE: statusoverride used!"},
		"override, not JSON":      {override("Warning"), `x`, events.Warning, "NOTICE: statusoverride used!"},
		"override of a list":      {override("OK"), `["a"]`, events.OK, "NOTICE: statusoverride used!"},
		"override and path":       {events.Target{Addr: addr, JSONPath: "nope", Override: "OK"}, nested, events.OK, "NOTICE: statusoverride used!"},
		"invalid override":        {override("bad"), `{"status": "OK"}`, events.Critical, "ERROR: invalid status 'bad' written to statusoverride!"},
		"no addr":                 {events.Target{JSONPath: "a", Object: true}, `{"status": "OK"}`, events.Critical, "ERROR: couldn't find addr in url, nothing to check"},
		"override without addr":   {events.Target{Override: "OK", Object: true}, ``, events.Critical, "ERROR: couldn't find addr in url, nothing to check"},
		"bad override, no addr":   {events.Target{Override: "x", Object: true}, ``, events.Critical, "ERROR: couldn't find addr in url, nothing to check"},
		"override of what is big": {override("OK"), strings.Repeat(" ", 70_000), events.OK, "NOTICE: statusoverride used!"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			r := pollers.Read(tt.target, []byte(tt.body))
			is.Equal(r.Status, tt.status)
			is.Equal(r.Message, tt.text)
		})
	}
}

func TestReadKeepsDocument(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{
		"as it came":               {`{"status": "OK", "n": 1.50, "big": 12345678901234567890123}`, `{"status": "OK", "n": 1.50, "big": 12345678901234567890123}`},
		"a list":                   {`["a", "b"]`, `["a", "b"]`},
		"a string":                 {`"OK"`, `"OK"`},
		"with an invalid status":   {`{"status": 0}`, `{"status": 0}`},
		"not UTF-8 is made so":     {"{\"a\xe9\": \"\xff\xfe\"}", "{\"a\uFFFD\": \"\uFFFD\"}"},
		"not JSON":                 {`x`, ""},
		"larger than what is kept": {`"` + strings.Repeat("x", events.MaxDocument) + `"`, ""},
		"as large as what is kept": {`"` + strings.Repeat("x", events.MaxDocument-2) + `"`, `"` + strings.Repeat("x", events.MaxDocument-2) + `"`},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			for _, target := range []events.Target{{Addr: addr}, {Addr: addr, Override: "OK"}, {Addr: addr, JSONPath: "a/b"}} {
				is.Equal(string(pollers.Read(target, []byte(tt.body)).Document), tt.want)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	for name, tt := range map[string]struct {
		target events.Target
		status events.Status
		text   string
	}{
		"plain":            {events.Target{Addr: addr}, events.Critical, "timeout connecting to " + addr},
		"path":             {events.Target{Addr: addr, JSONPath: "/a/b"}, events.Critical, "error collecting results from addr: " + addr + ", jsonpath: /a/b"},
		"override":         {events.Target{Addr: addr, Override: "OK"}, events.OK, "NOTICE: statusoverride used!"},
		"invalid override": {events.Target{Addr: addr, Override: "ok"}, events.Critical, "ERROR: invalid status 'ok' written to statusoverride!"},
		"no addr":          {events.Target{Override: "OK"}, events.Critical, "ERROR: couldn't find addr in url, nothing to check"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			is.Equal(pollers.Missing(tt.target), pollers.Reading{Status: tt.status, Message: tt.text})
		})
	}
}

// A service with both a long path and a deep document must not take long: each
// step reads what is below it again.
func TestReadDeepPath(t *testing.T) {
	is := is.New(t)
	const levels = 500
	body := strings.Repeat(`{"a":`, levels) + `"` + strings.Repeat("x", 60_000) + `"` + strings.Repeat("}", levels)
	start := time.Now()
	r := pollers.Read(events.Target{Addr: addr, JSONPath: strings.Repeat("a/", levels+1)}, []byte(body))
	is.Equal(r.Status, events.Critical)
	is.True(time.Since(start) < 5*time.Second) // bounded work
}

// FuzzRead demands that what is kept of any answer can be sent, and says the
// same when it is read again.
func FuzzRead(f *testing.F) {
	for _, body := range []string{
		nested, `{"status": "OK"}`, `["a"]`, `"OK"`, `null`, "\xEF\xBB\xBF{}", "{\"status\":\"O\xff\"}",
		`{"status":"OK","status":{"a":1e400}}`, `{"message":"\ud800"}`, strings.Repeat("[", 600) + strings.Repeat("]", 600),
	} {
		f.Add([]byte(body), "", "")
		f.Add([]byte(body), "megaphone/list/0/status", "")
		f.Add([]byte(body), "status", "OK")
	}
	f.Fuzz(func(t *testing.T, body []byte, path, override string) {
		target := events.Target{Addr: addr, JSONPath: path, Override: override}
		r := pollers.Read(target, body)
		if !utf8.ValidString(r.Message) || len(r.Message) > events.MaxMessage {
			t.Fatalf("message %q", r.Message)
		}
		if _, err := events.ParseStatus(r.Status.String()); err != nil {
			t.Fatal(err)
		}
		if r.Document == nil {
			return
		}
		if !json.Valid(r.Document) || !utf8.Valid(r.Document) || len(r.Document) > events.MaxDocument {
			t.Fatalf("document %q", r.Document)
		}
		again := pollers.Read(target, r.Document)
		if again.Status != r.Status || again.Message != r.Message || string(again.Document) != string(r.Document) {
			t.Fatalf("unstable: %v then %v", r, again)
		}
		sendable(t, r)
	})
}

// sendable takes a reading through the codec of the bus.
func sendable(t *testing.T, r pollers.Reading) {
	b, err := events.Encode(events.Header{Type: events.TypeResult, Source: "urn:x", ID: "1", Host: "h", Check: "c", Time: time.Unix(0, 0)},
		events.Result{Status: r.Status, Message: r.Message, Document: r.Document})
	if err != nil {
		t.Fatal(err)
	}
	e, err := events.Decode(b)
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	var got events.Result
	if err := events.DataAs(e, &got); err != nil || got.Status != r.Status || got.Message != r.Message {
		t.Fatalf("%v: %v became %v", err, r, got)
	}
}
