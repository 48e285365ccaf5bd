package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// refilledHeader marks a message that was put back into a new or shortened
// stream; its value is the position that the message had before. Of two
// processes that put back different versions, the later version stays.
const refilledHeader = "Megaphone-Refilled"

// Run fills the registry, follows the stream and keeps the files until ctx ends;
// then it returns nil. A bus that is away is waited for: meanwhile the last copy
// is read. It returns an error only if the connection was closed.
func (r *Registry) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	files, stopFiles := context.WithCancel(context.WithoutCancel(ctx))
	wg.Go(func() { r.journal.syncer.Run(files) })
	if !r.cache.off() {
		wg.Go(func() { r.cache.Run(files) })
	}
	defer func() {
		stopFiles() // last: what was applied is still written
		wg.Wait()
		r.journal.close()
	}()
	return r.c.sessions(ctx, r.log, "registrations", "the last copy is used until they are", r.session)
}

// errReload ends a session because the registrations file has to be written anew.
var errReload = errors.New("the registrations file is written anew")

func (r *Registry) askReload() {
	select {
	case r.reload <- struct{}{}:
	default:
	}
}

// session follows the stream until something ends it; well is called once it does.
func (r *Registry) session(ctx context.Context, well func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := r.c.js.Stream(ctx, StreamRegistrations)
	if err != nil {
		return fmt.Errorf("ask for the stream %s: %w", StreamRegistrations, err)
	}
	last := r.place()
	kept, err := Kept(ctx, s, last)
	if err != nil {
		return fmt.Errorf("look at the stream %s: %w", StreamRegistrations, err)
	}
	var f *follower
	if s.CachedInfo().Created.Equal(r.created) && kept == last.Position && r.journal.broken() == nil {
		f, err = r.c.follow(ctx, StreamRegistrations, last.Position+1)
	} else {
		f, err = r.load(ctx, s)
	}
	if err != nil {
		return err
	}
	defer f.close()
	well()

	// A broken file is tried again by loading the stream, now and then.
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { r.watchReload(ctx, cancel) })
	for {
		m, meta, err := f.next(ctx)
		if err != nil {
			return err
		}
		if err := r.take(m, meta); err != nil {
			return err
		}
	}
}

// reloadPause is how long a file that could not be written is left alone.
const reloadPause = 2 * time.Second

func (r *Registry) watchReload(ctx context.Context, cancel context.CancelCauseFunc) {
	if r.journal.broken() == nil {
		select {
		case <-r.reload:
		case <-ctx.Done():
			return
		}
	}
	t := time.NewTimer(reloadPause)
	defer t.Stop()
	select {
	case <-t.C:
		cancel(errReload)
	case <-ctx.Done():
	}
}

// take applies a live message.
func (r *Registry) take(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
	rec, e, err := readRecord(m, meta.Sequence.Stream, meta.Timestamp)
	if err == nil {
		err = r.ix.roomFor(rec)
	}
	if err != nil {
		r.skip(rec)
		r.invalid(invalidEvent{m.Subject(), rec.position, err.Error(), m.Data()})
		return nil
	}
	body, err := eventJSON(m, e)
	if err == nil {
		err = r.journal.add(journalLine{rec.position, rec.subject, rec.stored, body}) // before anyone can wait for it
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", rec.subject, err)
	}
	r.mu.Lock()
	change := r.ix.apply(rec)
	r.announce(change)
	r.mu.Unlock()
	if rec.addr.Host == r.o.Local {
		r.cache.changed()
	}
	return nil
}

// place is where the last message lies that was applied or skipped.
func (r *Registry) place() Place {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return Place{r.ix.position, r.ix.stored}
}

// skip notes a record that changes nothing.
func (r *Registry) skip(rec record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ix.position, r.ix.stored = rec.position, rec.stored
	r.announce()
}

// announce tells subscribers and those who wait for a position. The caller holds mu.
func (r *Registry) announce(changes ...RegistryChange) {
	if r.moved != nil {
		close(r.moved)
		r.moved = nil
	}
	if len(changes) == 0 {
		return
	}
	for s := range r.subs {
		s.tell(changes...)
	}
}

