package pollers_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/pollers"
	"github.com/looprock/megaphone/pollers/systemdtest"
	"github.com/matryer/is"
)

// real finds an outside program. Tests with such programs are run by .ci/run,
// which sets MEGAPHONE_REAL; there a missing program is a failure.
func real(t *testing.T, program string) string {
	t.Helper()
	if os.Getenv("MEGAPHONE_REAL") == "" {
		t.Skipf("needs %s; .ci/run, which installs it, runs this test (MEGAPHONE_REAL=1)", program)
	}
	for _, path := range []string{program, "/usr/sbin/" + program, "/usr/lib/nagios/plugins/" + program} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	t.Fatalf("%s is missing", program)
	return ""
}

// background runs a program until the test ends.
func background(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
	})
	return cmd
}

func TestProcess(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "mp-sleeper-with-a-long-name")
	b, err := os.ReadFile("/bin/sleep")
	must(t, err)
	writeProgram(t, program, b)
	background(t, program, "61")
	background(t, program, "62")
	zombie := background(t, program, "0.001")
	name := "process:mp-sleeper-with-a-long-name"
	time.Sleep(200 * time.Millisecond) // the third ends; nobody waits for it yet
	if state, err := os.ReadFile("/proc/" + strconv.Itoa(zombie.Process.Pid) + "/stat"); err != nil || !strings.Contains(string(state), ") Z") {
		t.Fatalf("no zombie: %s %v", state, err)
	}
	for name, tt := range map[string]struct {
		url  any
		want string
	}{
		"by name":         {name, "OK 2 processes mp-sleeper-with-a-long-name"},
		"by command":      {object{"addr": "process:", "command": `mp-sleeper\S* 6[12]$`}, "OK 2 processes "},
		"by both":         {object{"addr": name, "command": ` 62$`}, "OK 1 processes "},
		"none":            {"process:mp-no-such-process", "Critical 0 processes mp-no-such-process, at least 1 are expected"},
		"must not run":    {object{"addr": "process:mp-no-such-process", "max_count": 0}, "OK 0 processes"},
		"too few":         {object{"addr": name, "min_count": 3}, "Critical 2 processes mp-sleeper-with-a-long-name, at least 3 are expected"},
		"too many":        {object{"addr": name, "max_count": 1}, "Critical 2 processes mp-sleeper-with-a-long-name, at most 1 are expected"},
		"just restarted":  {object{"addr": name, "min_age": "1h"}, "Warning mp-sleeper-with-a-long-name runs since "},
		"not just now":    {object{"addr": "process:", "command": ".", "min_age": "0.1s"}, ""},
		"much memory":     {object{"addr": name, "memory_warning_bytes": 1000}, "Warning mp-sleeper-with-a-long-name uses more than 1000 bytes of memory"},
		"too much memory": {object{"addr": name, "memory_warning_bytes": 1000, "memory_critical_bytes": 2000}, "Critical "},
		"not so much":     {object{"addr": name, "memory_warning_bytes": 1 << 40}, "OK "},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := look(t, tt.url)
			t.Log(says(f), string(f.Document))
			is.True(strings.Contains(says(f), tt.want))
		})
	}
}

// A read in /proc may wait for a process that hangs itself, and nothing can
// interrupt it.
func TestProcessHangs(t *testing.T) {
	is := is.New(t)
	proc := t.TempDir()
	one := filepath.Join(proc, strconv.Itoa(os.Getpid())) // one that is known to run
	is.NoErr(os.Mkdir(one, 0o700))
	status := filepath.Join(one, "status")
	is.NoErr(syscall.Mkfifo(status, 0o600))
	t.Setenv("HOST_PROC", proc)
	kinds, done := pollers.KindsOf(pollers.Config{})
	defer done()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	found := make(chan pollers.Finding, 1)
	go func() { found <- kinds.Check(ctx, target("process:x")) }()
	select {
	case f := <-found:
		is.Equal(says(f), "Critical the system does not answer: it hangs")
	case <-time.After(20 * time.Second):
		t.Error("it waits for ever")
	}
	writer, err := os.OpenFile(status, os.O_RDWR, 0) // whoever waits goes on
	is.NoErr(err)
	is.NoErr(os.RemoveAll(one))
	is.NoErr(writer.Close())
}

func TestSystemd(t *testing.T) {
	systemdtest.Start(t, real(t, "dbus-daemon"), map[string]string{
		"nginx.service": "active/running", "db.service": "failed/failed", "slow.service": "activating/start", "backup.service": "inactive/dead", "my-app.timer": "active/waiting",
		"vpn@example.com.service": "active/running",
	})
	for name, tt := range map[string]struct {
		url  any
		want string
	}{
		"active":       {"systemd:nginx.service", "OK nginx.service is active (running)"},
		"short":        {"systemd:nginx", "OK nginx.service is active (running)"},
		"an instance":  {"systemd:vpn@example.com", "OK vpn@example.com.service is active (running)"},
		"failed":       {"systemd:db.service", "Critical db.service is failed (failed)"},
		"activating":   {"systemd:slow.service", "Warning slow.service is activating (start)"},
		"inactive":     {"systemd:backup.service", "Critical backup.service is inactive (dead)"},
		"as expected":  {object{"addr": "systemd:backup.service", "expect_state": "inactive"}, "OK backup.service is inactive (dead)"},
		"by sub state": {object{"addr": "systemd:my-app.timer", "expect_state": "waiting"}, "OK my-app.timer is active (waiting)"},
		"unexpected":   {object{"addr": "systemd:nginx", "expect_state": "inactive"}, "Critical nginx.service is active (running), expected inactive"},
		"unknown":      {"systemd:none.service", "Critical none.service does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := look(t, tt.url)
			t.Log(says(f), string(f.Document))
			is.Equal(says(f), tt.want)
		})
	}
}

