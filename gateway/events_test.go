package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// ce is a structured event; data is JSON, empty for none.
func ce(kind, id, subject, data string) string {
	e := fmt.Sprintf(`{"specversion":"1.0","type":%q,"source":"urn:test","id":%q,"subject":%q`, kind, id, subject)
	if data != "" {
		e += `,"datacontenttype":"application/json","data":` + data
	}
	return e + "}"
}

const structured, batched = "application/cloudevents+json; charset=UTF-8", batchType

func TestPostEvents(t *testing.T) {
	is := is.New(t)
	r := start(t)
	post := func(kind, body string, header ...string) answer {
		t.Helper()
		return r.do("POST", "/events", body, append([]string{"Content-Type", kind}, header...)...)
	}
	results, err := r.conn.JetStream().Stream(t.Context(), bus.StreamResults)
	is.NoErr(err)
	last := func() (jetstream.RawStreamMsg, uint64) {
		t.Helper()
		info, err := results.Info(t.Context())
		is.NoErr(err)
		m, err := results.GetMsg(t.Context(), info.State.LastSeq)
		is.NoErr(err)
		return *m, info.State.Msgs
	}

	is.Equal(post(structured, ce(events.TypeRegistered, "1", "", `{"host":"web02","id":"q","ttl":"60s"}`)).code, 204)
	_, ok := r.view.Check("web02", "q", time.Now())
	is.True(ok)

	// A result is stored as its sender made it.
	is.Equal(post(structured, ce(events.TypeResult, "2", "hosts/web02/checks/q", `{"status":"OK","x":1}`)).code, 204)
	m, n := last()
	is.Equal(n, uint64(1))
	e, err := events.Decode(m.Data)
	is.NoErr(err)
	is.Equal(e.ID(), "2")
	is.Equal(e.Source(), "urn:test")
	is.Equal(string(e.Data()), `{"status":"OK","x":1}`)
	is.True(!e.Time().IsZero())
	is.Equal(post(structured, ce(events.TypeResult, "2", "hosts/web02/checks/q", `{"status":"OK"}`)).code, 204)
	_, n = last()
	is.Equal(n, uint64(1)) // a repetition

	// Binary mode.
	binary := []string{
		"ce-specversion", "1.0", "CE-Type", events.TypeResult, "ce-source", "urn:b", "ce-id", "3", "ce-subject", "hosts/web02/checks/q", "ce-note", "a%20b",
	}
	is.Equal(post("application/json", `{"status":"OK"}`, binary...).code, 204)
	m, _ = last()
	e, err = events.Decode(m.Data)
	is.NoErr(err)
	is.Equal(e.Extensions()["note"], "a b")
	is.Equal(string(e.Data()), `{"status":"OK"}`)
	post("text/plain", `OK`, binary...).problem(t, 415)

	is.Equal(post(structured, ce(events.TypeOverrideSet, "4", "hosts/web02", `{"status":"Critical","forever":true}`)).code, 204)
	is.Equal(r.get("/hosts/web02").object(t)["status"], "Critical")
	is.Equal(post(structured, ce(events.TypeOverrideCleared, "5", "hosts/web02", ``)).code, 204)
	is.Equal(post(structured, ce(events.TypeOverrideSet, "6", "", `{"name":"rack","select":{"a":"b"},"maintenance":true,"forever":true}`)).code, 204)
	is.Equal(post(structured, ce(events.TypeOverrideCleared, "7", "", `{"name":"rack"}`)).code, 204)
	is.Equal(post(structured, ce(events.TypeDeregistered, "8", "hosts/web02/checks/q", ``)).code, 204)
	r.get("/hosts/web02/checks/q").problem(t, 404)

	for name, tt := range map[string]struct {
		kind, body string
		code       int
	}{
		"no event":         {"application/json", `{}`, 400},
		"no content type":  {"", `{"status":"OK"}`, 400},
		"another format":   {"application/cloudevents+xml", `<a/>`, 400},
		"another type":     {structured, ce("x", "1", "hosts/a/checks/b", `{}`), 400},
		"no subject":       {structured, ce(events.TypeResult, "1", "", `{"status":"OK"}`), 400},
		"a strange one":    {structured, ce(events.TypeResult, "1", "web01/a", `{"status":"OK"}`), 400},
		"a bad status":     {structured, ce(events.TypeResult, "1", "hosts/a/checks/b", `{"status":"fine"}`), 400},
		"no data":          {structured, ce(events.TypeResult, "1", "hosts/a/checks/b", ``), 400},
		"two hosts":        {structured, ce(events.TypeRegistered, "1", "hosts/a/checks/b", `{"host":"c","id":"b","ttl":5}`), 400},
		"nothing there":    {structured, ce(events.TypeDeregistered, "1", "hosts/a/checks/b", ``), 404},
		"the SDK's panic":  {structured, `{"datacontentencoding":"","specversion":"0.3","id":"1","source":"a","type":"t"}`, 400},
		"an empty batch":   {batched, `{}`, 400},
		"a batch and more": {batched, `[] []`, 400},
		"too many":         {batched, "[" + strings.Repeat("1,", maxBatch) + "1]", 413},
		"too much":         {batched, `["` + strings.Repeat("x", maxBatchBytes) + `"]`, 413},
	} {
		t.Run(name, func(t *testing.T) { post(tt.kind, tt.body).problem(t, tt.code) })
	}
}

