package gateway

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/matryer/is"
	"sigs.k8s.io/yaml"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// docs/openapi.yaml has exactly the routes of the table, with the same words.
func TestOpenAPI(t *testing.T) {
	is := is.New(t)
	text, err := os.ReadFile("../docs/openapi.yaml")
	is.NoErr(err)
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]any
	}
	is.NoErr(yaml.Unmarshal(text, &doc))
	is.Equal(doc.OpenAPI, "3.1.0")
	var want, got []string
	for _, rt := range (&Server{}).table() {
		want = append(want, rt.method+" "+rt.pattern+": "+rt.doc)
	}
	for path, item := range doc.Paths {
		for method, op := range item {
			if method != "parameters" {
				got = append(got, strings.ToUpper(method)+" "+path+": "+op.(map[string]any)["summary"].(string))
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	is.Equal(strings.Join(got, "\n"), strings.Join(want, "\n"))
	for _, ref := range regexp.MustCompile(`#/components/\w+/(\w+)`).FindAllStringSubmatch(string(text), -1) {
		is.True(regexp.MustCompile(`(?m)^    ` + ref[1] + `:`).Match(text)) // what is referred to is there
	}
}

// Every route of the table is reached by its path, and no other.
func TestRoutes(t *testing.T) {
	is := is.New(t)
	table := (&Server{}).table()
	tree := newRoutes(table)
	for i, rt := range table {
		path := strings.NewReplacer("{host}", "h%2E", "{id}", "a%2Fb", "{token}", "t", "{action}", "5").Replace(rt.pattern)
		n, params := tree.find(path)
		is.True(n != nil)
		is.Equal(n.methods[rt.method], &table[i])
		is.Equal(len(params), strings.Count(rt.pattern, "{"))
		if len(params) == 2 && params[0].name == "host" {
			is.Equal(params, []param{{"host", "h."}, {"id", "a/b"}})
		}
	}
	for _, path := range []string{"", "checks", "/nope", "/hosts//checks", "/hosts/", "/checks/%zz"} {
		n, _ := tree.find(path)
		is.True(n == nil || n.methods == nil)
	}
}

func TestHealth(t *testing.T) {
	is := is.New(t)
	r := start(t, func(c *Config, _ *bus.RegistryOptions) { c.Version = "v1.2.3" })
	is.Equal(r.get("/livez").body, `{"status":"ok"}`+"\n")
	got := r.get("/readyz")
	is.Equal(got.code, 200)
	is.Equal(got.body, `{"ready":true,"bus":true,"age_seconds":0,"version":"v1.2.3"}`+"\n")
	got = r.get("/schemas/" + events.TypeResult)
	is.Equal(got.code, 200)
	is.Equal(got.header.Get("Content-Type"), "application/schema+json")
	is.True(got.object(t)["properties"] != nil)
	r.get("/schemas/nope").problem(t, 404)
}
