package pollers

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/miekg/dns"
)

// resolvConf names the server that is asked where an address names none.
const resolvConf = "/etc/resolv.conf"

// dnsSeen is the document of a DNS answer.
type dnsSeen struct {
	Server  string   `json:"server"`
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Code    string   `json:"code"`
	Answers []string `json:"answers"`
}

// dns asks one question: dns://server[:port]/name.
func (n network) dns(ctx context.Context, t events.Target, o events.Options) Finding {
	u, err := url.Parse(t.Addr)
	if err != nil {
		return failed(t, fmt.Errorf("%q is not an address", t.Addr))
	}
	server, err := dnsServer(u)
	if err != nil {
		return failed(t, err)
	}
	name := dns.Fqdn(strings.Trim(u.Path, "/"))
	kind := strings.ToUpper(o.Type)
	if kind == "" {
		kind = "A"
	}
	code, known := dns.StringToType[kind]
	if _, ok := dns.IsDomainName(name); !ok || !known {
		return failed(t, fmt.Errorf("%q is not a name, or %q not a type of record", name, kind))
	}
	answer, err := n.ask(ctx, server, new(dns.Msg).SetQuestion(name, code).SetEdns0(1232, false))
	if err != nil {
		return failed(t, plainly(ctx, "ask "+server+" for "+name, err))
	}
	return judgeDNS(t, o, dnsSeen{server, name, kind, dns.RcodeToString[answer.Rcode], records(answer.Answer, code)}, answer.Rcode)
}

func dnsServer(u *url.URL) (string, error) {
	if u.Hostname() == "" {
		conf, err := dns.ClientConfigFromFile(resolvConf)
		if err != nil || len(conf.Servers) == 0 {
			return "", fmt.Errorf("%s names no server", resolvConf)
		}
		return net.JoinHostPort(conf.Servers[0], conf.Port), nil
	}
	port := u.Port()
	if port == "" {
		port = "53"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// ask asks over UDP, and over TCP where the answer does not fit.
func (n network) ask(ctx context.Context, server string, q *dns.Msg) (*dns.Msg, error) {
	var answer *dns.Msg
	for _, proto := range []string{"udp", "tcp"} {
		conn, err := n.dialer.DialContext(ctx, proto, server)
		if err != nil {
			return nil, err
		}
		deadline, ok := ctx.Deadline()
		if !ok {
			deadline = time.Now().Add(DefaultTimeout)
		}
		stop := closeAfter(ctx, conn) // the library looks at its deadline alone
		client := &dns.Client{Net: proto, Timeout: time.Until(deadline)}
		answer, _, err = client.ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: conn})
		stop()
		_ = conn.Close() // nothing is left to be sent
		cut := proto == "udp" && answer != nil && answer.Truncated
		if err != nil && !cut { // of one that is cut the last record may be half a one
			return nil, err
		}
		if !cut {
			break
		}
	}
	return answer, nil
}

// records are what the records of a type say, ordered: servers turn them round.
func records(answer []dns.RR, kind uint16) []string {
	list := []string{}
	for _, rr := range answer {
		if kind == dns.TypeANY || rr.Header().Rrtype == kind {
			list = append(list, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
	}
	slices.Sort(list)
	return list
}

func judgeDNS(t events.Target, o events.Options, seen dnsSeen, code int) Finding {
	pattern, err := events.Pattern(o.ExpectBody)
	if err != nil {
		return failed(t, err)
	}
	want := 1
	if o.MinCount != nil {
		want = *o.MinCount
	}
	shown := strings.Join(seen.Answers, ", ")
	switch {
	case code != dns.RcodeSuccess:
		return found(t, events.Critical, fmt.Sprintf("%s answers %s for %s %s", seen.Server, seen.Code, seen.Name, seen.Type), seen)
	case len(seen.Answers) < want:
		return found(t, events.Critical, fmt.Sprintf("%s has %d %s records of %s, at least %d are expected", seen.Server, len(seen.Answers), seen.Type, seen.Name, want), seen)
	case pattern != nil && !slices.ContainsFunc(seen.Answers, pattern.MatchString):
		return found(t, events.Critical, fmt.Sprintf("%s %s is %s, which does not match %q", seen.Name, seen.Type, shown, pattern), seen)
	}
	return found(t, events.OK, fmt.Sprintf("%s %s is %s", seen.Name, seen.Type, shown), seen)
}
