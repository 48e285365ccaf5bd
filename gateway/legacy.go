package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
)

// The original's routes, for the local host. Texts and forms are its contract.

// Texts of the original.
const (
	textNoData     = "No data received"
	textNoID       = "No id specified"
	textAddError   = "Error adding new check!"
	textDelError   = "Error deleting check!"
	textCacheError = "ERROR: cache creation failed!"
	textNoEndpoint = "Sorry, can't find a valid endpoint in your check!"
	textOverride   = "NOTICE: statusoverride used!"
)

// dateText is the original's date, made once per second: whoever has the same
// one has the same text.
type dateText struct {
	second int64
	text   string
}

const dateLayout = "2006-01-02T15:04:05MST" // %Y-%m-%dT%H:%M:%S%Z

func (s *Server) dateNow() *dateText {
	now := time.Now()
	if d := s.date.Load(); d != nil && d.second == now.Unix() {
		return d
	}
	d := &dateText{now.Unix(), now.Format(dateLayout)}
	s.date.Store(d)
	return d
}

var (
	headerVary = []string{"Accept"}
	headerJSON = []string{"application/json"}
	headerHTML = []string{htmlType}
)

// legacyRoot answers how the local host is, from memory.
func (s *Server) legacyRoot(w http.ResponseWriter, r *http.Request) {
	a := s.rootAnswer()
	w.Header()["Vary"] = headerVary
	if wantsPage(r.Header["Accept"]) {
		s.rootPage(w, a)
		return
	}
	a.on(s.dateNow()).write(w)
}

func (s *Server) rootAnswer() *rootAnswer {
	if s.reg.CacheError() != nil {
		return newRootAnswer(events.Critical, textCacheError, nil)
	}
	if s.last.Load() == nil {
		select {
		case <-s.follower.Ready():
		default:
			return newRootAnswer(events.Unknown, textNoState, nil)
		}
	}
	return s.seen().root(s.local)
}

// wantsPage reports whether Accept names text/html itself, as browsers do.
func wantsPage(accept []string) bool {
	for _, line := range accept {
		for part := range strings.SplitSeq(line, ",") {
			media, params, err := mime.ParseMediaType(part)
			if err != nil || media != "text/html" {
				continue
			}
			if q, err := strconv.ParseFloat(params["q"], 64); err != nil || q > 0 {
				return true
			}
		}
	}
	return false
}

const pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

// rootPage is the answer for people: nothing in it is fetched from elsewhere.
func (s *Server) rootPage(w http.ResponseWriter, a *rootAnswer) {
	var b strings.Builder
	fmt.Fprintf(&b, `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="10"><title>%[2]s: %[1]s</title>
<style>body{font-family:sans-serif;margin:2em;max-width:60em}td,th{text-align:left;padding:.2em 1em .2em 0;vertical-align:top}
.OK{color:#161}.Unknown{color:#555}.Warning{color:#840}.Critical{color:#a00}</style></head>
<body><h1>%[1]s: <span class="%[2]s">%[2]s</span></h1><p>%[3]s</p>
<table><tr><th>check<th>status<th>phase<th>message</tr>
`, html.EscapeString(orNone(s.local)), a.status, html.EscapeString(a.message))
	checks, _ := s.seen().Checks(s.local, time.Now())
	for _, c := range checks {
		fmt.Fprintf(&b, "<tr><td>%s<td class=\"%[2]s\">%[2]s<td>%s<td>%s</tr>\n",
			html.EscapeString(c.Check), c.Status, html.EscapeString(string(c.Phase)), html.EscapeString(c.Message))
	}
	fmt.Fprintf(&b, "</table><p>%s</p></body></html>\n", s.dateNow().text)
	w.Header().Set("Content-Security-Policy", pagePolicy)
	writeText(w, http.StatusOK, b.String())
}

func orNone(host string) string {
	if host == "" {
		return "no local host"
	}
	return host
}

func (s *Server) legacyChecks(w http.ResponseWriter, _ *http.Request) {
	w.Header()["Content-Type"] = headerJSON
	writeBody(w, http.StatusOK, s.seen().legacyList(s.local))
}

// legacyCheck answers the document of a check as its service last said it.
func (s *Server) legacyCheck(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if id == events.GlobalID {
		s.legacyGlobal(w)
		return
	}
	a := s.seen().legacyCheck(s.local, id)
	if a == nil {
		writeText(w, http.StatusOK, "Sorry, no check "+id+" registered!")
		return
	}
	a.write(w)
}