func TestSystemdAway(t *testing.T) {
	is := is.New(t)
	path := filepath.Join(t.TempDir(), "bus")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	f := look(t, "systemd:nginx")
	is.Equal(says(f), "Unknown systemd could not be asked over D-Bus: "+path+": connect: no such file or directory")
	l, err := net.Listen("unix", path)
	is.NoErr(err)
	held := make(chan net.Conn, 1)
	accept(t, l, func(c net.Conn) { held <- c; c.Read(make([]byte, 1000)); c.Read(make([]byte, 1000)) }) // says nothing
	start := time.Now()
	f = look(t, "systemd:nginx")
	t.Log(says(f))
	is.True(strings.HasPrefix(says(f), "Unknown systemd could not be asked"))
	is.True(time.Since(start) < 4*time.Second)
}

// A plugin of Debian's monitoring-plugins, as it is.
func TestRealPlugins(t *testing.T) {
	is := is.New(t)
	f := look(t, object{"addr": "exec:" + real(t, "check_load"), "args": []string{"-w", "1000,1000,1000", "-c", "2000,2000,2000"}})
	t.Log(says(f), string(f.Document))
	is.True(strings.Contains(says(f), "load average"))
	is.Equal(f.Status.String(), "OK")
	is.True(strings.Contains(string(f.Document), `{"label":"load1","value":`))
	f = look(t, object{"addr": "exec:" + real(t, "check_disk"), "args": []string{"-w", "100%", "-p", "/"}})
	t.Log(says(f), string(f.Document))
	is.Equal(f.Status.String(), "Warning")
	f = look(t, object{"addr": "exec:" + real(t, "check_disk"), "args": []string{"--nonsense"}})
	t.Log(says(f))
	is.Equal(f.Status.String(), "Unknown")
}

// nginx with a certificate, as it is: over HTTPS, and what it says by itself.
func TestRealNginx(t *testing.T) {
	is := is.New(t)
	nginx := real(t, "nginx")
	a := newAuthority(t)
	dir := secretsDir(t, map[string]string{"ca.pem": string(a.pem()), "pair.pem": string(a.pairPEM()), "index.html": "<html>Basket</html>"})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	address := l.Addr().String()
	l.Close()
	conf := `daemon off; master_process off; pid ` + dir + `/pid; error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path ` + dir + `/b; proxy_temp_path ` + dir + `/p; fastcgi_temp_path ` + dir + `/f; uwsgi_temp_path ` + dir + `/u; scgi_temp_path ` + dir + `/s;
  server {
    listen ` + address + ` ssl; ssl_certificate ` + dir + `/pair.pem; ssl_certificate_key ` + dir + `/pair.pem; root ` + dir + `;
    location = /health { default_type application/health+json; return 503 '{"status":"fail","output":"disk"}'; }
  }
}`
	is.NoErr(os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600))
	background(t, nginx, "-e", "stderr", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			break
		}
	}
	c := pollers.Config{Credentials: dir}
	for _, tt := range []struct {
		url  object
		want string
	}{
		{object{"addr": "https://" + address + "/", "ca": "ca.pem", "expect_body": "Basket", "expect_header": object{"Server": "^nginx"}}, "OK answered 200 OK"},
		{object{"addr": "https://" + address + "/none", "ca": "ca.pem", "expect_code": 200}, "Critical answered 404 Not Found, expected 200"},
		{object{"addr": "https://" + address + "/health", "ca": "ca.pem", "dialect": "health+json"}, "Critical answered 503 Service Temporarily Unavailable, expected 200-299; fail; disk"},
		{object{"addr": "https://" + address + "/", "ca": "ca.pem", "expect_code": 200, "cert_warning_days": 7}, "Warning the certificate expires in 0 days"},
		{object{"addr": "https://" + address + "/", "expect_code": 200}, "Critical " + address + ": x509: certificate signed by unknown authority"},
		{object{"addr": "tls://" + address, "ca": "ca.pem"}, "Critical the certificate expires in 0 days"},
		{object{"addr": "tcp://" + address, "body": "GET / HTTP/1.0\r\n\r\n", "expect_body": "^HTTP/1.1 400"}, "OK " + address + " accepts connections"},
	} {
		f := lookAs(t, c, tt.url)
		t.Log(says(f), string(f.Document))
		is.True(strings.HasPrefix(says(f), tt.want))
	}
}
