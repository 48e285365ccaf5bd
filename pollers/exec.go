package pollers

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/looprock/megaphone/events"
)

// Bounds of a program's output, in bytes; what comes beyond is read and dropped.
const (
	maxOutput = 48 << 10
	maxErrors = 1 << 10
)

// execGrace is how long a program that was killed may hold its output open.
const execGrace = time.Second

// execPath is where programs find others: the worker's own environment is not theirs.
const execPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// runProgram runs a plugin in the conventions of Nagios. No shell is involved. It
// has a process group of its own, which is killed when ctx ends.
func runProgram(ctx context.Context, t events.Target, o events.Options) Finding {
	path := events.LocalPath(t.Addr)
	cmd := exec.CommandContext(ctx, path, o.Args...)
	cmd.Env = []string{"PATH=" + execPath, "LC_ALL=C.UTF-8", "HOME=/"}
	for name, value := range o.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Dir = "/"
	out, complaints := &head{limit: maxOutput}, &head{limit: maxErrors}
	cmd.Stdout, cmd.Stderr = out, complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	killed := false // not so where it has ended, and only what it left still holds its output
	cmd.Cancel = func() error { killed = true; return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = execGrace
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case killed || cmd.ProcessState == nil && ctx.Err() != nil:
		return failed(t, fmt.Errorf("%s did not end in time and was killed", path))
	case cmd.ProcessState == nil:
		f := failed(t, fmt.Errorf("run %s: %w", path, cause(err)))
		if t.Override == "" {
			f.Status = events.Unknown // nothing was looked at
		}
		return f
	case err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay):
		return failed(t, fmt.Errorf("run %s: %w", path, err))
	}
	p := ReadPlugin(cmd.ProcessState.ExitCode(), out.text())
	status, message := p.Status(), p.Output
	switch {
	case p.ExitCode < 0:
		message = fmt.Sprintf("%s: %s", cmd.ProcessState, p.Output)
	case p.ExitCode > 3:
		message = fmt.Sprintf("exit code %d: %s", p.ExitCode, p.Output)
	}
	if p.Output == "" {
		message += "(no output)"
		if complaints.text() != "" {
			message = strings.TrimSuffix(message, "(no output)") + strings.TrimSpace(complaints.text())
		}
	}
	return found(t, status, message, p.fit())
}

// cause is the innermost error: its message already says the rest.
func cause(err error) error {
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err
}

// head keeps the first bytes of what is written to it.
type head struct {
	limit int
	b     []byte
}

// Write always takes everything.
func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), h.limit-len(h.b))]...)
	return len(p), nil
}

func (h *head) text() string { return strings.ToValidUTF8(string(h.b), "\uFFFD") }
