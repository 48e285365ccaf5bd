package bus

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/events"
)

// FuzzJournal demands of any registrations file that what is read of it is
// written and read again as the same, and that a first line that is no head is
// taken for none.
func FuzzJournal(f *testing.F) {
	const head = `{"v":1,"stream":"REGISTRATIONS","created":"2026-11-22T10:00:00Z","position":7}` + "\n"
	const line = `{"position":9,"subject":"megaphone.reg.web01.db","stored":"2026-11-22T10:00:01Z","event":{"a": 1}}` + "\n"
	for _, text := range []string{
		"", head, head + line, head + line + line[:40], line, head + "x\n" + line, `{"v":2}` + "\n", `{"v":1,"position":5,"created":"now"}` + "\n" + line,
		`{"position":5,"created":"2026-11-22T10:00:00Z"}` + "\n", head + `{"subject":"x","event":null}` + "\n", head + "\n\n" + line, "null\n" + line,
	} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, "registrations.jsonl")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		info, lines, err := journalOf(path)
		if err != nil {
			return // a later version
		}
		if info.head.V == 0 && info.head != (journalHead{}) {
			t.Fatalf("half a head: %+v", info.head)
		}
		for _, l := range lines {
			if l.Subject == "" || l.Position > info.last.Position {
				t.Fatalf("%+v beyond %+v", l, info.last)
			}
		}
		for range 2 { // events are compacted the first time
			had := lines
			rewrite(t, path, info.head, lines)
			if info, lines, err = journalOf(path); err != nil || info.head.V != journalVersion {
				t.Fatalf("%+v, %v", info, err)
			}
			if !reflect.DeepEqual(placesOf(lines), placesOf(had)) {
				t.Fatalf("%+v\nis read again as\n%+v", had, lines)
			}
			text, err = os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
		}
		rewrite(t, path, info.head, lines)
		if again, err := os.ReadFile(path); err != nil || string(again) != string(text) {
			t.Fatalf("%q\nis written again as\n%q, %v", text, again, err)
		}
	})
}

func journalOf(path string) (info journalInfo, lines []journalLine, err error) {
	info, err = readJournal(path, slog.New(slog.DiscardHandler), func(l journalLine) error {
		lines = append(lines, l)
		return nil
	})
	return info, lines, err
}

func rewrite(t *testing.T, path string, head journalHead, lines []journalLine) {
	w, err := createJournal(path, ".new", head)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if err := w.add(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.b.Flush(), w.f.Close(), os.Rename(w.tmp, path)); err != nil { // commit, without its syncs
		t.Fatal(err)
	}
}

// placesOf are lines without their events, which are compacted.
func placesOf(lines []journalLine) []journalLine {
	var out []journalLine
	for _, l := range lines {
		out = append(out, journalLine{Position: l.Position, Subject: l.Subject, Stored: l.Stored.UTC()})
	}
	return out
}

// FuzzCache demands of any cache of the original that what is read of it is
// written and read again as the same, and that what is registered is valid.
func FuzzCache(f *testing.F) {
	for _, text := range []string{
		`{"db": "http://x/", "--global": {"status":"Critical"}}`, "\ufeff{}", "", "null", "[]", `{"a":1}{}`, `{"a":1,"a":{"addr":"http://y/"}}`, `{"":null}`, "{\"\xff\": \"<&>\u2028\"}",
	} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), "cache")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, urls, err := readCache(path)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Fatal(err)
			}
			return
		}
		for id, url := range urls {
			if subject, _, data, err := cached("web01", id, url); err == nil {
				if _, err := json.Marshal(data); err != nil || subject == "" {
					t.Fatalf("%q: %v", id, err)
				}
			}
		}
		c := newCacheFile(path, slog.New(slog.DiscardHandler), func() map[string]json.RawMessage { return urls })
		content, err := c.content()
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, again, err := readCache(path); err != nil || !reflect.DeepEqual(again, urls) {
			t.Fatalf("%q\nis read again as\n%q, %v", urls, again, err)
		}
	})
}

// FuzzReadEvent demands of any message that what is read of it is valid.
func FuzzReadEvent(f *testing.F) {
	const structured = `{"specversion":"1.0","id":"7","source":"urn:x","type":"megaphone.check.result.v1","time":"2026-11-22T10:00:00Z","data":{"status":"Warning","message":"m"}}`
	const bare = `{"status":"OK","message":"m"}`
	f.Add("megaphone.result.web01.db", events.ContentType, "", "x", "", []byte(structured))
	f.Add("megaphone.polled.web01.db", "Application/CloudEvents+JSON; charset=utf-8", "", "x", "", []byte(structured))
	f.Add("megaphone.result.web01.db", "", "", "x", "", []byte(structured))
	f.Add("megaphone.result.web01.db", "application/json", "1.0", "ce-time", "2026-11-22T10:00:00Z", []byte(bare))
	f.Add("megaphone.result.web01.a%2Fb", "", "1.0", "CE-Subject", "Euro%20%E2%82%AC", []byte(bare))
	f.Add("megaphone.result.web01.db", "", "1.0", "ce-data", "%zz", []byte("\xff"))
	f.Add("megaphone.result.web01.db", "", "", "x", "", []byte(bare))
	f.Fuzz(func(t *testing.T, subject, contentType, version, name, value string, data []byte) {
		m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
		if contentType != "" {
			m.Header["Content-Type"] = []string{contentType}
		}
		if version != "" {
			m.Header["ce-specversion"] = []string{version}
			m.Header["ce-id"], m.Header["ce-source"], m.Header["ce-type"] = []string{"1"}, []string{"urn:x"}, []string{events.TypeResult}
		}
		m.Header[name] = []string{value}
		e, err := ReadEvent(Plain(m))
		switch {
		case err != nil && !errors.Is(err, events.ErrEvent):
			t.Fatalf("another error: %v", err)
		case err == nil && events.Validate(e) != nil:
			t.Fatalf("%v\nis not valid: %v", e, events.Validate(e))
		}
		in, err := ReadStoredResult(Plain(m), 7, time.Unix(1, 0))
		if err != nil {
			return
		}
		host, hostErr := events.ParseHost(in.Host)
		check, checkErr := events.ParseCheck(in.Check)
		_, statusErr := events.ParseStatus(in.Result.Status.String())
		if err := errors.Join(hostErr, checkErr, statusErr); err != nil || host != in.Host || check != in.Check || in.ID == "" {
			t.Fatalf("%+v: %v", in, err)
		}
	})
}
