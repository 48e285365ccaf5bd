// Package pollers runs the checks that somebody has to look at: it polls them on
// their schedules and publishes what it found.
//
// [Worker] is the whole of it: any number of workers share the checks of a pool
// by leases on the bus, without a leader and without configuration. What decides
// anything is pure and has no clock: [Read] turns a status document into a
// status and a message, [Schedule] says when a check is due.
//
// The rule that is easiest to get wrong: due times follow from the host, the id
// and the interval of a check alone, never from when it was registered or who
// polls it. So a takeover neither shifts polls nor bunches them.
//
// This package does not decide the status of a check or host: it publishes
// results, and package aggregator reduces them. It promises no compatibility.
package pollers
