package events_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/invopop/jsonschema"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "write the schemas that the table of kinds gives")

// schemaOf derives the schema of a kind from its Go type.
func schemaOf(k events.Kind) *jsonschema.Schema {
	r := jsonschema.Reflector{
		Anonymous: true, ExpandedStruct: true, DoNotReference: true, AllowAdditionalProperties: true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch t {
			case reflect.TypeFor[events.Status]():
				s := &jsonschema.Schema{Type: "string"}
				for _, v := range events.Statuses() {
					s.Enum = append(s.Enum, v.String())
				}
				return s
			case reflect.TypeFor[events.Duration]():
				return &jsonschema.Schema{
					Description: "a span such as \"60s\", or a number of seconds",
					OneOf:       []*jsonschema.Schema{{Type: "string"}, {Type: "number", Minimum: "0"}},
				}
			case reflect.TypeFor[events.Time]():
				return &jsonschema.Schema{Type: "string", Format: "date-time"}
			case reflect.TypeFor[json.RawMessage]():
				return &jsonschema.Schema{}
			}
			return nil
		},
	}
	s := r.ReflectFromType(reflect.TypeOf(k.Data))
	s.Title, s.Description = k.Type, k.About
	if k.Type == events.TypeResult {
		s.Required = []string{"status"} // of a push; workers set more
	}
	return s
}

func TestSchemasAreThoseOfTheTable(t *testing.T) {
	for _, k := range events.Kinds() {
		t.Run(k.Type, func(t *testing.T) {
			is := is.New(t)
			want, err := json.MarshalIndent(schemaOf(k), "", "  ")
			is.NoErr(err)
			want = append(want, '\n')
			if *update {
				is.NoErr(os.MkdirAll("schemas", 0o755))
				is.NoErr(os.WriteFile("schemas/"+k.Type+".json", want, 0o644))
				return
			}
			got, ok := events.Schema(k.Type)
			is.True(ok) // there is a schema; run go test ./events -update
			is.Equal(string(got), string(want))
		})
	}
}

// samples are events as they travel, one per kind at least.
func samples() map[string]any {
	ok, critical := events.OK, events.Critical
	at := events.At(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	return map[string]any{
		events.TypeRegistered:       events.Registration{ID: "db", Host: "web01", URL: json.RawMessage(`{"addr":"http://localhost/"}`), Interval: events.Duration(time.Minute), OnSilence: &critical},
		events.TypeDeregistered:     events.Deregistration{Host: "web01", Check: "db", Reason: "gone"},
		events.TypeHostRegistered:   events.HostRecord{Host: "web01", Labels: map[string]string{"env": "prod"}},
		events.TypeHostDeregistered: events.Deregistration{Host: "web01"},
		events.TypeOverrideSet:      events.Override{Host: "web01", Status: &ok, Reason: "deploy", Until: at},
		events.TypeOverrideCleared:  events.Deregistration{Host: "web01"},
		events.TypeResult:           events.Result{Status: events.Warning, Message: "queue is long", Document: json.RawMessage(`{"a":1}`)},
		events.TypeReport: events.Report{Worker: "w1", Pool: "default", Results: []events.PollResult{
			{Host: "web01", Check: "db", Time: at, Result: events.Result{Status: events.OK, Message: "fine", Reg: 1, Lease: 2, Due: 3}},
		}},
		events.TypeCheckChanged: events.Transition{
			Host: "web01", Check: "db", Number: 17, Previous: events.Moment{Phase: events.Pending},
			Current: events.Moment{Status: &critical, Phase: events.Live, Since: at}, Message: "no answer", Cause: events.CauseResult,
		},
		events.TypeHostChanged:  events.Transition{Host: "web01", Number: 1, Current: events.Moment{Status: &ok, Phase: events.Live, Since: at}, Cause: events.CauseResult},
		events.TypeCheckPresent: events.Present("web01", "db", 17, events.Moment{Status: &critical, Phase: events.Live, Since: at}, "no answer", nil),
		events.TypeHostPresent:  events.Present("web01", "", 1, events.Moment{Status: &ok, Phase: events.Live, Since: at}, "", nil),
		events.TypeRejected:     events.Rejection{Subject: "megaphone.result.web01.db", Reason: "no status"},
		events.TypeHeartbeat:    events.Heartbeat{Role: "poller", Name: "w1", Pools: []string{"default"}, Started: at, Work: &events.Work{Partitions: map[string]int{"default": 64}}},
		events.TypeTick:         events.Tick{Outage: &events.Outage{From: at, To: at}},
	}
}

// Every kind has a sample that is a valid CloudEvent with data by its schema.
func TestSamplesAreValid(t *testing.T) {
	envelope := compile(t, "testdata/cloudevents.json", mustRead(t, "testdata/cloudevents.json"))
	for _, k := range events.Kinds() {
		t.Run(k.Type, func(t *testing.T) {
			is := is.New(t)
			b, err := events.Encode(events.Header{Type: k.Type, Source: "urn:megaphone:test", ID: "1", Host: "web01", Time: time.Now()}, samples()[k.Type])
			is.NoErr(err)
			is.NoErr(envelope.Validate(instance(t, b)))
			e, err := events.Decode(b)
			is.NoErr(err)
			schema, ok := events.Schema(k.Type)
			is.True(ok)
			is.NoErr(compile(t, k.Type, schema).Validate(instance(t, e.Data())))
		})
	}
}

func mustRead(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func instance(t *testing.T, b []byte) any {
	t.Helper()
	v, err := validator.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func compile(t *testing.T, name string, schema []byte) *validator.Schema {
	t.Helper()
	c := validator.NewCompiler()
	if err := c.AddResource(name, instance(t, schema)); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
