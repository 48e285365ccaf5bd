package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// Limits of a batch of events.
const (
	maxBatch      = 1000    // events
	maxBatchBytes = 1 << 20 // bytes
)

const batchType = "application/cloudevents-batch+json"

// eventFault is why one event of a batch was refused.
type eventFault struct {
	Index  int    `json:"index"` // in the batch, from 0
	ID     string `json:"id,omitempty"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// batchAnswer is the answer to a batch of which a part was refused.
type batchAnswer struct {
	Accepted int          `json:"accepted"`
	Errors   []eventFault `json:"errors"`
}

// postEvents takes in CloudEvents in the modes of the HTTP binding: structured,
// binary and batched.
func (s *Server) postEvents(w http.ResponseWriter, r *http.Request) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && media == batchType {
		s.postBatch(w, r)
		return
	}
	body, err := readBody(w, r, maxBody)
	if err == nil {
		var e event.Event
		if e, err = bus.ReadEvent(httpMessage(r.Header, body)); err == nil {
			err = s.takeIn(r.Context(), e, true)
		}
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// httpMessage shows an HTTP request as the bus shows a message: the modes differ
// in one header only.
func httpMessage(h http.Header, body []byte) bus.Msg {
	m := &nats.Msg{Data: body, Header: nats.Header{}}
	media := h.Get("Content-Type")
	if strings.HasPrefix(strings.ToLower(media), "application/cloudevents") {
		m.Header.Set("Content-Type", media)
		return bus.Plain(m)
	}
	for name, values := range h {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "ce-") && lower != "ce-datacontenttype" && len(values) > 0 {
			m.Header[lower] = values[:1]
		}
	}
	if media != "" {
		m.Header["ce-datacontenttype"] = []string{media}
	}
	return bus.Plain(m)
}

func (s *Server) postBatch(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r, maxBatchBytes)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	batch, err := parseBatch(body)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	// A batch may take longer than one write.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime + maxWait))
	faults := s.takeInAll(r.Context(), batch)
	switch {
	case len(faults) == 0:
		w.WriteHeader(http.StatusNoContent)
	case len(faults) < len(batch):
		writeJSON(w, http.StatusAccepted, batchAnswer{len(batch) - len(faults), faults})
	default:
		code := faults[0].Status
		writeProblem(w, problem{
			Type: "about:blank", Title: http.StatusText(code), Status: code, Detail: "none of the events was taken", Errors: faults,
		})
	}
}

func parseBatch(body []byte) ([]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	var batch []json.RawMessage
	if err := dec.Decode(&batch); err != nil {
		return nil, refuse(http.StatusBadRequest, "the body must be a JSON list of events: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse(http.StatusBadRequest, "the body must be one JSON list: there is more after it")
	}
	if len(batch) > maxBatch {
		return nil, refuse(http.StatusRequestEntityTooLarge, "a batch may have %d events, this one has %d", maxBatch, len(batch))
	}
	return batch, nil
}

// takeInAll carries out the events of a batch: those of one subject in their
// order, those of different subjects at the same time. It returns what was refused.
func (s *Server) takeInAll(ctx context.Context, batch []json.RawMessage) []eventFault {
	faults := make([]*eventFault, len(batch))
	groups := map[string][]func(){}
	for i, raw := range batch {
		e, err := events.Decode(raw)
		note := func(err error) {
			if err != nil {
				code, detail := codeOf(err)
				faults[i] = &eventFault{i, e.ID(), code, detail}
			}
		}
		if err != nil {
			note(err)
			continue
		}
		groups[e.Subject()] = append(groups[e.Subject()], func() { note(s.takeIn(ctx, e, false)) })
	}
	var g errgroup.Group
	g.SetLimit(maxCalls)
	for _, group := range groups {
		g.Go(func() error {
			for _, run := range group {
				run()
			}
			return nil
		})
	}
	_ = g.Wait() // each has noted its own fault
	var out []eventFault
	for _, f := range faults {
		if f != nil {
			out = append(out, *f)
		}
	}
	return out
}

// takeIn carries out one event. With visible it waits a little until readers see
// a push.
func (s *Server) takeIn(ctx context.Context, e event.Event, visible bool) error {
	host, check, err := parseSubjectName(e.Subject())
	if err != nil {
		return err
	}
	if media := e.DataContentType(); media != "" && !jsonMedia(media) {
		return refuse(http.StatusUnsupportedMediaType, "data of content type %q is not read, use application/json", events.Cut(media, 64))
	}
	switch e.Type() {
	case events.TypeResult:
		return s.takeResult(ctx, e, host, check, visible)
	case events.TypeRegistered:
		return s.takeRegistration(ctx, e, host, check)
	case events.TypeDeregistered:
		return s.takeDeregistration(ctx, e, host, check)
	case events.TypeOverrideSet:
		return s.takeOverride(ctx, e, host, check)
	case events.TypeOverrideCleared:
		return s.takeOverrideEnd(ctx, e, host, check)
	}
	return refuse(http.StatusBadRequest, "events of type %q are not taken here: %s, %s, %s, %s and %s are", events.Cut(e.Type(), 128),
		events.TypeResult, events.TypeRegistered, events.TypeDeregistered, events.TypeOverrideSet, events.TypeOverrideCleared)
}

func jsonMedia(s string) bool {
	media, _, err := mime.ParseMediaType(s)
	return err == nil && (media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json"))
}

// parseSubjectName reads what events.SubjectName writes; an empty subject names
// nothing.
func parseSubjectName(subject string) (host, check string, err error) {
	if subject == "" {
		return "", "", nil
	}
	rest, ok := strings.CutPrefix(subject, "hosts/")
	if !ok {
		return "", "", fmt.Errorf("%w: subject %q must be hosts/HOST or hosts/HOST/checks/ID", events.ErrSubject, events.Cut(subject, 128))
	}
	host, check, named := strings.Cut(rest, "/checks/")
	if host, err = events.ParseHost(host); err == nil && named {
		check, err = events.ParseCheck(check)
	}
	return host, check, err
}

// agree joins the names in subject and data: where both are there they must be
// the same.
func agree(word, subject, data string) (string, error) {
	if subject != "" && data != "" && subject != data {
		return "", refuse(http.StatusBadRequest, "subject and data name different %ss: %q and %q", word, subject, data)
	}
	if subject == "" {
		return data, nil
	}
	return subject, nil
}

func agreeBoth(host, check, dataHost, dataCheck string) (string, string, error) {
	host, err := agree("host", host, strings.ToLower(dataHost))
	if err != nil {
		return "", "", err
	}
	check, err = agree("check", check, dataCheck)
	return host, check, err
}

func (s *Server) takeResult(ctx context.Context, e event.Event, host, check string, visible bool) error {
	if check == "" {
		return refuse(http.StatusBadRequest, "a result needs the subject hosts/HOST/checks/ID")
	}
	r, err := readResult(e.Data())
	if err != nil {
		return err
	}
	e.SetSubject(events.SubjectName(host, check))
	if e.Time().IsZero() {
		e.SetTime(time.Now())
	}
	body, err := events.Marshal(e)
	if err != nil {
		return err
	}
	return s.push(ctx, pushed{host, check, r, body, e.Source() + " " + e.ID()}, visible)
}

func (s *Server) takeRegistration(ctx context.Context, e event.Event, host, check string) error {
	var reg events.Registration
	err := events.DataAs(e, &reg)
	if err == nil {
		reg.Host, reg.ID, err = agreeBoth(host, check, reg.Host, reg.ID)
	}
	if err == nil && reg.Host == "" {
		reg.Host = s.local
	}
	if err == nil {
		reg.Host, err = events.ParseHost(reg.Host)
	}
	if err != nil {
		return err
	}
	reg.Origin = "http"
	if err := reg.ValidateStrict(); err != nil {
		return err
	}
	_, _, err = s.register(ctx, reg)
	return err
}

// ends reads whom an event that ends something concerns; it may have no data.
func ends(e event.Event, host, check string) (events.Deregistration, error) {
	var d events.Deregistration
	if len(e.Data()) > 0 {
		if err := events.DataAs(e, &d); err != nil {
			return d, err
		}
	}
	var err error
	d.Host, d.Check, err = agreeBoth(host, check, d.Host, d.Check)
	return d, err
}

func (s *Server) takeDeregistration(ctx context.Context, e event.Event, host, check string) error {
	d, err := ends(e, host, check)
	if err != nil {
		return err
	}
	return s.deregister(ctx, d.Host, d.Check, d.Reason)
}

func (s *Server) takeOverride(ctx context.Context, e event.Event, host, check string) error {
	var o events.Override
	err := events.DataAs(e, &o)
	if err == nil {
		o.Host, o.Check, err = agreeBoth(host, check, o.Host, o.Check)
	}
	if err != nil {
		return err
	}
	o.Global = nil // the original's alone
	if o.Host == "" && o.Name == "" {
		return refuse(http.StatusBadRequest, "an override is of a host, of a check, or has a name and select")
	}
	if err := o.Validate(); err != nil {
		return err
	}
	return s.setOverride(ctx, o)
}

func (s *Server) takeOverrideEnd(ctx context.Context, e event.Event, host, check string) error {
	d, err := ends(e, host, check)
	if err != nil {
		return err
	}
	return s.clearOverride(ctx, d.Host, d.Check, d.Name)
}
