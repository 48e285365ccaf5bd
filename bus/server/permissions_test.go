package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
)

const firstSeq = 1_790_000_000_000_000 // Unix microseconds, as the streams are created

// createStreams makes streams shaped as the bus makes them.
func createStreams(t *testing.T, nc *nats.Conn) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range []jetstream.StreamConfig{
		{
			Name: "CHANGES", Subjects: []string{"megaphone.commit.>", "megaphone.fence.>"},
			SubjectTransform: &jetstream.SubjectTransformConfig{Source: "megaphone.commit.>", Destination: "megaphone.status.>"},
			RePublish:        &jetstream.RePublish{Source: "megaphone.status.>", Destination: "megaphone.status.>"},
			FirstSeq:         firstSeq, AllowMsgTTL: true, AllowDirect: true,
			MaxAge: 30 * 24 * time.Hour, MaxBytes: 64 << 20,
		},
		{Name: "RESULTS", Subjects: []string{"megaphone.result.>", "megaphone.polled.>", "megaphone.report.>", "megaphone.tick.>"}, MaxBytes: 64 << 20},
		{Name: "STATE", Subjects: []string{"megaphone.state.>"}, MaxMsgsPerSubject: 1},
	} {
		if _, err := js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "LEASES"}); err != nil {
		t.Fatal(err)
	}
}

// commit publishes a transition as an aggregator does.
func commit(t *testing.T, nc *nats.Conn, rest, data string) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "megaphone.commit."+rest, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// world is a bus with streams, one role and one anonymous client.
type world struct {
	server    *server.Server
	role      *nats.Conn
	anonymous *nats.Conn
	refused   chan error // what the server told the anonymous client
}

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{server: bustest.Start(t), refused: make(chan error, 100)}
	w.role = bustest.Connect(t, w.server)
	w.anonymous = bustest.ConnectAnonymous(t, w.server, nats.ErrorHandler(
		func(_ *nats.Conn, _ *nats.Subscription, err error) { w.refused <- err }))
	createStreams(t, w.role)
	return w
}

// lastSequences is how far each stream is. After flushing the anonymous
// connection it tells whether what was sent there has been stored anywhere.
func lastSequences(t *testing.T, nc *nats.Conn) map[string]uint64 {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]uint64{}
	streams := js.ListStreams(t.Context())
	for info := range streams.Info() {
		last[info.Config.Name] = info.State.LastSeq
	}
	if streams.Err() != nil {
		t.Fatal(streams.Err())
	}
	return last
}

func TestAnonymousMayNotPublish(t *testing.T) {
	w := newWorld(t)
	for _, subject := range []string{
		"megaphone.status.host.web01", "megaphone.status.check.web01.db",
		"megaphone.commit.host.web01", "megaphone.polled.web01.db", "megaphone.polled.3.web01.db", "megaphone.report.3.default.w1",
		"megaphone.state.3.host.web01", "megaphone.state.3.fence", "megaphone.fence.3",
		"megaphone.tick.3", "megaphone.tick.all", "megaphone.process.worker.a", "megaphone.rejected.result.a.b",
		"megaphone.gate.consumer.named.x", "$KV.LEASES.a.3", "_INBOX.somebody", "other",
		"$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.UPDATE.CHANGES", "$JS.API.STREAM.DELETE.CHANGES",
		"$JS.API.STREAM.PURGE.CHANGES", "$JS.API.STREAM.MSG.DELETE.CHANGES", "$JS.API.STREAM.SNAPSHOT.CHANGES",
		"$JS.API.STREAM.RESTORE.CHANGES", "$JS.API.CONSUMER.CREATE.RESULTS.x", "$JS.API.CONSUMER.CREATE.RESULTS",
		"$JS.API.CONSUMER.DURABLE.CREATE.STATE.x", "$JS.API.CONSUMER.PAUSE.CHANGES.x", "$JS.API.CONSUMER.RESET.CHANGES.x",
		"$JS.API.CONSUMER.DELETE.RESULTS.x", "$JS.API.CONSUMER.MSG.NEXT.RESULTS.x", "$JS.API.DIRECT.GET.STATE",
		"$JS.API.STREAM.MSG.GET.RESULTS", "$JS.API.STREAM.INFO.STATE", "$JS.ACK.RESULTS.x.1.1.1.1.1",
		"$SYS.REQ.SERVER.PING", "$JS.API.ACCOUNT.PURGE.MEGAPHONE",
	} {
		t.Run(subject, func(t *testing.T) {
			is := is.New(t)
			live, err := w.role.SubscribeSync(subject)
			is.NoErr(err)
			defer live.Unsubscribe()
			before := lastSequences(t, w.role) // also registers the subscription

			is.NoErr(w.anonymous.Publish(subject, []byte(`{"status":"OK"}`)))
			is.NoErr(w.anonymous.Flush())
			err = <-w.refused
			is.True(errors.Is(err, nats.ErrPermissionViolation)) // told to the client
			is.NoErr(w.role.Flush())
			pending, _, err := live.Pending()
			is.NoErr(err)
			is.Equal(pending, 0)                       // delivered
			is.Equal(lastSequences(t, w.role), before) // stored
		})
	}
}

