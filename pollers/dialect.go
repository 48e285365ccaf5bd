package pollers

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"

	"github.com/looprock/megaphone/events"
)

// answer is what a service sent, with its own word on what it is.
type answer struct {
	contentType string
	body        []byte // of a too large one the first events.MaxDocument + 1 bytes
}

// dialect is a form of a status document other than the original's. read is
// false where the document is in another form; typed says that the type of the
// content names this one, so that a looser look will do.
type dialect struct {
	name  string
	types []string
	read  func(doc object, typed bool) (Reading, bool)
}

// object is a JSON object, its values untouched.
type object map[string]json.RawMessage

// dialects are those that are recognised, in this order. The original's form
// comes before all of them.
var dialects = []dialect{
	{"health+json", []string{"application/health+json"}, readHealthJSON},
	{"microprofile", nil, readMicroProfile},
	{"actuator", []string{"application/vnd.spring-boot.actuator.v2+json", "application/vnd.spring-boot.actuator.v3+json"}, readActuator},
	{"health-go", nil, readHealthGo},
	{"updown", nil, readUpDown},
	{"goss", nil, readGoss},
	{"sundheit", nil, readSundheit},
}

// recognise reads an answer in the dialect of that name, or where it is empty in
// the first that fits; ok is false where none does.
func recognise(a answer, name string) (r Reading, ok bool) {
	_, r, ok = identify(a, name)
	return r, ok
}

// identify is recognise, with the name of the dialect.
func identify(a answer, name string) (dialect string, r Reading, ok bool) {
	if len(a.body) > events.MaxDocument {
		return "", r, false
	}
	kind, _, _ := mime.ParseMediaType(a.contentType) // empty where it is none
	doc, valid := clean(a.body)
	if name == "" || name == "aspnet" {
		if r, ok := readWord(string(a.body)); ok && !valid {
			return "aspnet", r, true
		}
	}
	var root object
	if !valid || doc[0] != '{' || json.Unmarshal(doc, &root) != nil {
		return "", r, false
	}
	if name == "" && original(root) {
		return "", r, false
	}
	for _, d := range dialects {
		if name != "" && name != d.name {
			continue
		}
		if r, ok = d.read(root, name != "" || slices.Contains(d.types, kind)); ok {
			r.Document = doc
			return d.name, r, true
		}
	}
	return "", r, false
}

// original reports whether a document has one of the original's words as its status.
func original(root object) bool {
	_, bad := readStatus(orNull(root["status"]))
	return bad == ""
}

// isOriginal is original of a valid document.
func isOriginal(doc json.RawMessage) bool {
	var root object
	return doc[0] == '{' && json.Unmarshal(doc, &root) == nil && original(root)
}

func orNull(v json.RawMessage) json.RawMessage {
	if len(v) == 0 {
		return json.RawMessage("null")
	}
	return v
}

// word returns the string under a key; empty where there is none.
func (o object) word(key string) (s string) {
	if json.Unmarshal(orNull(o[key]), &s) != nil {
		return ""
	}
	return s
}

// objects returns the objects in the object under a key, by their names; an
// object in a list counts as one of the name of the list.
func (o object) objects(key string) map[string][]object {
	var in map[string]json.RawMessage
	all := map[string][]object{}
	if json.Unmarshal(orNull(o[key]), &in) != nil {
		return all
	}
	for name, v := range in {
		var one object
		var list []object
		if json.Unmarshal(v, &one) == nil && one != nil {
			list = []object{one}
		} else if json.Unmarshal(v, &list) != nil {
			continue
		}
		all[name] = list
	}
	return all
}

// list returns the objects in the list under a key.
func (o object) list(key string) (list []object, ok bool) {
	v := orNull(o[key])
	return list, v[0] == '[' && json.Unmarshal(v, &list) == nil
}

// maxNamed is how many components a message names.
const maxNamed = 10