func TestPostBatch(t *testing.T) {
	is := is.New(t)
	r := start(t)
	post := func(list ...string) answer {
		return r.do("POST", "/events", "["+strings.Join(list, ",")+"]", "Content-Type", batched)
	}
	good := ce(events.TypeRegistered, "1", "hosts/web02/checks/q", `{"id":"q","ttl":"60s"}`)
	is.Equal(post(good, ce(events.TypeResult, "2", "hosts/web02/checks/q", `{"status":"OK"}`)).code, 204)
	is.Equal(post().code, 204)
	got := post(good, ce(events.TypeResult, "3", "hosts/web02/checks/q", `{}`), `5`)
	is.Equal(got.code, 202)
	var a batchAnswer
	is.NoErr(json.Unmarshal([]byte(got.body), &a))
	is.Equal(a.Accepted, 1)
	is.Equal(len(a.Errors), 2)
	is.Equal(a.Errors[0].Index, 1)
	is.Equal(a.Errors[0].ID, "3")
	is.Equal(a.Errors[0].Status, 400)
	got = post(`5`)
	got.problem(t, 400)
	is.True(strings.Contains(got.body, `"index":0`))
}

// sse is one server-sent event.
type sse struct{ id, event, data string }

// watch reads GET /events in the background; next gives the next event.
type watch struct {
	tb     testing.TB
	events chan sse
	stop   func()
}

