package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/server"
)

// Kinds of bus.
const (
	embedded = "embedded" // the server in `megaphone serve`
	external = "external" // one nats-server
	cluster  = "cluster"  // three
)

// busSetup is a bus of processes, and how to reach it.
type busSetup struct {
	Procs    []*process
	Addrs    []string // ADDR:PORT of each
	Creds    string   // file with the role user's name and password
	Replicas int
	Links    map[string][]*relay // ways between a node of a cluster, by its name, and the others
}

// serve is the name of the process with an embedded server.
const serve = "serve"

// URL is what clients connect to.
func (b busSetup) URL() string { return "nats://" + strings.Join(b.Addrs, ",nats://") }

// Connect makes a connection of the role user that uses JetStream.
func (b busSetup) Connect(ctx context.Context) (*bus.Conn, error) {
	return bus.Connect(ctx, b.URL(), bus.WithCreds(b.Creds))
}

// WaitReady waits until the streams can be made.
func (b busSetup) WaitReady(ctx context.Context) error {
	var last error
	err := eventually(ctx, "the bus answers", func() bool {
		var c *bus.Conn
		if c, last = b.Connect(ctx); last != nil {
			return false
		}
		defer c.Close()
		try, cancel := context.WithTimeout(ctx, time.Second) // a cluster without a leader does not answer
		defer cancel()
		_, last = c.JetStream().AccountInfo(try)
		return last == nil
	})
	return errors.Join(err, last)
}

// newBus prepares a bus of a kind in dir, with the programs of bin.
func newBus(kind, dir string, bin programs, make func(name, path string, args ...string) *process) (busSetup, error) {
	switch kind {
	case embedded:
		return embeddedBus(dir, bin, make)
	case external:
		return natsServers(1, dir, bin, make)
	case cluster:
		return natsServers(3, dir, bin, make)
	}
	return busSetup{}, fmt.Errorf("--bus %s: use embedded, external or cluster", kind)
}

func embeddedBus(dir string, bin programs, make func(name, path string, args ...string) *process) (busSetup, error) {
	bus, port := freeAddress(), freeAddress()
	_, port, err := net.SplitHostPort(port)
	data := filepath.Join(dir, serve)
	p := make(serve, bin.Megaphone, "serve", "--bus-listen", bus, "--listen", "127.0.0.1", "--port", port, "--host", serve)
	return busSetup{Procs: []*process{p}, Addrs: []string{bus}, Creds: filepath.Join(data, server.CredsFile), Replicas: 1}, err
}

// waiting is how many messages a stream of a nats-server lets wait to be stored,
// so that a flood is refused in part; by itself it lets 100,000.
const waiting = 500

// natsServers prepares n nats-servers with Megaphone's permissions.
func natsServers(n int, dir string, bin programs, make func(name, path string, args ...string) *process) (busSetup, error) {
	b := busSetup{Creds: filepath.Join(dir, "bus.creds"), Replicas: n, Links: map[string][]*relay{}}
	password := "p" + rand.Text()
	err := os.WriteFile(b.Creds, []byte(server.RoleUser+":"+password+"\n"), 0o600)
	err = errors.Join(err, os.WriteFile(filepath.Join(dir, "nats-permissions.conf"), []byte(server.Permissions()), 0o600))
	var routes []string
	for range n {
		routes = append(routes, freeAddress())
		b.Addrs = append(b.Addrs, freeAddress())
	}
	for i := range n {
		name := nodeName(i)
		conf := fmt.Sprintf("server_name: %s\nlisten: %s\nmax_payload: 1MB\njetstream { store_dir: %q, max_file_store: 4GiB, sync_interval: \"1s\", max_buffered_msgs: %d }\n"+
			"include \"nats-permissions.conf\"\n", name, b.Addrs[i], filepath.Join(dir, name), waiting)
		if n > 1 {
			others, failed := b.link(i, n, routes)
			err = errors.Join(err, failed)
			conf += fmt.Sprintf("cluster { name: torture, no_advertise: true, listen: %s, routes: [ %s ] }\n", routes[i], strings.Join(others, ", "))
		}
		file := filepath.Join(dir, name+".conf")
		err = errors.Join(err, os.WriteFile(file, []byte(conf), 0o600))
		p := make(name, bin.NATSServer, "-c", file)
		p.env = append(p.env, "MEGAPHONE_PASSWORD="+password)
		b.Procs = append(b.Procs, p)
	}
	return b, err
}

func nodeName(i int) string { return "nats" + strconv.Itoa(i+1) }

// link makes the ways from node i to the other nodes, and returns their URLs.
func (b *busSetup) link(i, n int, routes []string) (urls []string, err error) {
	for j := range n {
		if j == i {
			continue
		}
		r, failed := newRelay(routes[j:j+1], 0)
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		urls = append(urls, r.URL())
		for _, node := range []string{nodeName(i), nodeName(j)} {
			b.Links[node] = append(b.Links[node], r)
		}
	}
	return urls, err
}

// Ports below those that the system gives to outgoing connections, so that a
// process that starts again finds its own free.
const firstPort, lastPort = 20000, 32000

var usedPorts atomic.Int64

// freeAddress returns an address of the loopback that nobody listens on, each
// time another one.
func freeAddress() string {
	for {
		// The pid keeps two runs on one machine apart.
		port := firstPort + (os.Getpid()*50+int(usedPorts.Add(1)))%(lastPort-firstPort)
		address := "127.0.0.1:" + strconv.Itoa(port)
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
}

// stepDownStream makes the leader of a stream hand over.
func stepDownStream(ctx context.Context, nc *nats.Conn, stream string) error {
	_, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil)
	return err
}

// limitStream lets a stream hold fewer bytes.
func limitStream(ctx context.Context, c *bus.Conn, name string, bytes int64) error {
	s, err := c.JetStream().Stream(ctx, name)
	if err != nil {
		return err
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = bytes
	_, err = c.JetStream().UpdateStream(ctx, cfg)
	return err
}