// because is a message: the document's word, and which components are not well.
func because(word string, bad []string) string {
	if len(bad) == 0 {
		return word
	}
	slices.Sort(bad)
	if more := len(bad) - maxNamed; more > 0 {
		bad = append(bad[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	return word + ": " + strings.Join(bad, ", ")
}

// readHealthJSON reads application/health+json. Without that type only the
// draft's own three words are taken for it.
func readHealthJSON(doc object, typed bool) (Reading, bool) {
	status := func(word string) (s events.Status, ok bool) {
		if typed {
			word = strings.ToLower(word)
		}
		switch word {
		case "pass":
			return events.OK, true
		case "warn":
			return events.Warning, true
		case "fail":
			return events.Critical, true
		case "ok", "up":
			return events.OK, typed
		case "error", "down":
			return events.Critical, typed
		}
		return s, false
	}
	word := doc.word("status")
	s, ok := status(word)
	if !ok {
		return Reading{}, false
	}
	var bad []string
	for name, list := range doc.objects("checks") {
		for _, c := range list {
			if is, ok := status(c.word("status")); ok && is != events.OK {
				bad = append(bad, strings.TrimSuffix(name+" "+c.word("status")+" ("+c.word("output")+")", " ()"))
			}
		}
	}
	text := because(word, bad)
	if out := doc.word("output"); out != "" {
		text += "; " + out
	}
	return Reading{Status: s, Message: text}, true
}

// actuator maps the words of Spring Actuator.
func actuator(word string) (s events.Status, ok bool) {
	switch word {
	case "UP":
		return events.OK, true
	case "DOWN", "OUT_OF_SERVICE":
		return events.Critical, true
	case "UNKNOWN":
		return events.Unknown, true
	}
	return s, false
}

// readActuator reads Spring Actuator's health. A word that an application added
// is Unknown, where something else says that it is an Actuator.
func readActuator(doc object, typed bool) (Reading, bool) {
	word := doc.word("status")
	s, ok := actuator(word)
	if !ok && (!typed || word == "") {
		return Reading{}, false
	}
	var bad []string
	for _, key := range []string{"components", "details"} { // the latter of version 1 and 2.0
		for name, list := range doc.objects(key) {
			for _, c := range list {
				if is := c.word("status"); is != "UP" && is != "" {
					bad = append(bad, name+" "+is)
				}
			}
		}
	}
	return Reading{Status: s, Message: because(word, bad)}, true
}

// readMicroProfile reads MicroProfile Health: UP or DOWN, and a list of checks.
func readMicroProfile(doc object, _ bool) (Reading, bool) {
	word := doc.word("status")
	checks, ok := doc.list("checks")
	if !ok || word != "UP" && word != "DOWN" {
		return Reading{}, false
	}
	s, _ := actuator(word) // one of its words
	var bad []string
	for _, c := range checks {
		if is := c.word("status"); is != "UP" {
			bad = append(bad, c.word("name")+" "+is)
		}
	}
	return Reading{Status: s, Message: because(word, bad)}, true
}

// readHealthGo reads hellofresh/health-go, whose OK is the original's.
func readHealthGo(doc object, typed bool) (Reading, bool) {
	var s events.Status
	word := doc.word("status")
	switch word {
	case "OK":
		if !typed {
			return Reading{}, false
		}
		s = events.OK
	case "Partially Available":
		s = events.Warning
	case "Unavailable", "Timeout during health check":
		s = events.Critical
	default:
		return Reading{}, false
	}
	var failures map[string]json.RawMessage
	var bad []string
	if json.Unmarshal(orNull(doc["failures"]), &failures) == nil {
		bad = slices.Collect(maps.Keys(failures))
	}
	return Reading{Status: s, Message: because(word, bad)}, true
}

// readUpDown reads alexliesenfeld/health and its like: up or down.
func readUpDown(doc object, _ bool) (Reading, bool) {
	word := doc.word("status")
	s, ok := map[string]events.Status{"up": events.OK, "down": events.Critical, "unknown": events.Unknown}[word]
	if !ok {
		return Reading{}, false
	}
	var bad []string
	for name, list := range doc.objects("details") {
		for _, c := range list {
			if is := c.word("status"); is != "up" && is != "" {
				bad = append(bad, name+" "+is)
			}
		}
	}
	return Reading{Status: s, Message: because(word, bad)}, true
}

// readGoss reads the JSON of goss.
func readGoss(doc object, _ bool) (Reading, bool) {
	var summary struct {
		Count  *int   `json:"test-count"`
		Failed *int   `json:"failed-count"`
		Line   string `json:"summary-line"`
	}
	results, ok := doc.list("results")
	if !ok || json.Unmarshal(orNull(doc["summary"]), &summary) != nil || summary.Failed == nil || summary.Count == nil {
		return Reading{}, false
	}
	text := fmt.Sprintf("%d tests, %d failed", *summary.Count, *summary.Failed)
	if *summary.Failed == 0 {
		return Reading{Status: events.OK, Message: text}, true
	}
	var bad []string
	for _, r := range results {
		if string(r["successful"]) == "false" {
			bad = append(bad, strings.TrimSpace(r.word("resource-type")+" "+r.word("resource-id")+" "+r.word("property")))
		}
	}
	return Reading{Status: events.Critical, Message: because(text, bad)}, true
}

// readSundheit reads go-sundheit: a map of checks, each PASS or FAIL, or with the
// details of its last run.
func readSundheit(doc object, _ bool) (Reading, bool) {
	if doc["status"] != nil {
		return Reading{}, false // a document with a status says what it means by that
	}
	var bad []string
	for name, v := range doc {
		var run object
		var word string
		switch {
		case json.Unmarshal(v, &word) == nil && word == "PASS":
		case word == "FAIL":
			bad = append(bad, name)
		case json.Unmarshal(v, &run) == nil && run["contiguousFailures"] != nil && run["timestamp"] != nil:
			if e := orNull(run["error"]); string(e) != "null" {
				bad = append(bad, name)
			}
		default:
			return Reading{}, false
		}
	}
	switch {
	case len(doc) == 0:
		return Reading{}, false
	case len(bad) == 0:
		return Reading{Status: events.OK, Message: fmt.Sprintf("%d checks pass", len(doc))}, true
	}
	return Reading{Status: events.Critical, Message: because(fmt.Sprintf("%d of %d checks fail", len(bad), len(doc)), bad)}, true
}

// readWord reads the bare word that ASP.NET answers.
func readWord(body string) (Reading, bool) {
	word := strings.TrimSpace(body)
	s, ok := map[string]events.Status{"Healthy": events.OK, "Degraded": events.Warning, "Unhealthy": events.Critical}[word]
	return Reading{Status: s, Message: word}, ok
}
