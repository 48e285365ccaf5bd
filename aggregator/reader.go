package aggregator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/nats-io/nats.go/jetstream"
)

// errGap says that a consumer skipped messages.
var errGap = errors.New("messages of the consumer are missing")

// reader reads a stream in order and without acknowledgements, into a channel.
// It never goes on by itself after a fault: its owner takes over again.
type reader struct {
	conn    *bus.Conn
	stream  string
	name    string // of the consumer
	pending uint64 // messages there were when it began
	msgs    jetstream.MessagesContext
	out     chan jetstream.Msg
	failed  chan error // has room for one
	stop    chan struct{}
	wg      sync.WaitGroup
}

// ahead is how many messages are read before they are asked for: the server
// need not be asked for each, and 64 partitions together hold few.
const ahead = 64

// read begins to read a stream. The caller must close the reader.
func read(ctx context.Context, conn *bus.Conn, stream string, cfg jetstream.ConsumerConfig) (*reader, error) {
	cfg.AckPolicy, cfg.MemoryStorage, cfg.Replicas, cfg.InactiveThreshold = jetstream.AckNonePolicy, true, 1, 30*time.Second
	cons, err := conn.JetStream().CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return nil, fmt.Errorf("read the stream %s: %w", stream, err)
	}
	// The defaults would notice a stall of the client after half a minute only.
	msgs, err := cons.Messages(jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return nil, fmt.Errorf("read the stream %s: %w", stream, err)
	}
	info := cons.CachedInfo()
	r := &reader{
		conn: conn, stream: stream, name: info.Name, pending: info.NumPending, msgs: msgs,
		out: make(chan jetstream.Msg, ahead), failed: make(chan error, 1), stop: make(chan struct{}),
	}
	r.wg.Go(r.run)
	return r, nil
}

func (r *reader) run() {
	for n := uint64(1); ; n++ {
		m, err := r.msgs.Next()
		if err == nil {
			var meta *jetstream.MsgMetadata
			if meta, err = m.Metadata(); err == nil && meta.Sequence.Consumer != n {
				err = errGap
			}
		}
		if err != nil {
			r.failed <- fmt.Errorf("read the stream %s: %w", r.stream, err)
			return
		}
		select {
		case r.out <- m:
		case <-r.stop:
			return
		}
	}
}

// next waits for a message, for a bounded time.
func (r *reader) next(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	select {
	case m := <-r.out:
		meta, err := m.Metadata()
		return m, meta, err
	case err := <-r.failed:
		return nil, nil, err
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("read the stream %s: %w", r.stream, context.Cause(ctx))
	}
}

// close ends the reading and waits for it. The consumer is deleted if that is
// quickly done; else the server forgets it by itself.
func (r *reader) close() {
	close(r.stop)
	r.msgs.Stop()
	r.wg.Wait()
	if !r.conn.NATS().IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// An error leaves the consumer to the server, which is as good.
	_ = r.conn.JetStream().DeleteConsumer(ctx, r.stream, r.name)
}

// readUpTo calls f with every message that a consumer of cfg finds, up to the
// message at the position want, for which it waits: a read is complete only if
// it saw what was stored last. With a want of 0 it ends with what there is now.
func readUpTo(ctx context.Context, conn *bus.Conn, stream string, cfg jetstream.ConsumerConfig, want uint64, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	r, err := read(ctx, conn, stream, cfg)
	if err != nil {
		return err
	}
	defer r.close()
	if want == 0 && r.pending == 0 {
		return nil
	}
	for {
		m, meta, err := r.next(ctx)
		if err != nil {
			return err
		}
		if err := f(m, meta); err != nil {
			return err
		}
		if want > 0 && meta.Sequence.Stream >= want || want == 0 && meta.NumPending == 0 {
			return nil
		}
	}
}