type invalidEvent struct {
	subject  string
	position uint64
	reason   string
	data     []byte
}

func (r *Registry) invalid(ev invalidEvent) {
	r.log.Debug("event refused", "subject", ev.subject, "position", ev.position, "reason", ev.reason)
	if r.o.Invalid != nil {
		r.o.Invalid(ev.subject, ev.position, ev.reason, ev.data)
	}
}

// loading is a copy in the making: the stream is read from its first message on
// into an index of its own, so that the last copy is read until it is whole.
type loading struct {
	r        *Registry
	stream   jetstream.Stream
	info     *jetstream.StreamInfo
	f        *follower
	ix       *index
	file     *journalWriter // nil: there is none
	fileErr  error
	refilled map[string]uint64       // subject -> position before it was put back
	invalid  map[string]invalidEvent // by subject
}

// load makes the copy and both files anew. Where the stream is new or shorter
// than the registrations file, it is filled from that first.
func (r *Registry) load(ctx context.Context, s jetstream.Stream) (f *follower, err error) {
	info := s.CachedInfo()
	l := &loading{r: r, stream: s, info: info, ix: newIndex(), refilled: map[string]uint64{}, invalid: map[string]invalidEvent{}}
	if l.f, err = r.c.follow(ctx, StreamRegistrations, 0); err != nil {
		return nil, err
	}
	if !r.journal.off() {
		l.file, l.fileErr = createJournal(r.o.File, ".new", journalHead{Created: info.Created, Position: info.State.LastSeq})
	}
	defer func() {
		if err != nil {
			l.f.close()
			if l.file != nil {
				l.file.abandon()
			}
		}
	}()
	if l.f.pending > 0 {
		if err := l.readWhile(ctx, func(m *jetstream.MsgMetadata) bool { return m.NumPending > 0 }); err != nil {
			return nil, err
		}
	}
	if err := l.fill(ctx); err != nil {
		return nil, err
	}
	l.commit()
	return l.f, nil
}

// fill puts into the stream what files know and the stream does not.
func (l *loading) fill(ctx context.Context) error {
	r := l.r
	first := l.ix.count()+len(l.ix.ended)+len(l.invalid) == 0
	known, lines, err := l.fromJournal(ctx)
	if err != nil {
		return err
	}
	if r.isReady() {
		return nil // the cache file is read at the start alone
	}
	n, err := l.fromCache(ctx, known)
	r.fromCache.Store(first && lines == 0 && n > 0)
	return err
}

func (r *Registry) isReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// fromJournal refills the stream from the registrations file where the stream is
// empty, of another creation, or behind the file. Otherwise the stream wins, but
// for what somebody replaced by something invalid while nobody was there to mend
// it. It returns how many lines the file has, and which subjects of the local
// host it knows.
func (l *loading) fromJournal(ctx context.Context) (known map[string]bool, lines int, err error) {
	r := l.r
	known = map[string]bool{}
	if r.journal.off() {
		return known, 0, nil
	}
	local, global := events.RegistrationSubject(r.o.Local, "")+".", events.OverrideSubject(r.o.Local, "")
	behind := map[string]journalLine{}
	info, err := readJournal(r.o.File, r.log, func(line journalLine) error {
		if strings.HasPrefix(line.Subject, local) || line.Subject == global {
			known[line.Subject] = true
		}
		if _, ok := l.invalid[line.Subject]; ok || l.before(line) {
			behind[line.Subject] = line
		} else {
			delete(behind, line.Subject) // a later line that the stream has
		}
		return nil
	})
	if err != nil {
		// It can neither be used nor overwritten without a loss.
		return known, 0, r.setAside(err)
	}
	kept, err := l.kept(ctx, info)
	if err != nil {
		return known, info.lines, err
	}
	if info.lines == 0 || kept == info.last.Position {
		return known, info.lines, l.keepFormer(behind)
	}
	maps.DeleteFunc(behind, func(subject string, _ journalLine) bool {
		return kept > 0 && l.ix.at(subject) > kept // somebody replaced what was lost
	})
	r.log.Warn("registrations on the bus are new or shorter than the file: they are filled from it",
		"file", r.o.File, "file_position", info.last.Position, "bus_position", kept, "missing", len(behind))
	missing := slices.SortedFunc(maps.Values(behind), func(a, b journalLine) int { return cmp.Compare(a.Position, b.Position) })
	return known, info.lines, l.refill(ctx, missing)
}