func TestAnonymousMayNotSubscribe(t *testing.T) {
	w := newWorld(t)
	for _, subject := range []string{
		">", "megaphone.>", "megaphone.commit.>", "megaphone.result.>", "megaphone.api.register", "megaphone.gate.>",
		"megaphone.registration.>", "$KV.>", "$JS.>", "$SRV.>", "$SYS.>",
	} {
		t.Run(subject, func(t *testing.T) {
			is := is.New(t)
			_, err := w.anonymous.SubscribeSync(subject)
			is.NoErr(err) // refused by the server, not by the library
			is.NoErr(w.anonymous.Flush())
			is.True(errors.Is(<-w.refused, nats.ErrPermissionViolation))
		})
	}
}

// An anonymous client must not be able to have the server, or a role, write for
// it, by naming the subject as the place for the reply: NATS checks the reply
// subject of a request against nobody's permissions.
func TestRepliesGoToTheClientThatAskedAlone(t *testing.T) {
	w := newWorld(t)
	serveAPI(t, w.role)
	createPull(t, w.anonymous, "mine")
	for _, request := range []string{
		"megaphone.result.web01.db", "megaphone.api.register", "$SRV.PING", "$JS.API.INFO", "$JS.API.STREAM.INFO.CHANGES",
		"$JS.API.DIRECT.GET.CHANGES.megaphone.status.host.web01", "$JS.API.CONSUMER.CREATE.CHANGES.x",
		"$JS.API.CONSUMER.MSG.NEXT.CHANGES.mine",
	} {
		for _, reply := range []string{"megaphone.fence.3", "megaphone.commit.host.web01", "megaphone.status.host.web01", "$KV.LEASES.a.3", "megaphone.tick.3"} {
			t.Run(request+" "+reply, func(t *testing.T) {
				is := is.New(t)
				commit(t, w.role, "host.web01", "something to pull")
				live, err := w.role.SubscribeSync(reply)
				is.NoErr(err)
				defer live.Unsubscribe()
				before := lastSequences(t, w.role)

				is.NoErr(w.anonymous.PublishRequest(request, reply, nil))
				// A second request is answered after the first one.
				_, err = w.anonymous.Request("megaphone.api.register", nil, 5*time.Second)
				is.NoErr(err)
				after := lastSequences(t, w.role)
				delete(before, "RESULTS") // where the push itself may go
				delete(after, "RESULTS")
				is.Equal(after, before) // stored
				is.NoErr(w.role.Flush())
				pending, _, err := live.Pending()
				is.NoErr(err)
				is.Equal(pending, 0) // delivered
			})
		}
	}
}

