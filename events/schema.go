package events

import (
	"embed"
	"strings"
)

//go:embed schemas/*.json
var schemas embed.FS

// Schema returns the JSON Schema (2020-12) of the data of an event type, and
// whether there is such a type. The schemas are derived from [Kinds] by this
// package's tests.
func Schema(eventType string) ([]byte, bool) {
	if strings.ContainsAny(eventType, `/\`) {
		return nil, false
	}
	b, err := schemas.ReadFile("schemas/" + eventType + ".json")
	return b, err == nil
}
