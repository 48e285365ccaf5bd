package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that is started again whenever it ends, as a service
// manager would. Its methods are safe for concurrent use.
type process struct {
	Name string
	path string
	args []string
	env  []string
	dir  string // of its log and ready file
	log  *slog.Logger

	more   func() []string  // arguments that are decided at each start; nil: none
	out    func() io.Writer // takes what it prints, anew at each start; nil: the log
	mortal bool             // it may end by itself: that is no news
	starts int              // used by Run alone

	mu     sync.Mutex
	cmd    *exec.Cmd     // nil while it does not run
	hold   time.Duration // before it starts again; negative: its end was not wanted
	deaths []string      // ends that nobody wanted: how, and the last line of the log
}

// readyFile is where it says that it answers; empty for a program that does not.
func (p *process) readyFile() string { return filepath.Join(p.dir, p.Name+".ready") }

func (p *process) logFile() string { return filepath.Join(p.dir, p.Name+".log") }

// Run keeps the program running until ctx ends, and then kills it.
func (p *process) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		hold, err := p.once(ctx)
		if err != nil {
			return err
		}
		if !sleep(ctx, hold) {
			break
		}
	}
	return nil
}

// unwanted is the pause after an end that nobody wanted.
const unwanted = time.Second

// once runs the program to its end.
func (p *process) once(ctx context.Context) (hold time.Duration, err error) {
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	_ = os.Remove(p.readyFile()) // left by a kill
	cmd := p.command(ctx)
	cmd.Stderr, cmd.Env = log, p.env
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // everything ends with this program
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.mu.Lock()
	p.cmd, p.hold = cmd, -1
	p.mu.Unlock()
	ended := cmd.Wait() // by whatever; deaths tell
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, hold = nil, p.hold
	if hold >= 0 || ctx.Err() != nil {
		return hold, nil
	}
	if p.mortal {
		return unwanted, nil
	}
	p.log.Warn("ended by itself", "process", p.Name, "error", ended)
	p.deaths = append(p.deaths, fmt.Sprintf("%v: %s", ended, lastLine(p.logFile())))
	return unwanted, nil
}

// command is what is started now.
func (p *process) command(ctx context.Context) *exec.Cmd {
	p.starts++
	args := p.args
	if p.more != nil {
		args = slices.Concat(args, p.more())
	}
	cmd := exec.CommandContext(ctx, p.path, args...)
	if p.out != nil {
		cmd.Stdout = p.out()
	}
	return cmd
}

func lastLine(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// End sends a signal that ends the program; it starts again after hold. It
// reports whether the program was running.
func (p *process) End(by syscall.Signal, hold time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	p.hold = hold
	return p.cmd.Process.Signal(by) == nil
}

// Signal sends a signal that does not end the program, such as SIGSTOP.
func (p *process) Signal(s syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && p.cmd.Process.Signal(s) == nil
}

// Deaths tells of ends that nobody wanted.
func (p *process) Deaths() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.deaths...)
}

// WaitReady waits for the ready file.
func (p *process) WaitReady(ctx context.Context) error {
	return eventually(ctx, p.Name+" is ready", func() bool {
		info, err := os.Stat(p.readyFile())
		return err == nil && info.Size() > 0
	})
}

// eventually waits for a condition until ctx ends.
func eventually(ctx context.Context, what string, holds func() bool) error {
	for !holds() {
		if !sleep(ctx, 50*time.Millisecond) {
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}

// sleep pauses, and reports false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
