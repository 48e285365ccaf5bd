// Torture attacks a whole Megaphone, of real processes, and counts what went
// wrong: `task torture -- --bus cluster --seed 7 --duration 10m`.
//
// It starts a bus (embedded, external or a cluster of three), three aggregators,
// three pollers and two gateways, and registers many checks that flip by a
// seeded script: half are polled from an HTTP server of its own, half are pushed
// over HTTP and NATS. Meanwhile processes are killed, stopped, continued and
// parted from the bus by a seeded plan. A state of the script is held until a gateway shows it, so that
// each flip has to be a transition in CHANGES. At the end the streams are read
// back, and [judge], which is pure, compares them with the script.
//
// Files: script.go and plan.go are what the seed decides; process.go, bus.go and
// fleet.go are the processes; services.go, pushers.go, driver.go and faults.go
// carry script and plan out; subscribers.go and relay.go are the subscribers that
// watch all the time; history.go reads the streams; judge.go is the verdict.
package main
