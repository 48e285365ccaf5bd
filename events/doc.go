// Package events is Megaphone's vocabulary: statuses and phases, registrations,
// results, overrides and transitions, the subjects they travel on, and the
// CloudEvents that carry them.
//
// Everything here is a value or a function of values: no goroutine, no clock,
// no network. Most readers want [Decode] (bytes to a checked CloudEvent) and
// [Kinds] (the one table of event types from which documents, schemas and tests
// are derived).
//
// The rule that is easiest to get wrong: the order of statuses is
// OK < Unknown < Warning < Critical, which is neither the numeric order of the
// constants nor that of Nagios's exit codes. Compare with [Status.Severity] or
// [Worst].
//
// This package does not talk to NATS; package bus does. From v1 on it promises
// compatibility.
package events
