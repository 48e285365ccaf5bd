package gateway

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// told is the id of the CloudEvent that a server-sent event holds, or its name.
func (w *watch) told() (sse, string) {
	w.tb.Helper()
	e := w.next()
	if !strings.HasPrefix(e.event, "megaphone.") {
		return e, e.event
	}
	ce, err := events.Decode([]byte(e.data))
	must(w.tb, err)
	if ce.Type() != e.event {
		w.tb.Fatalf("an event of type %s is named %s", ce.Type(), e.event)
	}
	return e, ce.ID()
}

// What is comes first, without ids; then where to resume; then what changes.
func TestGetEventsState(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.commit(live("web01", "a", 1, events.OK, "fine", 1))
	r.commitHost(events.HostState{Host: "web01", Status: events.OK, Phase: events.Live})
	last := r.commit(live("web02", "b", 1, events.Critical, "", 2))
	seen := func() bool { position, _ := r.hub.last(); return position == last }
	r.eventually("the gateway follows", seen)

	w := r.watch("?state")
	for _, want := range []string{"web01#1.present", "web01.a#1.present", "web02.b#1.present"} {
		e, id := w.told()
		is.Equal(id, want)
		is.Equal(e.id, "") // a client that is cut off here begins again
	}
	e, id := w.told()
	is.Equal(id, eventComplete)
	is.Equal(e.id, fmt.Sprint(last))
	is.Equal(e.data, fmt.Sprintf(`{"events":3,"position":%d}`, last))
	is.True(r.presents.Load() == 0)

	r.commit(live("web01", "a", 1, events.Warning, "", 3))
	_, id = w.told()
	is.Equal(id, "web01.a#2")

	// Who resumes gets no state, but for what is no longer kept.
	again := r.watch("?state&host=web01&check=a", "Last-Event-ID", fmt.Sprint(last))
	_, id = again.told()
	is.Equal(id, "web01.a#2")
	stream, err := r.conn.JetStream().Stream(t.Context(), bus.StreamChanges)
	is.NoErr(err)
	is.NoErr(stream.Purge(t.Context(), jetstream.WithPurgeSequence(last+2)))
	r.commit(live("web01", "a", 1, events.OK, "", 4))
	_, id = w.told()
	is.Equal(id, "web01.a#3")
	lost := r.watch("?state&check=a", "Last-Event-ID", "7")
	for _, want := range []string{eventGap, "web01.a#3.present", eventComplete} {
		_, id = lost.told()
		is.Equal(id, want)
	}
}

// A record of STATE may reach the view before its transition does, so that the
// present state is ahead of its position: the number tells.
func TestEventStreamTellsStateOnce(t *testing.T) {
	is := is.New(t)
	frames := func(position, number uint64) []frame {
		return []frame{{position: position, transition: events.Transition{Host: "web01", Check: "a", Number: number}}}
	}
	out := &eventStream{told: map[events.Name]uint64{{Host: "web01", Check: "a"}: 2}}
	out.complete(10, 12)
	out.buf = nil
	out.tell(frames(11, 2))
	is.Equal(len(out.buf), 0) // was told
	out.tell(frames(12, 3))
	is.True(len(out.buf) > 0)
	is.True(out.told == nil) // nothing before can come any more
}

