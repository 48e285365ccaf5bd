// Torture attacks a whole Megaphone, of real processes, and counts what went
// wrong: `task torture -- --bus cluster --seed 7 --duration 10m`.
//
// It starts a bus (embedded, external or a cluster of three), three aggregators,
// three pollers and two gateways, and registers many checks that flip by a
// seeded script: half are polled from an HTTP server of its own, half are pushed
// over HTTP and NATS. Six subscribers watch all the time: the iterator of
// package bus, SSE twice by Go and once by curl, `megaphone watch`, and the plain
// nats tool
// with a durable consumer. Meanwhile a seeded plan kills, stops and parts them and
// the bus. A state of the script is held until a gateway shows it, so that each
// flip has to be a transition in CHANGES. At the end the streams are read back,
// and [judge], which is pure, compares them with the script.
//
// The faults are in plan.go. Processes are parted by relays, which hold back what
// is said in both directions and that a connection was closed: links are half
// open, and what was sent arrives late, as TCP would send it again. Network
// namespaces with dropped packets would show the same: a pause is far shorter than
// the minutes after which TCP gives up. A full disk needs root, for a file system
// in memory: where it cannot be made, the run says so and goes without.
//
// Files: script.go and plan.go are what the seed decides; process.go, bus.go,
// relay.go, disk.go and fleet.go are the processes, their ways to the bus and its
// disks; services.go, pushers.go, driver.go and faults.go carry script and plan
// out; subscribers.go and programs.go are those that watch all the time;
// recorder.go and history.go read the streams into what evidence.go names; judge.go
// and silence.go are the verdict.
package main