func (r *rig) watch(query string, header ...string) *watch {
	r.tb.Helper()
	ctx, cancel := context.WithCancel(r.tb.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/events"+query, nil)
	must(r.tb, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	must(r.tb, err)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		r.tb.Fatalf("GET /events: %d", res.StatusCode)
	}
	w := &watch{tb: r.tb, events: make(chan sse, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(w.events)
		scan := bufio.NewScanner(res.Body)
		scan.Buffer(nil, 1<<20)
		var e sse
		for scan.Scan() {
			name, value, _ := strings.Cut(scan.Text(), ": ")
			switch name {
			case "id":
				e.id = value
			case "event":
				e.event = value
			case "data":
				e.data = value
			case "":
				if e != (sse{}) && e.event != "" {
					w.events <- e
				}
				e = sse{}
			}
		}
	}()
	w.stop = func() {
		cancel()
		_ = res.Body.Close()
		<-done
	}
	r.tb.Cleanup(w.stop)
	return w
}

func (w *watch) next() sse {
	w.tb.Helper()
	select {
	case e, ok := <-w.events:
		if !ok {
			w.tb.Fatal("the stream has ended")
		}
		return e
	case <-time.After(10 * time.Second):
		w.tb.Fatal("no event")
	}
	return sse{}
}

func TestGetEvents(t *testing.T) {
	is := is.New(t)
	r := start(t)
	first := r.commit(live("web01", "a", 1, events.OK, "", 1))
	all := r.watch("?after=0")
	is.Equal(all.next().id, fmt.Sprint(first)) // the gateway has it
	fresh := r.watch("")
	second := r.commit(live("web01", "a", 1, events.Critical, "x\ny", 2))
	other := r.commit(live("web02", "b", 1, events.OK, "", 3))
	host := r.commitHost(events.HostState{Host: "web01", Status: events.Critical, Phase: events.Live})

	e := fresh.next()
	is.Equal(e.id, fmt.Sprint(second)) // nothing from before
	is.Equal(e.event, events.TypeCheckChanged)
	got, err := events.Decode([]byte(e.data))
	is.NoErr(err)
	is.Equal(got.ID(), "web01.a#2")
	var tr events.Transition
	is.NoErr(events.DataAs(got, &tr))
	is.Equal(tr.Number, uint64(2))
	is.Equal(tr.Message, "x\ny")
	for _, w := range []*watch{all} {
		is.Equal(w.next().id, fmt.Sprint(second))
		is.Equal(w.next().id, fmt.Sprint(other))
		is.Equal(w.next().id, fmt.Sprint(host))
	}

	is.Equal(r.watch("?after=0&host=web02").next().id, fmt.Sprint(other))
	is.Equal(r.watch("?after=0&host=web01&check=a").next().id, fmt.Sprint(first))
	is.Equal(r.watch("?after=0&type="+events.TypeHostChanged).next().id, fmt.Sprint(host))
	is.Equal(r.watch("?after=0", "Last-Event-ID", fmt.Sprint(second)).next().id, fmt.Sprint(other))

	is.Equal(r.watch("?since=1h&check=b").next().id, fmt.Sprint(other))
	is.Equal(r.watch("?after=0&hosts").next().id, fmt.Sprint(host))
	is.Equal(r.watch("?after=0&status=Critical&host=web*&check=?").next().id, fmt.Sprint(second))

	for _, bad := range []string{"?after=x", "?since=yesterday", "?type=x", "?host=a%20b", "?status=bad", "?hosts&check=a"} {
		r.get("/events"+bad).problem(t, 400)
	}
	is.Equal(r.do("HEAD", "/events", "").code, 200)

	r.stop()
	e = fresh.next()
	for e.event != eventClosed {
		e = fresh.next()
	}
	is.True(strings.Contains(e.data, "stops"))
}

// A client that resumes from before what the gateway has in memory reads the
// stream, and then goes on live, without gap or repetition.
func TestGetEventsCatchesUp(t *testing.T) {
	is := is.New(t)
	r := start(t)
	var want []string
	for i := range 300 {
		pos := r.commit(live("web01", "a", 1, events.Statuses()[i%4], "", uint64(i+1)))
		want = append(want, fmt.Sprint(pos))
	}
	r2 := startOn(t, r.bus) // its memory begins now
	w := r2.watch("?after=" + want[9])
	for i := range 20 {
		pos := r.commit(live("web01", "a", 1, events.Statuses()[i%4], "", uint64(i+301)))
		want = append(want, fmt.Sprint(pos))
	}
	for _, id := range want[10:] {
		is.Equal(w.next().id, id)
	}
}

func TestGetEventsGap(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.commit(live("web01", "a", 1, events.OK, "", 1))
	second := r.commit(live("web01", "a", 1, events.Critical, "", 2))
	stream, err := r.conn.JetStream().Stream(t.Context(), bus.StreamChanges)
	is.NoErr(err)
	is.NoErr(stream.Purge(t.Context(), jetstream.WithPurgeSequence(second)))
	w := r.watch("?after=7")
	gap := w.next()
	is.Equal(gap.event, eventGap)
	is.Equal(gap.id, fmt.Sprint(second-1))
	is.True(strings.Contains(gap.data, `"from":8`))
	is.Equal(w.next().id, fmt.Sprint(second))
}

// A client that does not read holds nobody up, and is told why it was cut off.
func TestHubDropsTheSlow(t *testing.T) {
	is := is.New(t)
	h := newHub()
	_, _, ok := h.after(0, 1)
	is.True(!ok) // not begun
	h.begin(time.Now(), 10, keptAll)
	e, err := events.New(events.Header{Type: events.TypeCheckChanged, Source: "urn:a", ID: "1", Time: time.Now()}, 1)
	is.NoErr(err)
	for i := range ringSize + 1 {
		h.add(Told{Position: uint64(11 + i), Event: e})
	}
	_, _, ok = h.after(10, 1)
	is.True(!ok) // forgotten
	frames, _, ok := h.after(10+ringSize/4, 2)
	is.True(ok)
	is.Equal(len(frames), 2)
	is.Equal(frames[0].position, uint64(11+ringSize/4))
	last, _ := h.last()
	is.Equal(last, uint64(11+ringSize))
	h.add(Told{Position: 5, Event: e}) // a repetition
	again, _ := h.last()
	is.Equal(again, last)
}

func TestStreamLimit(t *testing.T) {
	r := start(t)
	r.streams.Add(maxStreams)
	defer r.streams.Add(-maxStreams)
	got := r.get("/events")
	got.problem(t, 503)
	if _, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil {
		t.Fatal("no Retry-After")
	}
}
