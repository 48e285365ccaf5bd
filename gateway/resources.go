package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// The resources below /hosts.

// maxPage is how many hosts one answer has at most.
const maxPage = 1000

// hostPage is the answer on /hosts.
type hostPage struct {
	Hosts []events.HostView `json:"hosts"`
	Next  string            `json:"next,omitempty"` // give it as ?after= for more
}

func (s *Server) getHosts(w http.ResponseWriter, r *http.Request) {
	f, err := hostFilter(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header()["Vary"] = headerVary
	form := chooseForm(r.Header["Accept"])
	if form == formProm {
		s.getFleet(w, r)
		return
	}
	now := time.Now()
	hosts, next := s.seen().Hosts(f, now)
	if form == formText {
		writeLines(w, hosts, next, now)
		return
	}
	writeJSON(w, http.StatusOK, hostPage{hosts, next})
}

func hostFilter(r *http.Request) (HostFilter, error) {
	q := r.URL.Query()
	f := HostFilter{Labels: q["label"], After: q.Get("after"), Limit: maxPage}
	for _, words := range q["status"] {
		for word := range strings.SplitSeq(words, ",") {
			status, err := events.ParseStatus(word)
			if err != nil {
				return f, err
			}
			f.Status = append(f.Status, status)
		}
	}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return f, refuse(http.StatusBadRequest, "?limit= must be 1 to %d", maxPage)
		}
		f.Limit = min(n, maxPage)
	}
	return f, nil
}

// names reads host and check of the path; check is empty where it has none.
func names(r *http.Request) (host, check string, err error) {
	if host, err = events.ParseHost(r.PathValue("host")); err != nil {
		return "", "", err
	}
	if id := r.PathValue("id"); id != "" {
		check, err = events.ParseCheck(id)
	}
	return host, check, err
}

// named is a handler for a host, and where the path has one a check.
func (s *Server) named(w http.ResponseWriter, r *http.Request, f func(host, check string) error) {
	host, check, err := names(r)
	if err == nil {
		err = f(host, check)
	}
	if err != nil {
		s.fail(w, r, err)
	}
}

func (s *Server) hostView(host string) (events.HostView, error) {
	if view, ok := s.seen().Host(host, time.Now()); ok {
		return view, nil
	}
	if host == s.local {
		return s.seen().LocalHost(host, time.Now()), nil
	}
	return events.HostView{}, noHost(host)
}

func noHost(host string) error {
	return refuse(http.StatusNotFound, "nothing is registered of host %s", host)
}

func (s *Server) getHost(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, _ string) error {
		if err := s.awaitNumber(w, r, host, ""); err != nil {
			return err
		}
		return s.represent(w, r, host, "", func() (any, error) {
			view, err := s.hostView(host)
			w.Header().Set(headerNumber, strconv.FormatUint(view.Number, 10))
			return view, err
		})
	})
}

func (s *Server) putHost(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, _ string) error {
		var rec events.HostRecord
		if err := readObject(w, r, &rec); err != nil {
			return err
		}
		if rec.Host != "" && !strings.EqualFold(rec.Host, host) {
			return refuse(http.StatusBadRequest, "the body names the host %q, the path %q", rec.Host, host)
		}
		rec.Host, rec.Origin = host, "http"
		ctx, cancel, err := s.writing(r.Context())
		if err != nil {
			return err
		}
		defer cancel()
		_, there := s.reg.Host(host)
		if _, err := s.reg.SetHost(ctx, rec); err != nil {
			return err
		}
		s.view.RefreshRegistration(host, "")
		view, err := s.hostView(host)
		if err == nil {
			writeJSON(w, created(!there), view)
		}
		return err
	})
}

func created(is bool) int {
	if is {
		return http.StatusCreated
	}
	return http.StatusOK
}

// deleteHost ends everything that is registered of a host: its checks, its
// record and its override. Where one of its checks belongs to a file, nothing.
func (s *Server) deleteHost(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, _ string) error {
		checks := s.reg.HostChecks(host)
		_, record := s.reg.Host(host)
		_, override := s.reg.Override(host, "")
		if len(checks) == 0 && !record && !override {
			return noHost(host)
		}
		for _, e := range checks {
			if err := s.owned(r.Context(), host, e.Registration.ID); err != nil {
				return err
			}
		}
		if err := s.deregisterAll(w, r, checks); err != nil {
			return err
		}
		ctx, cancel, err := s.writing(r.Context()) // not before: thousands of checks take longer than one write may
		if err != nil {
			return err
		}
		defer cancel()
		if override {
			if err := s.clearOverride(ctx, host, "", ""); err != nil && !isGone(err) {
				return err
			}
		}
		if record {
			if _, err := s.reg.DeleteHost(ctx, host); err != nil {
				return err
			}
		}
		s.view.RefreshRegistration(host, "")
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

// deregisterAll ends many registrations at the same time, so that they share the
// writes to the disk.
func (s *Server) deregisterAll(w http.ResponseWriter, r *http.Request, checks []bus.Entry) error {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime + maxWait))
	var g errgroup.Group
	g.SetLimit(maxCalls)
	for _, e := range checks {
		g.Go(func() error {
			err := s.deregister(r.Context(), e.Registration.Host, e.Registration.ID, "its host was deregistered")
			if isGone(err) {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// isGone reports whether somebody else was faster.
func isGone(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.code == http.StatusNotFound
}

func (s *Server) getChecks(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, _ string) error {
		checks, ok := s.seen().Checks(host, time.Now())
		if !ok && host != s.local {
			return noHost(host)
		}
		writeJSON(w, http.StatusOK, map[string][]events.CheckView{"checks": checks})
		return nil
	})
}

func (s *Server) getCheck(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, check string) error {
		if err := s.awaitFresh(w, r, host, check); err != nil {
			return err
		}
		if err := s.awaitNumber(w, r, host, check); err != nil {
			return err
		}
		return s.represent(w, r, host, check, func() (any, error) {
			view, ok := s.seen().Check(host, check, time.Now())
			if !ok {
				return nil, noCheck(host, check)
			}
			w.Header().Set(headerNumber, strconv.FormatUint(view.Number, 10))
			return view, nil
		})
	})
}

