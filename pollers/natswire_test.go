package pollers_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

// natsPeer speaks as a NATS server does, up to the request, and then what answer
// writes.
func natsPeer(t testing.TB, info string, secure *tls.Config, answer func(w io.Writer, inbox string)) string {
	return listen(t, func(c net.Conn) {
		fmt.Fprintf(c, "INFO %s\r\n", info)
		if secure != nil {
			c = tls.Server(c, secure)
		}
		inbox := ""
		for lines := bufio.NewScanner(c); lines.Scan(); {
			switch words := strings.Fields(lines.Text()); {
			case len(words) == 0:
			case words[0] == "PING":
				io.WriteString(c, "PONG\r\n")
			case words[0] == "SUB":
				inbox = words[1]
			case words[0] == "PUB":
				answer(c, inbox)
			}
		}
	})
}

// Whoever may register a check chooses the server that is asked. The client library
// makes room for what that announces: it panicked, and the worker ended.
func TestNATSBounds(t *testing.T) {
	a := newAuthority(t)
	conf := pollers.Config{Credentials: secretsDir(t, map[string]string{"ca.pem": string(a.pem())})}
	with := func(text string) func(io.Writer, string) {
		return func(w io.Writer, inbox string) { io.WriteString(w, strings.ReplaceAll(text, "INBOX", inbox)) }
	}
	const plain, required = `{"server_id":"x","max_payload":1000}`, `{"server_id":"x","max_payload":1000,"tls_required":true}`
	large := strings.Repeat("x", 100<<10)
	for name, tt := range map[string]struct {
		info   string
		tls    bool
		answer string
		want   string
	}{
		"a small answer":     {plain, false, "MSG INBOX 1 2\r\nok\r\n", "OK 1 answer on s"},
		"an empty one":       {plain, false, "MSG INBOX 1 0\r\n\r\n", "OK 1 answer on s"},
		"with a header":      {plain, false, "HMSG INBOX 1 12 14\r\nNATS/1.0\r\n\r\nok\r\n", "OK 1 answer on s"},
		"a large one":        {plain, false, "MSG INBOX 1 102400\r\n" + large + "\r\n", "OK 1 answer on s"},
		"over TLS":           {required, true, "MSG INBOX 1 2\r\nok\r\n", "OK 1 answer on s"},
		"too large":          {plain, false, "MSG INBOX 1 4611686018427387904\r\nok\r\n", "Critical ask on s: the server announced a message that is larger than 8388608 bytes"},
		"in lower case":      {plain, false, "msg\tINBOX\t1\t4611686018427387904\r\nok\r\n", "Critical ask on s: the server announced"},
		"after another":      {plain, false, "MSG other 9 2\r\nok\r\nHMSG INBOX 1 12 4611686018427387904\r\nok\r\n", "Critical ask on s: the server announced"},
		"after an odd end":   {plain, false, "MSG other 9 2\r\nok\nMSG a 9 9\r\nMSG INBOX 1 4611686018427387904\r\nok\r\n", "Critical ask on s: the server announced"},
		"over TLS too large": {required, true, "MSG INBOX 1 4611686018427387904\r\nok\r\n", "Critical ask on s: the server announced"},
		"a line without end": {plain, false, "-ERR " + large, "Critical ask on s: the server sent a line of more than 32768 bytes"},
		"no end of greeting": {large, false, "", "Critical connect to "},
		"no TLS":             {plain, true, "", "secure connection not available"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var secure *tls.Config
			url := object{}
			if tt.tls {
				url["ca"] = "ca.pem"
			}
			if tt.info == required {
				secure = tlsOf(a, 10)
			}
			url["addr"] = "nats://" + natsPeer(t, tt.info, secure, with(tt.answer)) + "/s"
			f := lookAs(t, conf, url)
			t.Log(says(f), string(f.Document))
			is.True(strings.Contains(says(f), tt.want))
		})
	}
}