// kept returns up to where the stream is what the file is a copy of; 0 for another.
func (l *loading) kept(ctx context.Context, file journalInfo) (uint64, error) {
	if l.info.State.Msgs == 0 || !file.head.Created.Equal(l.info.Created) {
		return 0, nil
	}
	return Kept(ctx, l.stream, file.last)
}

// before reports whether the stream has nothing on the line's subject, or
// something older.
func (l *loading) before(line journalLine) bool {
	at := l.ix.at(line.Subject)
	if was, ok := l.refilled[line.Subject]; ok {
		at = was
	}
	return at < line.Position
}

// keepFormer applies the last valid version, as the file has it, of what is
// invalid in the stream.
func (l *loading) keepFormer(lines map[string]journalLine) error {
	for subject := range l.invalid {
		line, ok := lines[subject]
		if !ok {
			continue
		}
		position, stored := l.ix.position, l.ix.stored
		rec, _, err := readRecord(Plain(Message(subject, line.Event)), line.Position, line.Stored)
		if err != nil {
			continue // the file is no better
		}
		l.ix.apply(rec)
		l.ix.position, l.ix.stored = position, stored
		l.write(line)
	}
	return nil
}

// setAside moves a registrations file away that cannot be read.
func (r *Registry) setAside(cause error) error {
	r.log.Error("registrations file is set aside", "file", r.o.File, "set_aside", r.o.File+".corrupt", "error", cause)
	return renameAside(r.o.File)
}

// refillWindow is how many messages are in flight while a stream is refilled.
const refillWindow = 256

// refill stores lines whose subjects still are in the stream what they were when
// it was read, and reads them back. What somebody else stored meanwhile stays.
func (l *loading) refill(ctx context.Context, lines []journalLine) error {
	for chunk := range slices.Chunk(lines, refillWindow) {
		var last uint64
		acks := make([]jetstream.PubAckFuture, 0, len(chunk))
		for _, line := range chunk {
			m := Message(line.Subject, line.Event)
			m.Header.Set(refilledHeader, strconv.FormatUint(line.Position, 10))
			ack, err := l.r.c.js.PublishMsgAsync(m, jetstream.WithExpectLastSequencePerSubject(l.last(line.Subject)))
			if err != nil {
				return fmt.Errorf("refill %s: %w", line.Subject, err)
			}
			acks = append(acks, ack)
		}
		for i, ack := range acks {
			select {
			case a := <-ack.Ok():
				last = max(last, a.Sequence)
			case err := <-ack.Err():
				if !WrongSequence(err) {
					return fmt.Errorf("refill %s: %w", chunk[i].Subject, err)
				}
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := l.readUntil(ctx, last); err != nil {
			return err
		}
	}
	return nil
}

// last is the position of the last message on a subject, valid or not.
func (l *loading) last(subject string) uint64 {
	if ev, ok := l.invalid[subject]; ok {
		return ev.position
	}
	return l.ix.at(subject)
}

// fromCache registers what the original's cache file knows of the local host and
// the stream never saw. It returns how many that were.
func (l *loading) fromCache(ctx context.Context, known map[string]bool) (n int, err error) {
	r := l.r
	var last uint64
	urls := r.cache.read()
	for _, id := range slices.Sorted(maps.Keys(urls)) {
		subject, kind, data, err := cached(r.o.Local, id, urls[id])
		if known[subject] || l.last(subject) > 0 {
			continue
		}
		if err != nil {
			r.log.Warn("an entry of the cache file cannot be registered", "file", r.o.Cache, "id", id, "error", err)
			continue
		}
		if id == events.GlobalID {
			id = ""
		}
		position, err := r.publish(ctx, subject, kind, r.o.Local, id, data, jetstream.WithExpectLastSequencePerSubject(0))
		if WrongSequence(err) {
			continue // registered meanwhile
		}
		if err != nil {
			return n, fmt.Errorf("take over the cache file: %w", err)
		}
		last = position
		n++
	}
	if n > 0 {
		r.log.Info("checks were taken over from the cache file", "file", r.o.Cache, "checks", n)
	}
	return n, l.readUntil(ctx, last)
}

// publish stores an event of the registry's own.
func (r *Registry) publish(ctx context.Context, subject, kind, host, check string, data any, opts ...jetstream.PublishOpt) (position uint64, err error) {
	h := events.Header{
		Type: kind, Source: "urn:megaphone:registry:" + urnPart(r.c.name), ID: nuid.Next(), Host: host, Check: check, Time: time.Now(),
	}
	b, err := events.Encode(h, data)
	if err != nil {
		return 0, err
	}
	return r.c.Store(ctx, Message(subject, b), append(opts, jetstream.WithMsgID(h.ID))...)
}

// WrongSequence reports whether a write was refused because something else was stored
// since, or is being stored: its expectation failed.
func WrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == wrongSequenceConstant)
}