func noCheck(host, check string) error {
	return refuse(http.StatusNotFound, "no check %q is registered of %s", check, host)
}

func (s *Server) putCheck(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, check string) error {
		body, err := readBody(w, r, maxBody)
		if err != nil {
			return err
		}
		var reg events.Registration
		if err := decodeObject(body, &reg); err != nil {
			return err
		}
		switch {
		case reg.ID != "" && reg.ID != check:
			return refuse(http.StatusBadRequest, "the body names the check %q, the path %q", reg.ID, check)
		case reg.Host != "" && !strings.EqualFold(reg.Host, host):
			return refuse(http.StatusBadRequest, "the body names the host %q, the path %q", reg.Host, host)
		}
		reg.ID, reg.Host, reg.Origin = check, host, "http"
		if reg.Push() {
			reg.URL = nil
		}
		if err := reg.ValidateStrict(); err != nil {
			return err
		}
		_, isNew, err := s.register(r.Context(), reg)
		if err != nil {
			return err
		}
		view, ok := s.view.Check(host, check, time.Now())
		if !ok {
			return noCheck(host, check) // deregistered meanwhile
		}
		writeJSON(w, created(isNew), view)
		return nil
	})
}

func (s *Server) deleteCheck(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, check string) error {
		if err := s.deregister(r.Context(), host, check, "DELETE /hosts"); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

func (s *Server) putStatus(w http.ResponseWriter, r *http.Request) {
	s.putStatusOf(w, r, r.PathValue("host"), r.PathValue("id"))
}

// putStatusOf takes a push. It answers once the push is stored and visible here.
func (s *Server) putStatusOf(w http.ResponseWriter, r *http.Request, host, check string) {
	r.SetPathValue("host", host)
	r.SetPathValue("id", check)
	s.named(w, r, func(host, check string) error {
		body, err := readBody(w, r, maxBody)
		if err != nil {
			return err
		}
		res, err := readResult(body)
		if err != nil {
			return err
		}
		if by := writer(r); by != "" && res.Origin == "" {
			res.Origin = by
		}
		if err := s.pushResult(r.Context(), host, check, res); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

// overrideBody is an override as a client gives it: until is a time, a span from
// now, or "forever".
type overrideBody struct {
	Status      *events.Status `json:"status"`
	Maintenance bool           `json:"maintenance"`
	Reason      string         `json:"reason"`
	By          string         `json:"by"`
	Until       *untilText     `json:"until"`
	Forever     bool           `json:"forever"`
	UntilPush   bool           `json:"until_push"`
}

// untilText is a JSON string, or a number of seconds.
type untilText string

func (u *untilText) UnmarshalJSON(b []byte) error {
	text := string(b)
	if b[0] == '"' {
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
	}
	*u = untilText(text)
	return nil
}

func (b overrideBody) override(host, check string, now time.Time) (events.Override, error) {
	o := events.Override{
		Host: host, Check: check, Status: b.Status, Maintenance: b.Maintenance, Reason: b.Reason, By: b.By,
		Forever: b.Forever, UntilPush: b.UntilPush,
	}
	switch text := b.Until; {
	case text == nil || *text == "" || *text == "null":
	case *text == "forever":
		o.Forever = true
	default:
		until, err := parseUntil(string(*text), now)
		if err != nil {
			return o, err
		}
		o.Until = events.At(until)
	}
	if o.UntilPush && check == "" {
		return o, refuse(http.StatusBadRequest, "until_push is for checks: a host does not push")
	}
	return o, o.Validate()
}

func parseUntil(text string, now time.Time) (time.Time, error) {
	until, err := time.Parse(time.RFC3339, text)
	if err != nil {
		d, spanErr := events.ParseDuration(text)
		if spanErr != nil {
			return until, refuse(http.StatusBadRequest, `until must be a time (RFC 3339), a span such as "2h", or "forever", not %q`, events.Cut(text, 64))
		}
		until = now.Add(d.D())
	}
	if !until.After(now) {
		return until, refuse(http.StatusBadRequest, "until must lie in the future: %s does not", events.At(until))
	}
	return until, nil
}

func (s *Server) getOverride(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, check string) error {
		select {
		case <-s.reg.Ready():
		default:
			return refuse(http.StatusServiceUnavailable, "overrides are not known yet: the gateway has not reached the bus")
		}
		o, ok := s.reg.Override(host, check)
		if !ok {
			return refuse(http.StatusNotFound, "no override is set there")
		}
		writeJSON(w, http.StatusOK, o.Override)
		return nil
	})
}

// putOverride sets an override of what is registered.
func (s *Server) putOverride(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, check string) error {
		var body overrideBody
		if err := readObject(w, r, &body); err != nil {
			return err
		}
		o, err := body.override(host, check, time.Now())
		if err != nil {
			return err
		}
		if o.By == "" {
			o.By = writer(r)
		}
		if check == "" {
			if _, err := s.hostView(host); err != nil {
				return err
			}
		} else if _, ok := s.reg.Check(host, check); !ok {
			return noCheck(host, check)
		}
		if err := s.setOverride(r.Context(), o); err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, o)
		return nil
	})
}

func (s *Server) deleteOverride(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, check string) error {
		if err := s.clearOverride(r.Context(), host, check, ""); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
