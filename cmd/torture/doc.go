// Torture attacks a whole Megaphone, of real processes, and counts what went
// wrong: `task torture -- --bus cluster --seed 7 --duration 10m`.
//
// It starts a bus (embedded, external or a cluster of three), three aggregators,
// three pollers and two gateways, and registers many checks that flip by a
// seeded script: half are polled from an HTTP server of its own, half are pushed
// over HTTP and NATS. Meanwhile processes are killed, stopped, continued and
// parted from the bus by a seeded plan. A state of the script is held until a
// gateway shows it, so that each flip has to be a transition in CHANGES. At the
// end the streams are read back, and [judge], which is pure, compares them with
// the script.
//
// Files: script.go and plan.go are what the seed decides; process.go, bus.go,
// relay.go and fleet.go are the processes and their ways to the bus; services.go,
// pushers.go, driver.go and faults.go carry script and plan out; subscribers.go
// are those that watch all the time; history.go reads the streams into what
// evidence.go names; judge.go and silence.go are the verdict.
package main
