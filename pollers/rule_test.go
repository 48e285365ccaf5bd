package pollers

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// ruled decodes and compiles a rule of web01.
func ruled(text string) (*rule, error) {
	var r Rule
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, err
	}
	return compile(r, "web01")
}

func mustRule(t testing.TB, text string) *rule {
	t.Helper()
	r, err := ruled(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRuleIsRefused(t *testing.T) {
	const register = `"register":{"id":"{name}","url":"process:{name}"}`
	for name, tt := range map[string]struct{ rule, want string }{
		"without a name":        {`{"process":{"name":"a"},` + register + `}`, `rule "": its name is 1 to 64 of`},
		"a name with blanks":    {`{"rule":"a b","process":{"name":"a"},` + register + `}`, "its name is 1 to 64 of"},
		"nothing to look for":   {`{"rule":"r",` + register + `}`, "one of process, unit and service"},
		"two things":            {`{"rule":"r","unit":"a","service":"b",` + register + `}`, "one of process, unit and service"},
		"any process":           {`{"rule":"r","process":{},` + register + `}`, "give the name of the process"},
		"no pattern":            {`{"rule":"r","unit":"(",` + register + `}`, "missing closing )"},
		"another end":           {`{"rule":"r","unit":"a","gone":"ok",` + register + `}`, `gone is "ok", it must be critical or deregister`},
		"grace for what stays":  {`{"rule":"r","unit":"a","grace":"3s",` + register + `}`, `grace is about "gone": "deregister"`},
		"too short a grace":     {`{"rule":"r","unit":"a","gone":"deregister","grace":"1s",` + register + `}`, "grace is 1s, it must be at least 2s"},
		"no registration":       {`{"rule":"r","unit":"a"}`, "register must be a registration"},
		"a list":                {`{"rule":"r","unit":"a","register":[]}`, "register must be a registration"},
		"its host":              {`{"rule":"r","unit":"a","register":{"id":"a","ttl":"9s","host":"db01"}}`, `register has no "host"`},
		"its origin":            {`{"rule":"r","unit":"a","register":{"id":"a","ttl":"9s","Origin":"http"}}`, `register has no "Origin"`},
		"in capitals":           {`{"rule":"r","unit":"a","register":{"id":"a","URL":"http://{name}/"}}`, `register has no "URL": write it as "url"`},
		"a slip of the pen":     {`{"rule":"r","unit":"a","register":{"id":"a","ttl":"9s","intervall":3}}`, `unknown field "intervall"`},
		"a variable of others":  {`{"rule":"r","unit":"a","register":{"id":"{pid}","ttl":"9s"}}`, "unit has no {pid}; it has {host}, {name}, {unit}"},
		"no such variable":      {`{"rule":"r","service":"a","register":{"id":"a","url":"nats:///$SRV.PING.{nam}"}}`, "service has no {nam}; it has {host}, {id}, {service}, {version}"},
		"no kind of check":      {`{"rule":"r","unit":"a","register":{"id":"a","url":"ftp://h/"}}`, "no kind of check polls ftp"},
		"a key of another kind": {`{"rule":"r","unit":"a","register":{"id":"a","url":{"addr":"systemd:{unit}","min_count":2}}}`, `kind systemd has no "min_count"`},
		"its name is a machine": {`{"rule":"r","process":{"name":"a"},"register":{"id":"a","url":"http://{name}/"}}`, "{name} must not choose the machine"},
		"within a machine":      {`{"rule":"r","unit":"a","register":{"id":"a","url":{"addr":"https://{unit}.example.com:1/"}}}`, "{unit} must not choose the machine"},
		"a user of a machine":   {`{"rule":"r","unit":"a","register":{"id":"a","url":"http://{name}@localhost/"}}`, "{name} must not choose the machine"},
		"a port by name":        {`{"rule":"r","unit":"a","register":{"id":"a","url":"tcp://localhost:{name}"}}`, "{name} must not choose the machine"},
		"a kind by name":        {`{"rule":"r","unit":"a","register":{"id":"a","url":"{name}:/x"}}`, "must not be a variable"},
		"a program by name":     {`{"rule":"r","process":{"name":"a"},"register":{"id":"a","url":"exec:/usr/bin/{name}"}}`, "must hold no variables"},
		"a program by pid":      {`{"rule":"r","process":{"name":"a"},"register":{"id":"a","url":{"addr":"EXEC:/usr/bin/{pid}"}}}`, "must hold no variables"},
		"a file by name":        {`{"rule":"r","process":{"name":"a"},"register":{"id":"a","url":"file:/run/{name}"}}`, "must hold no variables"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			_, err := ruled(tt.rule)
			is.True(errors.Is(err, ErrRule))
			t.Log(err)
			is.True(strings.Contains(err.Error(), tt.want))
			is.True(!strings.Contains(err.Error(), "\n"))
		})
	}
}

func TestRegistrationOfAThing(t *testing.T) {
	const process = `{"rule":"web","process":{"name":"a"},"register":`
	for name, tt := range map[string]struct {
		rule  string
		thing thing
		want  string // the registration, or where it is none a part of the error
	}{
		"all of a process": {
			process + `{"id":"{name}:{port}","url":{"addr":"http://{address}:{port}/{name}","expect_code":200},"labels":{"pid":"{pid}","on":"{host}"},"interval":"5s"}}`,
			thing{"name": "app", "pid": "812", "port": "8080", "address": "[fd00::1]", "host": "web01"},
			`{"id":"app:8080","host":"web01","url":{"addr":"http://[fd00::1]:8080/app","expect_code":200},"interval":"5s","labels":{"on":"web01","pid":"812"},"origin":"discovered:web"}`,
		},
		"a local kind": {
			process + `{"id":"{name}","url":{"addr":"process:{name}","min_count":2}}}`,
			thing{"name": "nginx"},
			`{"id":"nginx","host":"web01","url":{"addr":"process:nginx","min_count":2},"origin":"discovered:web"}`,
		},
		"arguments of a program": {
			process + `{"id":"{name}","url":{"addr":"exec:/bin/check","args":["-p","{port}"]}}}`,
			thing{"name": "a", "port": "1"},
			`{"id":"a","host":"web01","url":{"addr":"exec:/bin/check","args":["-p","1"]},"origin":"discovered:web"}`,
		},
		"a unit": {
			`{"rule":"u","unit":"a","register":{"id":"{unit}","url":"systemd:{unit}"}}`,
			thing{"unit": `dev-disk\x2dby.device`},
			`{"id":"dev-disk\\x2dby.device","host":"web01","url":"systemd:dev-disk\\x2dby.device","origin":"discovered:u"}`,
		},
		"a service": {
			`{"rule":"s","service":"a","register":{"id":"{service}.{id}","url":"nats:///$SRV.PING.{service}.{id}","labels":{"v":"{version}"}}}`,
			thing{"service": "orders", "id": "Xy1", "version": "1.2.3-rc+4"},
			`{"id":"orders.Xy1","host":"web01","url":"nats:///$SRV.PING.orders.Xy1","labels":{"v":"1.2.3-rc+4"},"origin":"discovered:s"}`,
		},
		"what looks like a variable in a value stays": {
			process + `{"id":"a","ttl":"9s","labels":{"x":"{pid}{3}{"}}}`,
			thing{"pid": "1"},
			`{"id":"a","host":"web01","ttl":"9s","labels":{"x":"1{3}{"},"origin":"discovered:web"}`,
		},
		"a quote":           {process + `{"id":"{name}","ttl":"9s"}}`, thing{"name": `a","url":"exec:/bin/evil`}, "cannot stand for"},
		"a path":            {process + `{"id":"{name}","url":"http://localhost/{name}"}}`, thing{"name": "a/../b"}, "cannot stand for"},
		"the parent":        {process + `{"id":"{name}","url":"http://localhost/{name}"}}`, thing{"name": ".."}, "cannot stand for"},
		"a query":           {process + `{"id":"{name}","url":"http://localhost/{name}"}}`, thing{"name": "a?b"}, "cannot stand for"},
		"an option":         {process + `{"id":"a","url":{"addr":"exec:/bin/check","args":["{name}"]}}}`, thing{"name": "-x"}, "cannot stand for"},
		"a variable":        {process + `{"id":"{name}","ttl":"9s"}}`, thing{"name": "{pid}"}, "cannot stand for"},
		"a line":            {process + `{"id":"{name}","ttl":"9s"}}`, thing{"name": "a\nb"}, "cannot stand for"},
		"the end of a line": {process + `{"id":"{name}","ttl":"9s"}}`, thing{"name": "a\n"}, "cannot stand for"},
		"no UTF-8":          {process + `{"id":"{name}","ttl":"9s"}}`, thing{"name": "a\xff"}, "cannot stand for"},
		"nothing":           {process + `{"id":"{name}","ttl":"9s"}}`, thing{"name": ""}, "cannot stand for"},
		"too much":          {process + `{"id":"{name}","ttl":"9s"}}`, thing{"name": strings.Repeat("a", 129)}, "cannot stand for"},
		"more than an id is": {
			process + `{"id":"` + strings.Repeat("{name}", 5) + `","ttl":"9s"}}`, thing{"name": strings.Repeat("a", 128)}, "at most 512 bytes",
		},
		"another subject": {
			`{"rule":"s","service":"a","register":{"id":"a","url":"nats:///$SRV.PING.{service}"}}`, thing{"service": "a>b"}, "cannot stand for",
		},
		"what is not used may be anything": {process + `{"id":"a","ttl":"9s"}}`, thing{"name": `"`}, `{"id":"a","host":"web01","ttl":"9s","origin":"discovered:web"}`},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			reg, err := mustRule(t, tt.rule).registration(tt.thing)
			if err != nil {
				t.Log(err)
				is.True(strings.Contains(err.Error(), tt.want))
				return
			}
			b, err := json.Marshal(reg)
			is.NoErr(err)
			is.Equal(string(b), tt.want)
		})
	}
}

