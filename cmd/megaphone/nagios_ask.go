package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/looprock/megaphone/events"
)

func (f *nagiosFlags) find(ctx context.Context) (finding, error) {
	switch {
	case f.host == "" && f.check == "":
		return f.findRoot(ctx)
	case f.host == "":
		var d statusDocument
		err := f.get(ctx, "/checks/"+url.PathEscape(f.check), &d)
		return finding{name: f.check, status: d.Status, message: d.text()}, err
	case f.check == "":
		var v events.HostView
		err := f.get(ctx, "/hosts/"+url.PathEscape(f.host), &v)
		return finding{v.Host, v.Status, v.Phase == events.Maintenance, v.Message, &v.Checks, v.AgeSeconds}, err
	}
	var v events.CheckView
	err := f.get(ctx, "/hosts/"+url.PathEscape(f.host)+"/checks/"+url.PathEscape(f.check), &v)
	return finding{v.Check + " on " + v.Host, v.Status, v.Phase == events.Maintenance, v.Message, nil, v.AgeSeconds}, err
}

// statusDocument is what the original's routes answer.
type statusDocument struct {
	Status  events.Status   `json:"status"`
	Message json.RawMessage `json:"message"`
}

func (d statusDocument) text() string {
	text, _ := events.MessageText(d.Message)
	return text
}

// findRoot uses the original's API alone. The counts come from the ids that are
// registered and the message, which names every check that is not OK.
func (f *nagiosFlags) findRoot(ctx context.Context) (finding, error) {
	var d statusDocument
	if err := f.get(ctx, "/", &d); err != nil {
		return finding{}, err
	}
	found := finding{name: f.address, status: d.Status, message: d.text()}
	var checks map[string]json.RawMessage
	if err := f.get(ctx, "/checks", &checks); err != nil {
		return found, nil // the status is what matters
	}
	if _, overridden := checks[events.GlobalID]; !overridden {
		counts := countMessage(found.message, checks)
		found.counts = &counts
	}
	return found, nil
}

// original answers as the original's plugin asks: its API alone, any failure
// Critical.
func (f *nagiosFlags) original(ctx context.Context) (events.Status, string) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	path := "/"
	if f.check != "" {
		path = "/checks/" + url.PathEscape(f.check)
	}
	var d statusDocument
	if err := f.get(ctx, path, &d); err != nil {
		return f.failure(ctx, err)
	}
	return d.Status, d.text()
}

// answerError is an answer that is no status: the gateway is there, so nothing
// is known of the host.
type answerError struct{ text string }

func (e *answerError) Error() string { return e.text }

// textNoConnection is how the original's API tells that a check's service does
// not answer.
const textNoConnection = "Error connecting to: "

// failure is what a failed question amounts to: nobody who answers is Critical,
// an answer that says nothing is Unknown.
func (f *nagiosFlags) failure(ctx context.Context, err error) (events.Status, string) {
	var unclear *answerError
	if errors.As(err, &unclear) {
		if strings.Contains(unclear.text, textNoConnection) {
			return events.Critical, unclear.text
		}
		return events.Unknown, unclear.text
	}
	at := "http://" + net.JoinHostPort(f.address, strconv.Itoa(f.port))
	if ctx.Err() != nil {
		return events.Critical, fmt.Sprintf("Unable to communicate with %s: no answer within %s", at, events.Duration(f.timeout))
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return events.Critical, fmt.Sprintf("Unable to communicate with %s: %s", at, err)
}

// get asks the gateway for a JSON object. path is escaped already.
func (f *nagiosFlags) get(ctx context.Context, path string, v any) error {
	at := "http://" + net.JoinHostPort(f.address, strconv.Itoa(f.port)) + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return &answerError{err.Error()}
	}
	req.Header.Set("Accept", "application/json")
	transport := &http.Transport{DisableKeepAlives: true} // one or two requests, then the process ends
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); res.StatusCode != http.StatusOK || err != nil {
		return &answerError{fmt.Sprintf("%s answers %s: %s", at, res.Status, reasonIn(body))}
	}
	return nil
}

// reasonIn finds what an answer says about itself: the detail of a problem
// document, else its beginning.
func reasonIn(body []byte) string {
	var problem struct{ Title, Detail string }
	if json.Unmarshal(body, &problem) == nil {
		for _, text := range []string{problem.Detail, problem.Title} {
			if text != "" {
				return text
			}
		}
	}
	return events.Cut(strings.TrimSpace(string(body)), 200)
}
