package pollers

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/looprock/megaphone/events"
)

// secrets is the directory of what registrations name as credentials, ca and
// client_cert; empty for none. A registration names a file, never a path.
type secrets struct{ dir string }

// maxSecret bounds a file in it, in bytes.
const maxSecret = 256 << 10

var errNoCredentials = errors.New("there is no such file in the worker's directory of credentials")

// read returns a file. Its errors do not say what the file holds.
func (s secrets) read(name string) ([]byte, error) {
	if s.dir == "" || !events.FileName(name) {
		return nil, fmt.Errorf("%q: %w", name, errNoCredentials)
	}
	f, err := os.OpenInRoot(s.dir, name)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, errNoCredentials)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxSecret {
		return nil, fmt.Errorf("%q: not a file of at most %d bytes", name, maxSecret)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return nil, fmt.Errorf("%q: read: %w", name, err)
	}
	return b, nil
}

// credentials is a file of credentials. It says itself where they may be sent:
// whoever registers a check chooses the address.
type credentials struct {
	For      []string `json:"for"` // scheme://host[:port]
	Username string   `json:"username"`
	Password string   `json:"password"`
	Bearer   string   `json:"bearer"`
}

// credentials returns those of a file for an address, and for the name by which
// the service there is asked where the options give one: what stands before many
// services passes a request on by that name.
func (s secrets) credentials(name string, u *url.URL, asked string) (credentials, error) {
	b, err := s.read(name)
	if err != nil {
		return credentials{}, fmt.Errorf("credentials: %w", err)
	}
	var c credentials
	if json.Unmarshal(b, &c) != nil {
		return c, fmt.Errorf(`credentials: %q does not hold {"for":["https://host"],"username","password"} or {"for","bearer"}`, name)
	}
	for _, to := range []*url.URL{u, named(u, asked)} {
		if !c.allow(to) {
			return credentials{}, fmt.Errorf("credentials: %q may not be sent to %s://%s: its \"for\" does not name that", name, to.Scheme, to.Host)
		}
	}
	return c, nil
}

// named is an address with another name, which may bear a port of no importance;
// an empty one changes nothing.
func named(u *url.URL, name string) *url.URL {
	if name == "" {
		return u
	}
	other := *u
	if other.Host = (&url.URL{Host: name}).Hostname(); strings.Contains(other.Host, ":") {
		other.Host = "[" + other.Host + "]"
	}
	if port := u.Port(); port != "" {
		other.Host += ":" + port
	}
	return &other
}

// allow reports whether they may be sent to an address.
func (c credentials) allow(u *url.URL) bool {
	return slices.ContainsFunc(c.For, func(text string) bool {
		o, err := url.Parse(text)
		return err == nil && o.Host != "" && origin(o) == origin(u)
	})
}

// header is what an Authorization header has to say.
func (c credentials) header() string {
	if c.Bearer != "" {
		return "Bearer " + c.Bearer
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}

// origin is scheme, host and port of an address.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = defaultPorts[strings.ToLower(u.Scheme)]
	}
	return strings.ToLower(u.Scheme + "://" + u.Hostname() + " " + port)
}
