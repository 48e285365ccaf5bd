// Package bus is Megaphone's client library: typed publishing and subscribing on
// NATS, the streams, and the parts that its own processes share.
//
// A program that reacts to status changes wants [Connect] and [Conn.Watch]; a
// service that pushes its own status wants [Reporter].
//
//	c, err := bus.Connect(ctx, "nats://127.0.0.1:4222")
//	for change, err := range c.Watch(ctx, bus.WatchOptions{Filter: events.Filter{Host: "web01"}}) { ... }
//
// The rule that is easiest to get wrong: live subjects are at most once, the
// stream is exact. Watch reads the stream; a plain subscription on
// megaphone.status.> does not notice what it missed.
//
// The embedded server is in bus/server, apart, so that clients do not carry it.
// From v1 on this package promises compatibility for what clients use: Conn,
// its calls, Watch and Reporter.
package bus