// legacyAnswer is the answer on /checks/{id}.
func (c *checkEntry) legacyAnswer() *pyAnswer {
	reg, document := &c.entry.Registration, c.document()
	t, err := reg.Target()
	switch {
	case err != nil || t.Object && t.Addr == "":
		return pyText200(textNoEndpoint)
	case reg.Push() && len(document) == 0:
		now := c.shown()
		return newPyAnswer(statusDocument(now.Status, now.Text()))
	}
	doc, err := parsePy(document)
	if err == nil && t.Override != "" {
		err = overrideDocument(&doc, t.Override)
	}
	if err != nil {
		return pyText200("Error connecting to: " + t.Addr)
	}
	return newPyAnswer(doc)
}

func (s *Server) legacyGlobal(w http.ResponseWriter) {
	raw, ok := s.seen().global(s.local)
	if !ok {
		writeText(w, http.StatusOK, "Sorry, no check "+events.GlobalID+" registered!")
		return
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		writeText(w, http.StatusOK, text)
		return
	}
	writeText(w, http.StatusOK, textNoEndpoint)
}

func statusDocument(s events.Status, message string) pyValue {
	doc := pyValue{kind: pyObject}
	doc.set("status", pyText(s.String()))
	doc.set("message", pyText(message))
	return doc
}

var errNoObject = errors.New("status document is not a JSON object")

// overrideDocument puts a statusoverride into a document.
func overrideDocument(doc *pyValue, override string) error {
	if doc.kind != pyObject {
		return errNoObject
	}
	status, message := override, textOverride
	if _, err := events.ParseStatus(override); err != nil {
		status, message = events.Critical.String(), fmt.Sprintf("ERROR: invalid status '%s' written to statusoverride!", override)
	}
	doc.set("status", pyText(status))
	doc.set("message", pyText(message))
	return nil
}

// pyAnswer is an answer with a document, as it is sent.
type pyAnswer struct {
	kind, length []string // headers
	body         []byte
}

// newPyAnswer renders a document. The original's framework joins a list of
// strings, and answers text with itself.
func newPyAnswer(doc pyValue) *pyAnswer {
	if text, ok := pyJoined(doc); ok {
		return pyText200(text)
	}
	return (&pyAnswer{kind: headerJSON, body: doc.append(nil)}).measured()
}

func pyText200(text string) *pyAnswer {
	return (&pyAnswer{kind: headerHTML, body: validText(text)}).measured()
}

func (a *pyAnswer) measured() *pyAnswer {
	a.length = []string{strconv.Itoa(len(a.body))}
	return a
}

func (a *pyAnswer) write(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"], h["Content-Length"] = a.kind, a.length
	_, _ = w.Write(a.body) // a client that is gone is no fault of ours
}

func pyJoined(doc pyValue) (text string, ok bool) {
	items := doc.items
	switch doc.kind {
	case pyString:
		items = []pyValue{doc}
	case pyList:
	default:
		return "", false
	}
	for _, item := range items {
		var part string
		if item.kind != pyString || json.Unmarshal([]byte(item.text), &part) != nil {
			return "", false
		}
		text += part
	}
	return text, true
}

// posted is the body of POST /checks: the keys that it knows, as they were
// posted. Others are dropped, as the original does.
type posted map[string]json.RawMessage

// registrationKeys are the keys of a registration that clients may set.
var registrationKeys = []string{
	"id", "url", "host", "interval", "timeout", "ttl", "on_silence", "rise", "fall", "start_period", "labels", "pool",
}