// wrongSequenceConstant is error 10164 of the server: the expectation of a
// subject failed because another write of it is in flight.
const wrongSequenceConstant = 10164

func (l *loading) readUntil(ctx context.Context, position uint64) error {
	if l.ix.position >= position {
		return nil
	}
	return l.readWhile(ctx, func(m *jetstream.MsgMetadata) bool { return m.Sequence.Stream < position })
}

// readWhile reads at least one message, and goes on while more says so of the last.
func (l *loading) readWhile(ctx context.Context, more func(*jetstream.MsgMetadata) bool) error {
	for {
		m, meta, err := l.f.next(ctx)
		if err != nil {
			return err
		}
		if err := l.take(m, meta); err != nil {
			return err
		}
		if !more(meta) {
			return nil
		}
	}
}

func (l *loading) take(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
	rec, e, err := readRecord(m, meta.Sequence.Stream, meta.Timestamp)
	if err == nil {
		err = l.ix.roomFor(rec)
	}
	if err != nil {
		l.ix.position, l.ix.stored = meta.Sequence.Stream, meta.Timestamp
		l.invalid[m.Subject()] = invalidEvent{m.Subject(), meta.Sequence.Stream, err.Error(), m.Data()}
		return nil
	}
	delete(l.invalid, rec.subject)
	delete(l.refilled, rec.subject)
	if was, err := strconv.ParseUint(m.Headers().Get(refilledHeader), 10, 64); err == nil {
		l.refilled[rec.subject] = was
	}
	body, err := eventJSON(m, e)
	if err != nil {
		return fmt.Errorf("keep %s: %w", rec.subject, err)
	}
	l.ix.apply(rec)
	l.write(journalLine{rec.position, rec.subject, rec.stored, body})
	return nil
}

// write adds a line to the new file. A fault does not stop the loading: it is
// told at the end, and what is registered can be read all the same.
func (l *loading) write(line journalLine) {
	if l.file != nil && l.fileErr == nil {
		l.fileErr = l.file.add(line)
	}
}

// commit makes the files and then the copy the ones that count.
func (l *loading) commit() {
	r := l.r
	if l.file != nil && l.fileErr == nil {
		l.fileErr = r.journal.restart(l.file, l.ix.position)
	} else if l.file != nil {
		l.file.abandon()
	}
	select {
	case <-r.reload: // done
	default:
	}
	if l.fileErr != nil {
		r.journal.breakUp(l.fileErr)
	}
	r.mu.Lock()
	var changes []RegistryChange
	if len(r.subs) > 0 { // at the start there are none, and everything is new
		changes = l.ix.changes(r.ix)
	}
	r.ix = l.ix
	r.announce(changes...)
	r.mu.Unlock()
	r.created = l.info.Created
	if !r.cache.off() {
		r.cache.writer.Do(context.Background()) // what fails is logged and kept as CacheError
	}
	if !r.isReady() {
		close(r.ready)
	}
	for _, subject := range slices.Sorted(maps.Keys(l.invalid)) {
		r.invalid(l.invalid[subject])
	}
}