func serveAPI(t *testing.T, nc *nats.Conn) {
	t.Helper()
	service, err := micro.AddService(nc, micro.Config{Name: "megaphone", Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	err = service.AddEndpoint("register", micro.HandlerFunc(func(r micro.Request) { _ = r.Respond([]byte("done")) }),
		micro.WithEndpointSubject("megaphone.api.register"))
	if err != nil {
		t.Fatal(err)
	}
}

func createPull(t *testing.T, nc *nats.Conn, durable string) jetstream.Consumer {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.CreateOrUpdateConsumer(t.Context(), "CHANGES", jetstream.ConsumerConfig{
		Durable: durable, AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "megaphone.status.>",
	})
	if err != nil {
		t.Fatal(err)
	}
	return consumer
}

func TestAnonymousMayNotCreateAPushConsumer(t *testing.T) {
	w := newWorld(t)
	commit(t, w.role, "host.web01", "one")
	for name, tt := range map[string]struct{ subject, body string }{
		"named":     {"$JS.API.CONSUMER.CREATE.CHANGES.p", `{"stream_name":"CHANGES","config":{"name":"p","deliver_subject":"$KV.LEASES.a.3"}}`},
		"filtered":  {"$JS.API.CONSUMER.CREATE.CHANGES.p.megaphone.status.>", `{"stream_name":"CHANGES","config":{"name":"p","filter_subject":"megaphone.status.>","deliver_subject":"megaphone.status.host.x"}}`},
		"durable":   {"$JS.API.CONSUMER.DURABLE.CREATE.CHANGES.p", `{"stream_name":"CHANGES","config":{"durable_name":"p","deliver_subject":"megaphone.polled.a.b"}}`},
		"ephemeral": {"$JS.API.CONSUMER.CREATE.CHANGES", `{"stream_name":"CHANGES","config":{"deliver_subject":"megaphone.tick.all"}}`},
		"shouted":   {"$JS.API.CONSUMER.CREATE.CHANGES.p", `{"stream_name":"CHANGES","config":{"name":"p","DELIVER_SUBJECT":"megaphone.tick.all"}}`},
		"no JSON":   {"$JS.API.CONSUMER.CREATE.CHANGES.p", `{"stream_name":"CHANGES","config":`},
		// The server itself refuses these two.
		"another stream": {"$JS.API.CONSUMER.CREATE.CHANGES.p", `{"stream_name":"RESULTS","config":{"name":"p"}}`},
		"another filter": {"$JS.API.CONSUMER.CREATE.CHANGES.p.megaphone.status.>", `{"stream_name":"CHANGES","config":{"name":"p","filter_subject":"megaphone.fence.>"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			before := lastSequences(t, w.role)
			msg, err := w.anonymous.Request(tt.subject, []byte(tt.body), 5*time.Second)
			is.NoErr(err)
			var answer struct {
				Error *struct {
					Code        int
					Description string
				}
			}
			is.NoErr(json.Unmarshal(msg.Data, &answer))
			is.True(answer.Error != nil) // refused
			if strings.Contains(strings.ToLower(tt.body), "deliver_subject") {
				is.Equal(answer.Error.Code, 403)
				is.Equal(answer.Error.Description, "push consumers need the credentials of megaphone: use a pull consumer")
			}
			is.Equal(lastSequences(t, w.role), before) // stored
			is.Equal(consumerNames(t, w.role, "CHANGES"), nil)
			is.Equal(consumerNames(t, w.role, "RESULTS"), nil)
		})
	}
}

// Consumers cost the server memory, and whoever makes them needs no leave.
func TestAnonymousMayNotCreateConsumersWithoutEnd(t *testing.T) {
	is := is.New(t)
	server.LimitConsumers(t, 3)
	w := newWorld(t)
	js, err := jetstream.New(w.anonymous)
	is.NoErr(err)
	create := func(name string) error {
		_, err := js.CreateOrUpdateConsumer(t.Context(), "CHANGES", jetstream.ConsumerConfig{Durable: name, FilterSubject: "megaphone.status.>"})
		return err
	}
	for _, name := range []string{"a", "b", "c"} {
		is.NoErr(create(name))
	}
	err = create("d")
	is.True(err != nil && strings.Contains(err.Error(), "CHANGES has 3 consumers"))
	is.NoErr(create("c")) // which is there
	is.Equal(consumerNames(t, w.role, "CHANGES"), []string{"a", "b", "c"})
	is.NoErr(js.DeleteConsumer(t.Context(), "CHANGES", "a"))
	is.NoErr(create("d"))
}

func consumerNames(t *testing.T, nc *nats.Conn, stream string) []string {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range s.ConsumerNames(t.Context()).Name() {
		names = append(names, name)
	}
	return names
}

func TestAnonymousMayPush(t *testing.T) {
	is := is.New(t)
	w := newWorld(t)
	js, err := jetstream.New(w.anonymous)
	is.NoErr(err)
	ack, err := js.Publish(t.Context(), "megaphone.result.web01.queue", []byte(`{"status":"OK"}`))
	is.NoErr(err)
	is.Equal(ack.Stream, "RESULTS")
}

func TestAnonymousMayAskTheServices(t *testing.T) {
	is := is.New(t)
	w := newWorld(t)
	serveAPI(t, w.role)
	is.NoErr(w.role.Flush()) // the server knows the service
	answer, err := w.anonymous.Request("megaphone.api.register", nil, 5*time.Second)
	is.NoErr(err)
	is.Equal(string(answer.Data), "done")
	answer, err = w.anonymous.Request("$SRV.PING.megaphone", nil, 5*time.Second)
	is.NoErr(err)
	is.True(strings.Contains(string(answer.Data), `"name":"megaphone"`)) // as nats micro ls asks
}

func TestAnonymousMayWatchLive(t *testing.T) {
	is := is.New(t)
	w := newWorld(t)
	sub, err := w.anonymous.SubscribeSync("megaphone.status.>")
	is.NoErr(err)
	is.NoErr(w.anonymous.Flush())
	commit(t, w.role, "check.web01.db", "first")
	commit(t, w.role, "check.web01.db", "second")

	_, err = sub.NextMsg(5 * time.Second)
	is.NoErr(err)
	msg, err := sub.NextMsg(5 * time.Second)
	is.NoErr(err)
	is.Equal(msg.Subject, "megaphone.status.check.web01.db")
	is.Equal(string(msg.Data), "second")
	is.Equal(msg.Header.Get("Nats-Sequence"), "1790000000000001")
	is.Equal(msg.Header.Get("Nats-Last-Sequence"), "1790000000000000") // of the subject
}

func TestAnonymousMayReplay(t *testing.T) {
	w := newWorld(t)
	for _, data := range []string{"one", "two", "three"} {
		commit(t, w.role, "host.web01", data)
	}
	js, err := jetstream.New(w.anonymous)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("durable", func(t *testing.T) {
		is := is.New(t)
		first := fetch(t, createPull(t, w.anonymous, "mine"), 2)
		is.Equal(first, []string{"one", "two"})
		// The reader was killed, and comes back.
		is.Equal(fetch(t, createPull(t, bustest.ConnectAnonymous(t, w.server), "mine"), 1), []string{"three"})
		is.NoErr(js.DeleteConsumer(t.Context(), "CHANGES", "mine"))
	})
	t.Run("ephemeral", func(t *testing.T) {
		is := is.New(t)
		consumer, err := js.CreateConsumer(t.Context(), "CHANGES", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
		is.NoErr(err)
		is.Equal(fetch(t, consumer, 3), []string{"one", "two", "three"})
	})
	t.Run("ordered", func(t *testing.T) {
		is := is.New(t)
		consumer, err := js.OrderedConsumer(t.Context(), "CHANGES", jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{"megaphone.status.>"},
			DeliverPolicy:  jetstream.DeliverByStartSequencePolicy, OptStartSeq: firstSeq + 1,
		})
		is.NoErr(err)
		messages, err := consumer.Messages()
		is.NoErr(err)
		defer messages.Stop()
		for _, want := range []string{"two", "three"} {
			msg, err := messages.Next()
			is.NoErr(err)
			is.Equal(string(msg.Data()), want)
			is.Equal(msg.Subject(), "megaphone.status.host.web01")
		}
	})
	t.Run("single messages", func(t *testing.T) {
		is := is.New(t)
		stream, err := js.Stream(t.Context(), "CHANGES")
		is.NoErr(err)
		msg, err := stream.GetMsg(t.Context(), firstSeq)
		is.NoErr(err)
		is.Equal(string(msg.Data), "one")
		msg, err = stream.GetLastMsgForSubject(t.Context(), "megaphone.status.host.web01")
		is.NoErr(err)
		is.Equal(string(msg.Data), "three")
	})
}

func fetch(t *testing.T, consumer jetstream.Consumer, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	batch, err := consumer.Fetch(n, jetstream.FetchContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	var data []string
	for msg := range batch.Messages() {
		data = append(data, string(msg.Data()))
		if err := msg.DoubleAck(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if batch.Error() != nil {
		t.Fatal(batch.Error())
	}
	return data
}

func TestRolesAreNotHeardByAnonymousClients(t *testing.T) {
	is := is.New(t)
	w := newWorld(t)
	serveAPI(t, w.role)
	spy, err := w.anonymous.SubscribeSync("_INBOX.>")
	is.NoErr(err)
	is.NoErr(w.anonymous.Flush())
	_, err = w.role.Request("megaphone.api.register", nil, 5*time.Second)
	is.NoErr(err)
	is.NoErr(w.anonymous.Flush())
	pending, _, err := spy.Pending()
	is.NoErr(err)
	is.Equal(pending, 0)
}
