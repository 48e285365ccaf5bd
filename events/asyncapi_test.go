package events_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"sigs.k8s.io/yaml"
)

const asyncAPIFile = "../docs/asyncapi.yaml"

// docs/asyncapi.yaml is derived from the table of kinds; -update writes it.
func TestAsyncAPIIsThatOfTheTable(t *testing.T) {
	is := is.New(t)
	want, err := yaml.Marshal(asyncAPI(t))
	is.NoErr(err)
	want = append([]byte("# Derived from the table of event types; write it with: go test ./events -update\n"), want...)
	if *update {
		is.NoErr(os.WriteFile(asyncAPIFile, want, 0o644))
		return
	}
	got, err := os.ReadFile(asyncAPIFile)
	is.NoErr(err)
	is.Equal(string(got), string(want)) // run go test ./events -update
}

type object = map[string]any

func asyncAPI(t *testing.T) object {
	channels, messages, schemas, operations := object{}, object{}, object{}, object{}
	for _, k := range events.Kinds() {
		if k.Internal {
			continue
		}
		messages[k.Type] = message(k)
		schema, ok := events.Schema(k.Type)
		if !ok {
			t.Fatalf("%s has no schema", k.Type)
		}
		schemas[k.Type] = plainSchema(t, schema)
		for _, subject := range k.Subjects {
			name := channelName(subject)
			ch, ok := channels[name].(object)
			if !ok {
				ch = channel(subject, k)
				channels[name] = ch
			}
			ch["messages"].(object)[k.Type] = object{"$ref": "#/components/messages/" + k.Type}
			operations[name] = object{
				"action": action(k), "channel": object{"$ref": "#/channels/" + name},
				"summary": "Published by: " + k.By + ".",
			}
		}
	}
	schemas["CloudEvent"] = object{
		"type": "object", "required": []string{"specversion", "id", "source", "type"},
		"properties": object{
			"specversion": object{"const": "1.0"}, "id": object{"type": "string"}, "source": object{"type": "string"},
			"type": object{"type": "string"}, "subject": object{"type": "string", "description": "hosts/<host>/checks/<check>, or hosts/<host>: plain names"},
			"time": object{"type": "string", "format": "date-time"}, "datacontenttype": object{"const": "application/json"},
			"partitionkey": object{"type": "string", "description": "the host"},
			"sequence":     object{"type": "string", "description": "of a transition: its number, 20 digits"},
			"causationid":  object{"type": "string", "description": "of a transition: the id of the event that caused it"},
		},
	}
	return object{
		"asyncapi": "3.0.0",
		"info": object{
			"title": "Megaphone on NATS", "version": "1.0.0", "license": object{"name": "ISC"},
			"description": "Structured CloudEvents (content type application/cloudevents+json); binary mode is read too. Names in subjects are single tokens: bytes other than A-Z a-z 0-9 _ - are written %XX.",
		},
		"defaultContentType": events.ContentType,
		"servers":            object{"embedded": object{"host": "127.0.0.1:4222", "protocol": "nats"}},
		"channels":           channels, "operations": operations,
		"components": object{"messages": messages, "schemas": schemas},
	}
}

func message(k events.Kind) object {
	return object{
		"name": k.Type, "title": k.Type, "summary": k.About, "contentType": events.ContentType,
		"payload": object{"allOf": []object{
			{"$ref": "#/components/schemas/CloudEvent"},
			{"properties": object{"type": object{"const": k.Type}, "data": object{"$ref": "#/components/schemas/" + k.Type}}},
		}},
	}
}

var parameter = regexp.MustCompile(`<(\w+)>`)

func channelName(subject string) string {
	return strings.ReplaceAll(parameter.ReplaceAllString(strings.TrimPrefix(subject, "megaphone."), "$1"), ".", "-")
}

func channel(subject string, k events.Kind) object {
	ch := object{"address": parameter.ReplaceAllString(subject, "{$1}"), "messages": object{}}
	params := object{}
	for _, m := range parameter.FindAllStringSubmatch(subject, -1) {
		params[m[1]] = object{"description": "a name as one token"}
	}
	ch["parameters"] = params
	if k.Stream != "" {
		ch["description"] = "Kept in the stream " + k.Stream + "."
	}
	return ch
}

// action is seen from a client program: it sends what services may publish.
func action(k events.Kind) string {
	if strings.Contains(k.By, "services") {
		return "send"
	}
	return "receive"
}

func plainSchema(t *testing.T, b []byte) object {
	var s object
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	delete(s, "$schema")
	return s
}
