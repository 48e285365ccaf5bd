package pollers

import (
	"context"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
	"github.com/looprock/megaphone/events"
)

// unitSeen is the document of a unit.
type unitSeen struct {
	Unit        string `json:"unit"`
	Description string `json:"description,omitempty"`
	LoadState   string `json:"load_state"`
	ActiveState string `json:"active_state"`
	SubState    string `json:"sub_state"`
}

// checkUnit asks systemd for the state of a unit, over D-Bus.
func checkUnit(ctx context.Context, t events.Target, o events.Options) Finding {
	unit := events.LocalPath(t.Addr)
	if !slices.Contains(unitTypes, path.Ext(unit)) {
		unit += ".service" // as systemctl does
	}
	properties, err := unitProperties(ctx, unit)
	if err != nil {
		return unasked(t, err)
	}
	text := func(name string) string {
		s, _ := properties[name].Value().(string) // empty where there is none
		return s
	}
	seen := unitSeen{unit, text("Description"), text("LoadState"), text("ActiveState"), text("SubState")}
	return judgeUnit(t, o, seen)
}

// unitTypes are the ends of units' names: other dots belong to a name, as in that
// of an instance, vpn@example.com.
var unitTypes = []string{
	".service", ".socket", ".target", ".device", ".mount", ".automount", ".swap", ".timer", ".path", ".slice", ".scope",
}

// systemBus is where the system's bus is, unless the environment says otherwise.
const systemBus = "unix:path=/run/dbus/system_bus_socket"

// systemd1 is the name of systemd on D-Bus, and of its interfaces.
const systemd1 = "org.freedesktop.systemd1"

// unitProperties asks for everything about a unit.
func unitProperties(ctx context.Context, unit string) (properties map[string]dbus.Variant, err error) {
	err = onSystemBus(ctx, func(conn *dbus.Conn) error {
		var object dbus.ObjectPath
		err := conn.Object(systemd1, "/org/freedesktop/systemd1").CallWithContext(ctx, systemd1+".Manager.LoadUnit", 0, unit).Store(&object)
		if err == nil {
			err = conn.Object(systemd1, object).CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", 0, systemd1+".Unit").Store(&properties)
		}
		if err != nil {
			return plainly(ctx, unit, err)
		}
		return nil
	})
	return properties, err
}

// onSystemBus asks on a connection of its own, which ends with ctx: libraries
// wait for ever for a bus that accepts and says nothing.
func onSystemBus(ctx context.Context, ask func(*dbus.Conn) error) error {
	address := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	if address == "" {
		address = systemBus
	}
	socket, ok := strings.CutPrefix(address, "unix:path=")
	if !ok {
		return fmt.Errorf("%q is not unix:path=PATH", address)
	}
	socket, _, _ = strings.Cut(socket, ",")
	raw, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return plainly(ctx, socket, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() }) // it is given up
	defer stop()
	conn, err := dbus.NewConn(raw)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return plainly(ctx, socket, err)
	}
	if err := conn.Hello(); err != nil {
		return plainly(ctx, socket, err)
	}
	return ask(conn)
}

// unasked is the finding where systemd could not be asked.
func unasked(t events.Target, err error) Finding {
	f := failed(t, fmt.Errorf("systemd could not be asked over D-Bus: %w", err))
	if t.Override == "" {
		f.Status = events.Unknown
	}
	return f
}

func judgeUnit(t events.Target, o events.Options, seen unitSeen) Finding {
	state := seen.ActiveState
	text := fmt.Sprintf("%s is %s (%s)", seen.Unit, state, seen.SubState)
	switch {
	case seen.LoadState == "not-found":
		return found(t, events.Critical, seen.Unit+" does not exist", seen)
	case o.ExpectState != "" && (state == o.ExpectState || seen.SubState == o.ExpectState):
		return found(t, events.OK, text, seen)
	case o.ExpectState != "":
		return found(t, events.Critical, text+", expected "+o.ExpectState, seen)
	}
	switch state {
	case "active", "reloading", "refreshing":
		return found(t, events.OK, text, seen)
	case "activating", "deactivating", "maintenance":
		return found(t, events.Warning, text, seen)
	}
	return found(t, events.Critical, text, seen)
}
