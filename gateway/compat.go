package gateway

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
)

// The push calls of other projects, below /compat/<name>: who changes the
// address in a script pushes to Megaphone. A token in the address names the check
// and is the permission to push to it, and to nothing else.

// pushToken is a line of the file of push tokens.
type pushToken struct {
	sum         [sha256.Size]byte
	host, check string
	ttl         events.Duration // 0 leaves it to the registration
}

// pushTokenFile is the file of push tokens.
type pushTokenFile struct{ reloaded[[]pushToken] }

func newPushTokenFile(path string, log *slog.Logger) *pushTokenFile {
	return &pushTokenFile{reloaded[[]pushToken]{path: path, what: "push token file", parse: parsePushTokens, log: log}}
}

// find returns what a token stands for.
func (f *pushTokenFile) find(text string) (found pushToken, ok bool) {
	sum := sha256.Sum256([]byte(text))
	for _, t := range f.get() { // all of them: the time taken tells nothing
		if subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 {
			found, ok = t, true
		}
	}
	return found, ok
}

// Limits of the file of push tokens.
const (
	minPushToken  = 10 // bytes: as short as Uptime Kuma's oldest
	maxPushTokens = 10000
)

var errPushTokens = errors.New("bad push token file")

// parsePushTokens reads lines "token host check [ttl]"; blank ones and those
// after # do not count. In the id of a check a space is %20, as in a URL.
func parsePushTokens(text string) ([]pushToken, error) {
	var out []pushToken
	seen := map[[sha256.Size]byte]bool{}
	scan := bufio.NewScanner(strings.NewReader(text))
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		t, err := parsePushToken(line)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: line %d: %w", errPushTokens, n, err)
		case seen[t.sum]:
			return nil, fmt.Errorf("%w: line %d: this token is there already", errPushTokens, n)
		case len(out) == maxPushTokens:
			return nil, fmt.Errorf("%w: it may have %d tokens", errPushTokens, maxPushTokens)
		}
		seen[t.sum] = true
		out = append(out, t)
	}
	return out, scan.Err()
}

func parsePushToken(line string) (t pushToken, err error) {
	words := strings.Fields(line)
	if len(words) != 3 && len(words) != 4 {
		return t, errors.New(`it must be "token host check [ttl]"`)
	}
	if len(words[0]) < minPushToken || strings.Contains(words[0], "/") {
		return t, fmt.Errorf("a token has %d bytes or more and no slash", minPushToken)
	}
	t.sum = sha256.Sum256([]byte(words[0]))
	if t.host, err = events.ParseHost(words[1]); err != nil {
		return t, err
	}
	id, err := url.PathUnescape(words[2])
	if err != nil {
		return t, fmt.Errorf("check %q: a %% itself is %%25", words[2])
	}
	if t.check, err = events.ParseCheck(id); err != nil {
		return t, err
	}
	if len(words) == 4 {
		if t.ttl, err = events.ParseDuration(words[3]); err == nil && t.ttl.D() < events.MinDuration {
			err = fmt.Errorf("a ttl must be at least %s", events.MinDuration)
		}
	}
	return t, err
}

// errNoToken is the answer to a token that is in no file.
var errNoToken = refuse(http.StatusNotFound, "no such token")

// foreign carries out a push of another project's form. read makes the result of
// the request; a nil result pushes nothing.
func (s *Server) foreign(r *http.Request, name string, read func(t pushToken) (*events.Result, error)) error {
	t, ok := s.pushTokens.find(r.PathValue("token"))
	if !ok {
		return errNoToken
	}
	res, err := read(t)
	if err == nil && res != nil {
		res.TTL, res.Origin = t.ttl, name
		res.Message = events.Cut(strings.ToValidUTF8(res.Message, "\uFFFD"), events.MaxMessage)
		err = s.pushResult(r.Context(), t.host, t.check, *res)
	}
	return err
}

// foreignFault prepares the answer to a call that failed. The path, which
// holds the token, stays out of the log.
func (s *Server) foreignFault(w http.ResponseWriter, name string, err error) (code int, detail string) {
	code, detail = codeOf(err)
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	if code >= 500 {
		s.log.Warn("push was not carried out", "by", name, "code", code, "error", err)
	}
	return code, detail
}

// answerPlain answers with text, and so that nobody keeps it for the next push.
func answerPlain(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	writeBody(w, code, []byte(text))
}

// readSome reads the begin of a body, at most keep bytes of it, as valid UTF-8.
// What follows is read up to a limit, so that the client gets to see the answer.
func readSome(w http.ResponseWriter, r *http.Request, keep int64) (string, error) {
	const limit = 1 << 20
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTime)) // those of net/http have it
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	b, err := io.ReadAll(io.LimitReader(r.Body, keep))
	if err != nil {
		return "", refuse(http.StatusBadRequest, "the body could not be read: %v", err)
	}
	_, _ = io.CopyN(io.Discard, r.Body, limit) // nobody wants it
	return cutTo(strings.ToValidUTF8(string(b), "\uFFFD"), int(keep)), nil
}

// cutTo keeps at most n bytes of valid UTF-8 text.
func cutTo(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
