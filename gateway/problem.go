package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// maxBody is the size in bytes of the largest request body, batches of events aside.
const maxBody = 256 << 10

// How long a client may take to send its body, and one that nobody reads: before
// it sends an answer, net/http waits for what is left of a body.
const (
	bodyTime   = 15 * time.Second
	unreadTime = 250 * time.Millisecond
)

// fault is a refusal: a code, and a text that says what to do.
type fault struct {
	code   int
	detail string
}

func (f *fault) Error() string { return f.detail }

func refuse(code int, format string, args ...any) error {
	return &fault{code, fmt.Sprintf(format, args...)}
}

// problem is the body of RFC 9457.
type problem struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"`
	Errors []eventFault `json:"errors,omitempty"` // of a batch of events
}

// codeOf maps an error to an HTTP code and the text for the client. Texts of
// unexpected errors stay inside.
func codeOf(err error) (code int, detail string) {
	var f *fault
	switch {
	case errors.As(err, &f):
		return f.code, f.detail
	case errors.Is(err, bus.ErrCache):
		return http.StatusInternalServerError, "the cache file cannot be written: nothing was changed"
	case errors.Is(err, bus.ErrFull), full(err):
		return http.StatusInsufficientStorage, "the bus has no room for more: deregister something, or raise --data-max"
	case errors.Is(err, bus.ErrTooMany):
		return http.StatusInsufficientStorage, err.Error()
	case invalid(err):
		return http.StatusBadRequest, err.Error()
	case away(err):
		return http.StatusServiceUnavailable, "the bus is away: nothing was stored that this answer knows of; try again"
	}
	return http.StatusInternalServerError, "internal error; the log of the gateway says more"
}

func invalid(err error) bool {
	for _, e := range []error{
		events.ErrName, events.ErrRegistration, events.ErrResult, events.ErrStatus, events.ErrOverride,
		events.ErrDuration, events.ErrEvent, events.ErrSubject,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func away(err error) bool {
	for _, e := range []error{
		context.DeadlineExceeded, context.Canceled, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrConnectionClosed,
		nats.ErrConnectionReconnecting, nats.ErrDisconnected, nats.ErrReconnectBufExceeded, jetstream.ErrNoStreamResponse,
		jetstream.ErrStreamNotFound, jetstream.ErrJetStreamNotEnabled, jetstream.ErrJetStreamNotEnabledForAccount,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// full recognises the refusal of a stream that is at its limit: codes 10047
// (storage) and 10077 (store failed) with a text that names the maximum.
func full(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	return api.ErrorCode == 10047 || api.ErrorCode == 10077 && strings.Contains(api.Description, "maximum")
}

// fail answers with an error, as problem+json.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code, detail := codeOf(err)
	s.note(w, r, code, err)
	writeProblem(w, problem{Type: "about:blank", Title: http.StatusText(code), Status: code, Detail: detail})
}

// failLegacy answers with an error on the original's routes, where its text is
// the body.
func (s *Server) failLegacy(w http.ResponseWriter, r *http.Request, prefix string, err error) {
	code, detail := codeOf(err)
	s.note(w, r, code, err)
	writeText(w, code, strings.TrimSpace(prefix+" "+detail))
}

// note logs what is our failure, and sets the headers that belong to a code.
func (s *Server) note(w http.ResponseWriter, r *http.Request, code int, err error) {
	switch code {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="megaphone"`)
	}
	if code >= 500 {
		s.log.Warn("request was not carried out", "method", r.Method, "path", r.URL.Path, "code", code, "error", err)
	}
}

func writeProblem(w http.ResponseWriter, p problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	writeBody(w, p.Status, encode(p))
}

// encode writes JSON without the escaping of <, > and &, and a newline.
func encode(v any) []byte {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // only a document that is no JSON could do this
		return []byte(`{"title":"Internal Server Error","status":500}` + "\n")
	}
	return []byte(b.String())
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	writeBody(w, code, encode(v))
}

func writeBody(w http.ResponseWriter, code int, body []byte) {
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(code)
	// A client that is gone is no fault of ours.
	_, _ = w.Write(body)
}

const htmlType = "text/html; charset=UTF-8"

// writeText answers as the original does with a string. Its content type says
// HTML, so the policy that Server sets keeps browsers from running it.
func writeText(w http.ResponseWriter, code int, text string) {
	w.Header()["Content-Type"] = headerHTML
	writeBody(w, code, validText(text))
}

func validText(text string) []byte { return []byte(strings.ToValidUTF8(text, "\uFFFD")) }

// writeErrorPage is the original's page for paths and methods that are not there.
func writeErrorPage(w http.ResponseWriter, code int, text string) {
	title := "Error: " + strconv.Itoa(code) + " " + http.StatusText(code)
	writeText(w, code, "<!DOCTYPE html>\n<html><head><title>"+title+"</title></head>\n<body><h1>"+title+"</h1>\n<pre>"+
		html.EscapeString(text)+"</pre></body></html>\n")
}

// readBody reads the whole body of a request, however it is framed.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	rc := http.NewResponseController(w)
	// Not every ResponseWriter has deadlines; those of net/http have.
	_ = rc.SetReadDeadline(time.Now().Add(bodyTime))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		_ = rc.SetReadDeadline(time.Time{})
	} else {
		_ = rc.SetReadDeadline(time.Now().Add(unreadTime))
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body may have %d bytes", limit)
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "the body could not be read: %v", err)
	case !utf8.Valid(b):
		return nil, refuse(http.StatusBadRequest, "the body must be UTF-8")
	}
	return []byte(strings.TrimPrefix(string(b), "\uFEFF")), nil
}

// readObject reads a body that is one JSON object into v, a pointer to a struct;
// a key that v does not have is refused.
func readObject(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	return decodeObject(b, v)
}

func decodeObject(b []byte, v any) error {
	if t := strings.TrimLeft(string(b), " \t\r\n"); t == "" || t[0] != '{' {
		return refuse(http.StatusBadRequest, "the body must be one JSON object")
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if invalid(err) {
			return err
		}
		return refuse(http.StatusBadRequest, "the body: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "the body must be one JSON object: there is more after it")
	}
	return nil
}
