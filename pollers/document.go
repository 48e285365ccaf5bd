package pollers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/looprock/megaphone/events"
)

// maxDepth is how deeply a status document may be nested. The original gave up
// at about a thousand levels; the event around a document needs some of the
// ten thousand that readers of JSON allow.
const maxDepth = 512

// The original's texts, and those that mend its bugs. People match them.
const (
	textNoAddr    = "ERROR: couldn't find addr in url, nothing to check"
	textOverride  = "NOTICE: statusoverride used!"
	textNoStatus  = "No status was found on given path!"
	textNotObject = "status document is not a JSON object"
)

var textTooLarge = fmt.Sprintf("status document is larger than %d bytes", events.MaxDocument)

// Reading is what a status document says about a check.
type Reading struct {
	Status  events.Status
	Message string // valid UTF-8, at most events.MaxMessage bytes
	// Document is what the service said, as valid JSON in valid UTF-8; nil where
	// it said nothing, no JSON, or more than events.MaxDocument bytes.
	Document json.RawMessage
}

// Read reads the body that was found at t, in the rules and words of the
// original Megaphone. The body may be anything; one of more than
// events.MaxDocument bytes is Critical, so a caller need not read further than
// one byte beyond.
func Read(t events.Target, body []byte) Reading {
	if len(body) > events.MaxDocument {
		return finish(t, critical(textTooLarge))
	}
	doc, ok := clean(body)
	switch {
	case !ok:
		return Missing(t)
	case len(doc) > events.MaxDocument: // repairing its UTF-8 made it longer
		return finish(t, critical(textTooLarge))
	}
	r := judge(t, doc)
	r.Document = doc
	return finish(t, r)
}

// Missing is the reading of t where no document could be had, whatever the
// reason: the original has one text for all.
func Missing(t events.Target) Reading {
	if t.JSONPath != "" {
		return finish(t, unresolved(t))
	}
	return finish(t, critical("timeout connecting to "+t.Addr))
}

func critical(text string) Reading { return Reading{Status: events.Critical, Message: text} }

func unresolved(t events.Target) Reading {
	return critical("error collecting results from addr: " + t.Addr + ", jsonpath: " + t.JSONPath)
}

// finish applies what wins over any document, and bounds the message.
func finish(t events.Target, r Reading) Reading {
	switch {
	case t.Addr == "":
		r.Status, r.Message = events.Critical, textNoAddr
	case t.Override != "":
		r.Status, r.Message = overridden(t.Override)
	}
	r.Message = events.Cut(strings.ToValidUTF8(r.Message, "\uFFFD"), events.MaxMessage)
	return r
}

func overridden(word string) (events.Status, string) {
	s, err := events.ParseStatus(word)
	if err != nil {
		return events.Critical, "ERROR: invalid status '" + word + "' written to statusoverride!"
	}
	return s, textOverride
}

// clean returns the JSON value that body is, in valid UTF-8 and without blanks
// and byte order mark around it; ok is false where it is none, or nested too
// deeply to be passed on.
func clean(body []byte) (doc json.RawMessage, ok bool) {
	body = bytes.TrimPrefix(body, []byte("\xEF\xBB\xBF"))
	if !utf8.Valid(body) {
		body = bytes.ToValidUTF8(body, []byte("\uFFFD"))
	}
	if !json.Valid(body) || events.Deeper(body, maxDepth) {
		return nil, false
	}
	return bytes.TrimSpace(body), true
}

// judge reads status and message of a valid document.
func judge(t events.Target, doc json.RawMessage) Reading {
	keys := segments(t.JSONPath)
	switch {
	case doc[0] != '{' && t.JSONPath != "":
		return unresolved(t)
	case doc[0] != '{':
		return critical(textNotObject)
	case len(keys) > 0:
		return judgePath(t, doc, keys)
	}
	var v, message json.RawMessage
	for key, value := range members(doc) { // of a key given twice the last wins
		switch string(key) {
		case "status":
			v = value
		case "message":
			message = value
		}
	}
	if v == nil {
		return critical(textNoStatus)
	}
	status, bad := readStatus(v)
	if bad != "" {
		return critical(bad)
	}
	if text, ok := messageText(message); ok {
		return Reading{Status: status, Message: text}
	}
	return Reading{Status: status, Message: events.NoMessage(status)}
}

func judgePath(t events.Target, doc json.RawMessage, keys []string) Reading {
	v, ok := walk(doc, keys)
	if !ok {
		return unresolved(t)
	}
	status, bad := readStatus(v)
	if bad != "" {
		return critical(bad)
	}
	return Reading{Status: status, Message: "Status from path " + t.JSONPath + ": " + status.String()}
}

// segments splits a jsonpath into plain keys; empty ones are skipped.
func segments(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// walk follows keys into v: through objects by key, through lists by index.
// Nothing in a key is evaluated; the original ran it as code.
func walk(v json.RawMessage, keys []string) (json.RawMessage, bool) {
	for _, key := range keys {
		switch v[0] {
		case '{':
			next, ok := member(v, key)
			if !ok {
				return nil, false
			}
			v = next
		case '[':
			var list []json.RawMessage
			i, err := strconv.ParseUint(key, 10, 16)
			if err != nil || json.Unmarshal(v, &list) != nil || i >= uint64(len(list)) {
				return nil, false
			}
			v = list[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// readStatus reads a status; bad is the text that names a value which is none,
// one that is no string as JSON.
func readStatus(v json.RawMessage) (status events.Status, bad string) {
	text, ok := messageText(v)
	if !ok {
		text = "null"
	}
	status, err := events.ParseStatus(text)
	if err != nil || v[0] != '"' {
		return status, "ERROR: status value '" + text + "' not valid!"
	}
	return status, ""
}

// messageText is [events.MessageText] of a value in valid UTF-8: there is nothing
// to decode in most.
func messageText(v json.RawMessage) (text string, ok bool) {
	if len(v) > 0 && v[0] == '"' {
		return string(unquote(v)), true
	}
	return events.MessageText(v)
}
