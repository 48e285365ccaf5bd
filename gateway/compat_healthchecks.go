package gateway

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
)

// The ping API of healthchecks.io, https://healthchecks.io/docs/http_api/. A ping
// of success, failure or an exit status is a push. One of start or log changes no
// status: what it says is kept for the ping that ends the run.

// pingLimit is how many bytes of a ping's body are kept. It is the default of a
// healthchecks server of one's own.
const pingLimit = 10000

// pingAction is what a ping says.
type pingAction struct {
	word string // success, start, fail, log, exit
	exit int
}

// parsePing reads what follows the token in the address of a ping.
func parsePing(action string) (pingAction, error) {
	switch action {
	case "":
		return pingAction{word: "success"}, nil
	case "start", "fail", "log":
		return pingAction{word: action}, nil
	}
	for _, c := range []byte(action) {
		if c < '0' || c > '9' {
			return pingAction{}, refuse(http.StatusNotFound, "not found: a ping ends in /start, /fail, /log or an exit status")
		}
	}
	if n, err := strconv.Atoi(action); err == nil && n <= 255 {
		return pingAction{"exit", n}, nil
	}
	return pingAction{}, refuse(http.StatusBadRequest, "invalid url format: an exit status is 0 to 255")
}

// end reports whether the ping ends a run.
func (a pingAction) end() bool { return a.word != "start" && a.word != "log" }

var uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// pingDocument is what a ping that ends a run leaves as the check's document.
type pingDocument struct {
	Ping string `json:"ping"`
	Exit *int   `json:"exit_status,omitempty"`
	Run  string `json:"rid,omitempty"`
	Log  string `json:"log,omitempty"`
}

// result is what a ping that ends a run says of the job.
func (a pingAction) result(rid, log string, took time.Duration) *events.Result {
	res := &events.Result{Status: events.OK, Message: a.word, LatencySeconds: took.Seconds()}
	doc := pingDocument{Ping: a.word, Run: rid, Log: log}
	if a.word == "exit" {
		res.Message, doc.Exit = "exit status "+strconv.Itoa(a.exit), &a.exit
	}
	if a.word == "fail" || a.exit != 0 {
		res.Status = events.Critical
	}
	if line := lastLine(log); line != "" {
		res.Message += ": " + line
	}
	if log != "" {
		res.Document, _ = json.Marshal(doc) // strings and a number
	}
	return res
}

// maxPingLine is how many bytes of a log's last line are shown as the message.
const maxPingLine = 200

// lastLine returns the last line that says something: most programs end with
// what went wrong.
func lastLine(log string) string {
	log = strings.TrimSpace(log)
	return events.Cut(strings.TrimSpace(log[strings.LastIndexAny(log, "\r\n")+1:]), maxPingLine)
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Ping-Body-Limit", strconv.Itoa(pingLimit))
	ended := func() {} // to be called once the push is stored: until then the client may try again
	err := s.foreign(r, "healthchecks", func(t pushToken) (*events.Result, error) {
		a, rid, log, err := readPing(w, r)
		if err != nil {
			return nil, err
		}
		k, now := jobKey{t.sum, rid}, time.Now()
		if !a.end() {
			s.jobs.note(k, a.word == "start", log, now)
			return nil, nil
		}
		took, before := s.jobs.run(k, now)
		ended = func() { s.jobs.end(k, now) }
		return a.result(rid, joinLogs(before, log), took), nil
	})
	if err != nil {
		code, detail := s.foreignFault(w, "healthchecks", err)
		answerPlain(w, code, detail)
		return
	}
	ended()
	answerPlain(w, http.StatusOK, "OK")
}

func readPing(w http.ResponseWriter, r *http.Request) (a pingAction, rid, log string, err error) {
	if a, err = parsePing(r.PathValue("action")); err != nil {
		return a, "", "", err
	}
	rid = strings.ToLower(r.URL.Query().Get("rid"))
	if rid != "" && !uuidForm.MatchString(rid) {
		return a, "", "", refuse(http.StatusBadRequest, "invalid url format: rid must be a UUID")
	}
	log, err = readSome(w, r, pingLimit)
	return a, rid, log, err
}

// joinLogs puts a log behind an earlier one; of both together the end is kept.
func joinLogs(before, log string) string {
	if before != "" && log != "" && !strings.HasSuffix(before, "\n") {
		before += "\n"
	}
	all := before + log
	if len(all) > pingLimit {
		all = strings.ToValidUTF8(all[len(all)-pingLimit:], "")
	}
	return all
}

// jobs are the runs that have told something and have not ended. They are kept
// in memory alone: a gateway that is started in between knows no duration.
// The zero value is ready for use, by many at once.
type jobs struct {
	mu   sync.Mutex
	runs map[jobKey]job
}

type jobKey struct {
	token [sha256.Size]byte
	rid   string // empty where the script gives none
}

type job struct {
	started time.Time // zero: it has only logged
	touched time.Time
	log     string
}

// Limits of jobs.
const (
	maxJobs = 1000
	jobKept = 72 * time.Hour // the longest run whose duration healthchecks.io tells, too
)

// note keeps what a run says before its end. Where there are too many, the
// one that was silent for longest is forgotten.
func (j *jobs) note(k jobKey, start bool, log string, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	run, there := j.runs[k]
	if !there && len(j.runs) >= maxJobs {
		j.forget()
	}
	if start {
		run = job{started: now} // another run of the same script
	}
	run.touched, run.log = now, joinLogs(run.log, log)
	if j.runs == nil {
		j.runs = map[jobKey]job{}
	}
	j.runs[k] = run
}

func (j *jobs) forget() {
	var oldest jobKey
	var at time.Time
	for k, run := range j.runs {
		if at.IsZero() || run.touched.Before(at) {
			oldest, at = k, run.touched
		}
	}
	delete(j.runs, oldest)
}

// run returns how long a run that ends now took, 0 where nobody knows, and what
// it logged.
func (j *jobs) run(k jobKey, now time.Time) (took time.Duration, log string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	run, ok := j.runs[k]
	if !ok || now.Sub(run.touched) > jobKept {
		return 0, ""
	}
	if !run.started.IsZero() && now.Sub(run.started) <= jobKept {
		took = now.Sub(run.started)
	}
	return took, run.log
}

// end forgets a run that ended at a time; one that told something later is another.
func (j *jobs) end(k jobKey, at time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.runs[k].touched.After(at) {
		delete(j.runs, k)
	}
}
