// Package systemdtest stands in for systemd on a private D-Bus, for tests on
// machines where systemd does not run. It answers as systemd does, to what
// Megaphone asks and to nothing else.
package systemdtest

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

// Manager is systemd's. It is safe for concurrent use.
type Manager struct {
	tb   testing.TB
	conn *dbus.Conn

	mu    sync.Mutex
	units map[string]string
}

// Start runs a bus by the given dbus-daemon, with units by their states, such as
// "active/running", and makes it the system's bus of this process and those that
// it starts. It ends with the test.
func Start(tb testing.TB, daemon string, units map[string]string) *Manager {
	tb.Helper()
	address := "unix:path=" + tb.TempDir() + "/bus"
	cmd := exec.Command(daemon, "--session", "--nofork", "--nopidfile", "--address="+address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(tb, cmd.Start())
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
	})
	tb.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	m := &Manager{tb: tb, units: map[string]string{}}
	var err error
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if m.conn, err = dbus.Connect(address); err == nil {
			break
		}
		if time.Now().After(end) {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(func() { m.conn.Close() })
	must(tb, m.conn.Export(methods{m}, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"))
	m.export("none", "not-found", "inactive", "dead")
	for name, state := range units {
		m.Set(name, state)
	}
	_, err = m.conn.RequestName("org.freedesktop.systemd1", 0)
	must(tb, err)
	return m
}

// Set changes the state of a unit, "active/running", or makes it. An empty state
// unloads it, as systemd does with a unit that was stopped.
func (m *Manager) Set(unit, state string) {
	m.tb.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if state == "" {
		delete(m.units, unit)
		return
	}
	m.units[unit] = state
	active, sub, _ := strings.Cut(state, "/")
	m.export(unit, "loaded", active, sub)
}

func (m *Manager) export(unit, load, active, sub string) {
	p := func(s string) *prop.Prop { return &prop.Prop{Value: s} }
	_, err := prop.Export(m.conn, path(unit), prop.Map{"org.freedesktop.systemd1.Unit": {
		"LoadState": p(load), "ActiveState": p(active), "SubState": p(sub), "Description": p("the " + unit),
	}})
	must(m.tb, err)
}

func path(unit string) dbus.ObjectPath {
	return dbus.ObjectPath("/org/freedesktop/systemd1/unit/" + strings.NewReplacer(".", "_2e", "-", "_2d", "@", "_40").Replace(unit))
}

// methods are those of org.freedesktop.systemd1.Manager.
type methods struct{ m *Manager }

// LoadUnit returns the object of a unit, also of one that does not exist.
func (c methods) LoadUnit(name string) (dbus.ObjectPath, *dbus.Error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.m.units[name] == "" {
		name = "none"
	}
	return path(name), nil
}

type listed struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	Job                                             uint32
	JobType                                         string
	JobPath                                         dbus.ObjectPath
}

// ListUnits returns the units that are loaded, and one that others only name.
func (c methods) ListUnits() ([]listed, *dbus.Error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	list := []listed{{"none.service", "none.service", "not-found", "inactive", "dead", "", path("none"), 0, "", "/"}}
	for _, name := range slices.Sorted(maps.Keys(c.m.units)) {
		active, sub, _ := strings.Cut(c.m.units[name], "/")
		list = append(list, listed{name, "the " + name, "loaded", active, sub, "", path(name), 0, "", "/"})
	}
	return list, nil
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