// Whatever a rule and the name of a thing are: a rule that is taken is taken
// again as it is written; a registration is valid and this host's, asks no other
// machine than the template does, and names the same program.
func FuzzRule(f *testing.F) {
	for _, seed := range []string{
		`{"rule":"web","process":{"name":"nginx","command":"-g"},"register":{"id":"{name}:{port}","url":{"addr":"http://{address}:{port}/{name}?a={pid}"}},"gone":"deregister","grace":"30s"}`,
		`{"rule":"u","unit":"^app-","register":{"id":"{unit}","url":"systemd:{unit}","labels":{"a":"{name}"}}}`,
		`{"rule":"s","service":".","register":{"id":"{service}","url":"nats:///$SRV.PING.{service}.{id}"}}`,
		`{"rule":"x","process":{"command":"a"},"register":{"id":"{name}","url":{"addr":"exec:/bin/x","args":["{name}"],"env":{"N":"{name}"}}}}`,
	} {
		for _, value := range []string{"app", "a/b", "-x", `"}`, "x@y", "a:1", "..", "{pid}"} {
			f.Add(seed, value)
		}
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		r, err := ruled(text)
		if err != nil {
			return
		}
		b, err := json.Marshal(r.Rule)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ruled(string(b))
		if err != nil {
			t.Fatalf("%s\nis refused the second time: %v", b, err)
		}
		values, sample := thing{}, thing{}
		for name, v := range variables[r.source] {
			values[name], sample[name] = v, v
			if name != "address" && name != "port" && name != "pid" && name != "host" {
				values[name] = value
			}
		}
		plainly, err := r.registration(sample)
		if err != nil {
			t.Fatal(err)
		}
		reg, err := again.registration(values)
		if err != nil {
			return
		}
		if reg.Host != "web01" || reg.Origin != events.OriginDiscovered+r.Name || reg.ValidateStrict() != nil {
			t.Fatalf("%+v", reg)
		}
		was, now := mustTarget(t, plainly), mustTarget(t, reg)
		if events.Scheme(was.Addr) != events.Scheme(now.Addr) {
			t.Fatalf("%s became %s", was.Addr, now.Addr)
		}
		switch events.Scheme(now.Addr) {
		case "exec", "file":
			if was.Addr != now.Addr {
				t.Fatalf("%s became %s", was.Addr, now.Addr)
			}
		case "process", "systemd":
		default:
			a, errA := url.Parse(was.Addr)
			b, errB := url.Parse(now.Addr)
			if errA != nil || errB != nil || a.Host != b.Host || a.User.String() != b.User.String() {
				t.Fatalf("%s became %s", was.Addr, now.Addr)
			}
		}
	})
}

func mustTarget(t *testing.T, r events.Registration) events.Target {
	target, err := r.Target()
	if err != nil {
		t.Fatal(err)
	}
	return target
}
