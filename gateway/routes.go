package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// route is a row of the table of all routes.
type route struct {
	method  string // GET answers HEAD too
	pattern string // segments in braces are parameters: one segment of the escaped path each
	doc     string // in a few words, as in docs/openapi.yaml
	legacy  bool   // of the original: errors are pages or plain text
	open    bool   // the guard lets everybody pass
	handle  http.HandlerFunc
}

// table is the one table of routes; a test compares it with docs/openapi.yaml.
func (s *Server) table() []route {
	const (
		get, put, post, del = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete
		host, check         = "/hosts/{host}", "/hosts/{host}/checks/{id}"
		ping, kuma          = "/compat/healthchecks/{token}", "/compat/uptime-kuma/api/push/{token}"
	)
	return append(s.probeTable(), []route{
		{get, "/", "status of the local host", true, false, s.legacyRoot},
		{get, "/checks", "checks of the local host", true, false, s.legacyChecks},
		{post, "/checks", "register a check of the local host", true, false, s.legacyRegister},
		{get, "/checks/{id}", "status document of a check", true, false, s.legacyCheck},
		{del, "/checks/{id}", "deregister a check", true, false, s.legacyDelete},
		{put, "/checks/{id}/status", "push a status", false, false, s.putLocalStatus},

		{get, "/hosts", "all hosts", false, false, s.getHosts},
		{get, host, "a host", false, false, s.getHost},
		{put, host, "register a host's address and labels", false, false, s.putHost},
		{del, host, "deregister a host and its checks", false, false, s.deleteHost},
		{get, host + "/checks", "checks of a host", false, false, s.getChecks},
		{get, check, "a check", false, false, s.getCheck},
		{put, check, "register a check", false, false, s.putCheck},
		{del, check, "deregister a check", false, false, s.deleteCheck},
		{put, check + "/status", "push a status", false, false, s.putStatus},
		{get, host + "/override", "override of a host", false, false, s.getOverride},
		{put, host + "/override", "set the status of a host by hand", false, false, s.putOverride},
		{del, host + "/override", "end the override of a host", false, false, s.deleteOverride},
		{get, check + "/override", "override of a check", false, false, s.getOverride},
		{put, check + "/override", "set the status of a check by hand", false, false, s.putOverride},
		{del, check + "/override", "end the override of a check", false, false, s.deleteOverride},

		{get, "/events", "transitions as server-sent events", false, false, s.getEvents},
		{post, "/events", "take in CloudEvents", false, false, s.postEvents},
		{get, ping, "push by healthchecks' ping: success", false, true, s.ping},
		{post, ping, "push by healthchecks' ping: success, with a log", false, true, s.ping},
		{get, ping + "/{action}", "push by healthchecks' ping", false, true, s.ping},
		{post, ping + "/{action}", "push by healthchecks' ping, with a log", false, true, s.ping},
		{get, kuma, "push by Uptime Kuma's URL", false, true, s.kuma},
		{post, kuma, "push by Uptime Kuma's URL, posted", false, true, s.kuma},
		{put, kuma, "push by Uptime Kuma's URL, put", false, true, s.kuma},
		{put, "/compat/consul/v1/agent/check/{action}/{token}", "push by Consul's call of a TTL check", false, true, s.consul},

		{get, "/livez", "whether the process runs", false, true, s.livez},
		{get, "/readyz", "whether answers are complete and current", false, true, s.readyz},
		{get, "/metrics", "metrics of this process and its local host", false, false, s.getMetrics},
		{get, "/metrics/hosts", "metrics of all hosts", false, false, s.getFleet},
		{get, "/schemas/{type}", "JSON Schema of the data of an event type", false, false, s.getSchema},
	}...)
}

// newPath reports whether a path that is not there lies among the new
// resources, whose errors are problem documents.
func newPath(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return slices.Contains([]string{"hosts", "events", "livez", "readyz", "metrics", "schemas", "compat"}, first)
}

// node is a place in the tree of patterns. Routing is on the escaped path and
// without any cleaning: %2F belongs to a name, and so do dots.
type node struct {
	literal map[string]*node
	param   *node
	name    string // of the parameter that led here
	methods map[string]*route
	allow   string
	legacy  bool

	// kept, where it is not nil, answers with what is kept, before anything is made
	// for a request; it reports false if it has nothing.
	kept func(w http.ResponseWriter, r *http.Request, params []param) bool
}

type param struct{ name, value string }

func newRoutes(table []route) *node {
	root := &node{}
	for i := range table {
		n := root.at(table[i].pattern)
		if n.methods == nil {
			n.methods = map[string]*route{}
		}
		n.methods[table[i].method] = &table[i]
		n.legacy = table[i].legacy
		n.allow = strings.Join(sortedKeys(n.methods), ",")
	}
	return root
}

// at is the place of a pattern, made if need be.
func (n *node) at(pattern string) *node {
	for seg := range strings.SplitSeq(strings.TrimPrefix(pattern, "/"), "/") {
		n = n.grow(seg)
	}
	return n
}

func sortedKeys(m map[string]*route) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (n *node) grow(seg string) *node {
	if name, ok := strings.CutPrefix(seg, "{"); ok {
		if n.param == nil {
			n.param = &node{name: strings.TrimSuffix(name, "}")}
		}
		return n.param
	}
	if n.literal == nil {
		n.literal = map[string]*node{}
	}
	if n.literal[seg] == nil {
		n.literal[seg] = &node{}
	}
	return n.literal[seg]
}

// find returns the node of an escaped path, nil for none.
func (n *node) find(escaped string) (*node, []param) {
	rest, ok := strings.CutPrefix(escaped, "/")
	if !ok {
		return nil, nil
	}
	var params []param
	for more := true; more; {
		var seg string
		seg, rest, more = strings.Cut(rest, "/")
		if strings.IndexByte(seg, '%') >= 0 {
			plain, err := url.PathUnescape(seg)
			if err != nil {
				return nil, nil
			}
			seg = plain
		}
		next := n.literal[seg]
		if next == nil {
			if next = n.param; next == nil || seg == "" {
				return nil, nil
			}
			params = append(params, param{next.name, seg})
		}
		n = next
	}
	return n, params
}