// parsePosted reads the body of POST /checks. Of a repeated key the last counts.
func parsePosted(body []byte) (posted, error) {
	if len(body) == 0 {
		return nil, refuse(http.StatusBadRequest, textNoData)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	var p posted
	if err := dec.Decode(&p); err != nil || p == nil {
		if json.Valid(body) {
			return nil, refuse(http.StatusBadRequest, "%s The body must be a JSON object.", textAddError)
		}
		return nil, refuse(http.StatusBadRequest, "%s The body is not JSON: %v", textAddError, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse(http.StatusBadRequest, "%s There is more data after the object.", textAddError)
	}
	return p, nil
}

// id returns the id, checked as that of a check or as --global.
func (p posted) id() (string, error) {
	raw, ok := p["id"]
	if !ok {
		return "", refuse(http.StatusBadRequest, textNoID)
	}
	var id string
	if raw[0] != '"' || json.Unmarshal(raw, &id) != nil || id == "" {
		return "", refuse(http.StatusBadRequest, "%s: it must be a non-empty string", textNoID)
	}
	if id == events.GlobalID {
		return id, nil
	}
	return events.ParseCheck(id)
}

// registration reads the known keys.
func (p posted) registration() (events.Registration, error) {
	var reg events.Registration
	known := map[string]json.RawMessage{}
	for _, key := range registrationKeys {
		if raw, ok := p[key]; ok {
			known[key] = raw
		}
	}
	b, err := json.Marshal(known)
	if err == nil {
		err = json.Unmarshal(b, &reg)
	}
	if err != nil {
		if invalid(err) {
			return reg, err
		}
		return reg, refuse(http.StatusBadRequest, "%v", err)
	}
	reg.URL = nil
	if url := p["url"]; string(url) != "null" {
		reg.URL = url // byte for byte as it was posted
	}
	return reg, nil
}

// legacyRegister registers a check of the local host. It answers when the first
// result is in, so that the next reader sees it.
func (s *Server) legacyRegister(w http.ResponseWriter, r *http.Request) {
	wait, err := s.registerWait(r)
	if err != nil {
		s.failLegacy(w, r, "", err)
		return
	}
	body, err := readBody(w, r, maxBody)
	if err != nil {
		s.failLegacy(w, r, "", err)
		return
	}
	p, err := parsePosted(body)
	if err != nil {
		s.failLegacy(w, r, "", err)
		return
	}
	id, err := p.id()
	if err != nil {
		s.failLegacy(w, r, "", err)
		return
	}
	if err := s.addPosted(w, r, id, p, wait); err != nil {
		s.failLegacy(w, r, textAddError, err)
		return
	}
	writeText(w, http.StatusOK, "")
}

func (s *Server) addPosted(w http.ResponseWriter, r *http.Request, id string, p posted, wait time.Duration) error {
	if s.local == "" {
		return refuse(http.StatusBadRequest, "This gateway has no local host: use PUT /hosts/HOST/checks/ID.")
	}
	if _, ok := p["url"]; !ok && (id == events.GlobalID || p["ttl"] == nil) {
		return refuse(http.StatusBadRequest, "")
	}
	if id == events.GlobalID {
		return s.addGlobal(r, p["url"])
	}
	reg, err := p.registration()
	if err != nil {
		return err
	}
	if reg.Host != "" && !strings.EqualFold(reg.Host, s.local) {
		return refuse(http.StatusBadRequest, "POST /checks is for %s alone: use PUT /hosts/HOST/checks/ID.", s.local)
	}
	reg.Host, reg.Origin = s.local, "http"
	if err := reg.Validate(); err != nil {
		return err
	}
	position, _, err := s.register(r.Context(), reg)
	if err != nil || reg.Push() || wait == 0 {
		return err
	}
	// More than the usual time to write: the answer comes after the wait.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + writeTime))
	ctx, stop := s.untilStop(r.Context())
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	s.awaitFirst(ctx, reg.ID, position)
	return nil
}

func (s *Server) registerWait(r *http.Request) (time.Duration, error) {
	if r.URL.RawQuery == "" || !r.URL.Query().Has("wait") {
		return s.cfg.RegisterWait, nil
	}
	d, err := events.ParseDuration(r.URL.Query().Get("wait"))
	return min(d.D(), maxWait), err
}

// addGlobal sets the original's --global: the host is Critical with whatever was
// posted as its message.
func (s *Server) addGlobal(r *http.Request, url json.RawMessage) error {
	if len(url) > events.MaxURL {
		return refuse(http.StatusRequestEntityTooLarge, "url has %d bytes, %d are allowed", len(url), events.MaxURL)
	}
	critical := events.Critical
	return s.setOverride(r.Context(), events.Override{
		Host: s.local, Status: &critical, Forever: true, By: events.GlobalID, Global: url,
	})
}

func (s *Server) legacyDelete(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if err := s.deletePosted(r, id); err != nil {
		if code, _ := codeOf(err); code == http.StatusNotFound {
			err = refuse(http.StatusNotFound, "")
		}
		s.failLegacy(w, r, textDelError, err)
		return
	}
	writeText(w, http.StatusOK, "")
}

func (s *Server) deletePosted(r *http.Request, id string) error {
	if id != events.GlobalID {
		return s.deregister(r.Context(), s.local, id, "DELETE /checks")
	}
	if _, ok := s.seen().global(s.local); !ok {
		return refuse(http.StatusNotFound, "")
	}
	return s.clearOverride(r.Context(), s.local, "", "")
}

// putLocalStatus is the one addition to the original's routes.
func (s *Server) putLocalStatus(w http.ResponseWriter, r *http.Request) {
	if s.local == "" {
		s.fail(w, r, refuse(http.StatusNotFound, "this gateway has no local host: use PUT /hosts/HOST/checks/ID/status"))
		return
	}
	s.putStatusOf(w, r, s.local, r.PathValue("id"))
}
