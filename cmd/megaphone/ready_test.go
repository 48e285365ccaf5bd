package main

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"
)

// TestSystemd is told what a service manager is told: ready once, well again and
// again, and stopping.
func TestSystemd(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	is.NoErr(err)
	defer manager.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "megaphone", "serve", "--host", "web01", "--listen", "127.0.0.1", "--port", "0",
		"--bus-listen", "127.0.0.1:0", "--data", filepath.Join(dir, "data"), "--config", "/dev/null")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"), "WATCHDOG_USEC=200000")
	cmd.Stderr = t.Output()
	is.NoErr(cmd.Start())

	next := func() string {
		buf := make([]byte, 4096)
		is.NoErr(manager.SetReadDeadline(time.Now().Add(20 * time.Second)))
		n, err := manager.Read(buf)
		is.NoErr(err) // something was told in time
		return string(buf[:n])
	}
	is.True(strings.HasPrefix(next(), "READY=1\nSTATUS=serve on web01, http://127.0.0.1:"))
	is.Equal(next(), "WATCHDOG=1")
	is.Equal(next(), "WATCHDOG=1")
	is.NoErr(cmd.Process.Signal(syscall.SIGTERM))
	for told := next(); told != "STOPPING=1"; told = next() {
		is.Equal(told, "WATCHDOG=1")
	}
	is.NoErr(cmd.Wait())
}

// Whoever read the log may be gone: that ends no service, and no stop that should
// be a clean one.
func TestServeOutlivesItsLog(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	reader, log, err := os.Pipe()
	is.NoErr(err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "megaphone", "serve", "--host", "web01", "--listen", "127.0.0.1", "--port", "0",
		"--bus-listen", "127.0.0.1:0", "--data", filepath.Join(dir, "data"), "--config", "/dev/null")
	cmd.Stderr = log
	is.NoErr(cmd.Start())
	is.NoErr(log.Close())
	lines := bufio.NewScanner(reader)
	for lines.Scan() && !strings.Contains(lines.Text(), "msg=ready") {
	}
	is.NoErr(reader.Close())
	is.NoErr(cmd.Process.Signal(syscall.SIGTERM)) // which is logged
	is.NoErr(cmd.Wait())
}

func TestHTTPURL(t *testing.T) {
	is := is.New(t)
	at := &net.TCPAddr{IP: net.IPv6zero, Port: 80}
	is.Equal(httpURL("http", "0.0.0.0", at), "http://127.0.0.1:80")
	is.Equal(httpURL("http", "::", at), "http://[::1]:80")
	is.Equal(httpURL("https", "192.0.2.1", at), "https://192.0.2.1:80")
	is.Equal(httpURL("http", "web01.example.com", at), "http://web01.example.com:80")
}
