package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go/jetstream"
)

// intake reads the end of RESULTS once for all partitions of this process that
// are up to date, and gives each what is its own. A consumer per partition makes
// the server look at every result once per partition, which costs it more than
// all the rest of a result's way; so those are for what waited only.
//
// It never waits for a partition: one that is too slow loses its seat, and reads
// on by itself from where it is. Its methods are safe for concurrent use.
type intake struct {
	conn *bus.Conn
	log  *slog.Logger
	held func() int // partitions of this process

	mu       sync.Mutex
	running  bool
	position uint64 // up to which everything was given out
	seats    map[int]*seat
}

// seat is a partition's place at the intake.
type seat struct {
	out   chan jetstream.Msg // closed when there comes no more
	after uint64             // everything of the partition after this position comes
	err   error              // why there comes no more, once out is closed; nil: the partition was too slow, or is alone
}

const (
	// intakeFrom is how many partitions one process has to hold for reading all
	// results once to be cheaper than having them picked.
	intakeFrom = events.Partitions / 4
	// seatRoom is how far a partition may be behind before it reads by itself: some
	// six seconds of its share of 10,000 results a second, a kilobyte each. With room
	// for one second a machine that was too slow lost its seats, and 64 consumers in
	// their place made it slower.
	seatRoom = 1024
)

func newIntake(conn *bus.Conn, log *slog.Logger, held func() int) *intake {
	return &intake{conn: conn, log: log, held: held, seats: map[int]*seat{}}
}

// join gives a partition a seat; nil while there is none to have. The caller
// goes on reading by itself up to seat.after, and leaves in the end.
func (i *intake) join(partition int) *seat {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.running {
		return nil
	}
	s := &seat{out: make(chan jetstream.Msg, seatRoom), after: i.position}
	i.seats[partition] = s
	return s
}

func (i *intake) leave(partition int, s *seat) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.seats[partition] == s {
		delete(i.seats, partition)
	}
}

// run reads while it is worth it, until ctx ends.
func (i *intake) run(ctx context.Context) {
	for sleep(ctx, time.Second) {
		if i.held() < intakeFrom || !i.conn.NATS().IsConnected() {
			continue
		}
		err := i.session(ctx)
		if err != nil && ctx.Err() == nil {
			i.log.Debug("results are read by each partition", "error", err)
		}
		i.end(err)
	}
}

// errFew ends a session that is no longer worth it.
var errFew = errors.New("few partitions are left")

// session reads what is stored from now on.
func (i *intake) session(ctx context.Context) error {
	stream, err := i.conn.JetStream().Stream(ctx, bus.StreamResults)
	if err != nil {
		return fmt.Errorf("ask for the stream %s: %w", bus.StreamResults, err)
	}
	last := stream.CachedInfo().State.LastSeq
	r, err := open(ctx, i.conn, bus.StreamResults, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: last + 1,
	})
	if err != nil {
		return err
	}
	defer r.close()
	i.mu.Lock()
	i.running, i.position = true, last
	i.mu.Unlock()
	looked := time.Now()
	for {
		m, err := r.message(ctx)
		if err != nil {
			return err
		}
		i.give(m)
		if m.meta.Timestamp.Sub(looked) > time.Second {
			if looked = m.meta.Timestamp; i.held() < intakeFrom {
				return errFew
			}
		}
	}
}

// give hands a message to whom it concerns.
func (i *intake) give(m stored) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.position = m.meta.Sequence.Stream
	if m.Subject() == events.TickAll {
		for n := range i.seats {
			i.hand(n, m)
		}
		return
	}
	if n, ok := partitionOf(m.Subject()); ok {
		i.hand(n, m)
	}
}

func (i *intake) hand(partition int, m stored) {
	s := i.seats[partition]
	if s == nil {
		return
	}
	select {
	case s.out <- m:
	default:
		close(s.out)
		delete(i.seats, partition)
	}
}

// end takes all seats away. A fault is one for all of them: whether the stream
// is still what it was has to be looked at.
func (i *intake) end(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.running = false
	for n, s := range i.seats {
		if !errors.Is(err, errFew) {
			s.err = err
		}
		close(s.out)
		delete(i.seats, n)
	}
}

// partitionOf reads the partition in the subject of a stored result or tick.
func partitionOf(subject string) (int, bool) {
	_, rest, _ := strings.Cut(subject, ".") // megaphone
	_, rest, _ = strings.Cut(rest, ".")     // the kind
	token, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(token)
	return n, err == nil
}
