// Package gateway answers how hosts are, and takes in registrations, pushes,
// overrides and events, over HTTP and as a NATS service.
//
// [New] and [Server.Run] are what a program wants. Answers come from [View],
// a copy in memory of everything that readers may ask for, which [Follower]
// keeps up to date: no request waits for the bus, and while the bus is away the
// last state is answered, with its age.
//
// The rule that is easiest to get wrong: the routes /, /checks and /checks/{id}
// belong to the original's contract, byte for byte. They are rendered by
// appendPy in the form of Python's json module, are matched on the escaped path,
// and ignore queries. New things go to other paths; the table of all routes is
// in routes.go and a test compares it with docs/openapi.yaml.
//
// This package does not decide statuses: the aggregator does, and host statuses
// are derived by the same function of package events. It promises no
// compatibility.
package gateway