// Pages of any size are the whole, each name once.
func TestPresentPages(t *testing.T) {
	is := is.New(t)
	v := NewView(newRegs(), time.Minute)
	var want []string
	for h := range 3 {
		host := fmt.Sprintf("h%d", h)
		for c := range presentScan {
			s := live(host, fmt.Sprintf("c%04d", c), 1, events.OK, "", 1)
			s.V, s.Number = events.RecordVersion, 1
			v.ApplyCheck(s, true)
		}
		if h == 1 {
			gone := live(host, "gone", 1, events.Unknown, "", 1)
			gone.V, gone.Number, gone.Phase, gone.Basis = events.RecordVersion, 2, events.Gone, events.Gone
			v.ApplyCheck(gone, true)
		}
		v.ApplyHost(events.HostState{V: events.RecordVersion, Host: host, Number: 1, Phase: events.Live}, true)
		want = append(want, host+"#1")
		for c := range presentScan {
			want = append(want, fmt.Sprintf("%s.c%04d#1", host, c))
		}
	}
	var got []string
	pages := 0
	for after := (*events.Name)(nil); ; pages++ {
		found, next := v.Present(events.Filter{}, after)
		is.True(len(found) <= presentScan)
		for _, tr := range found {
			got = append(got, tr.ID())
		}
		if after = next; after == nil {
			break
		}
	}
	is.True(pages >= 3)
	is.Equal(got, want)
}

// A client whose position is beyond the end of the stream, which lost its last
// messages, is told so and goes on from there.
func TestGetEventsLostTail(t *testing.T) {
	is := is.New(t)
	r := start(t)
	last := r.commit(live("web01", "a", 1, events.OK, "", 1))
	w := r.watch("", "Last-Event-ID", fmt.Sprint(last+9))
	e, id := w.told()
	is.Equal(id, eventGap)
	is.Equal(e.id, fmt.Sprint(last))
	next := r.commit(live("web01", "a", 1, events.Critical, "", 2))
	is.Equal(w.next().id, fmt.Sprint(next))
}

// A client that does not read its socket is cut off; others get everything
// meanwhile, and it may resume where it stopped.
func TestGetEventsSlowClient(t *testing.T) {
	is := is.New(t)
	r := start(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	is.NoErr(err)
	defer conn.Close()
	is.NoErr(conn.(*net.TCPConn).SetReadBuffer(4 << 10))
	_, err = io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	is.NoErr(err)
	r.eventually("the slow client is there", func() bool { return r.streams.Load() == 1 })

	const n = 2000 // 9 MB: more than the sockets between them hold
	fast, counted := r.watch(""), make(chan int)
	go func() {
		got := 0
		for e := range fast.events {
			if got++; got == n+1 || e.event == eventClosed {
				break
			}
		}
		counted <- got
	}()
	r.eventually("the fast client is there", func() bool { return r.streams.Load() == 2 })
	text := strings.Repeat("x", events.MaxMessage-100)
	for i := range n {
		s := live("web01", "a", 1, events.Statuses()[i%4], text, uint64(i+1))
		tr := events.Transition{Host: "web01", Check: "a", Number: uint64(i + 1), Current: s.Moment(), Message: text}
		_, err := r.conn.JetStream().PublishMsgAsync(r.message(events.CommitSubject("web01", "a"), events.TypeCheckChanged, tr, s), jetstream.WithStallWait(time.Minute))
		is.NoErr(err)
	}
	<-r.conn.JetStream().PublishAsyncComplete()
	last := r.commit(live("web01", "b", 1, events.OK, "", n+1))
	is.Equal(<-counted, n+1) // the fast one has everything
	r.eventuallyIn(3*streamWrite, "the slow client is cut off", func() bool { return r.streams.Load() == 1 })

	// It reads at last: what the sockets held, and an end in the middle.
	is.NoErr(conn.(*net.TCPConn).SetReadBuffer(1 << 20))
	is.NoErr(conn.SetReadDeadline(time.Now().Add(30 * time.Second)))
	rest, _ := io.ReadAll(conn) // ended or reset
	ids := regexp.MustCompile(`(?m)^id: (\d+)\nevent: .*\ndata: \{.*\}$`).FindAllSubmatch(rest, -1)
	is.True(len(ids) > 0 && len(ids) < n)
	w := r.watch("", "Last-Event-ID", string(ids[len(ids)-1][1]))
	for i := len(ids) + 1; i <= n; i++ {
		_, id := w.told()
		is.Equal(id, fmt.Sprintf("web01.a#%d", i))
	}
	is.Equal(w.next().id, fmt.Sprint(last))
}
