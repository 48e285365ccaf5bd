// Package server runs Megaphone's embedded NATS server: JetStream in a
// directory, a credentials file, and the users and permissions of the bus.
//
// [Start] is the one call that most readers want; [Server.Connect] then gives a
// connection of the role user inside the process, and [Server.URL] is what
// every other process connects to.
//
// There are two accounts. The role user lives in MEGAPHONE, beside the streams,
// and may do everything. A client without credentials lands in PUBLIC, where
// only what [Permissions] lists is imported. Permissions on publishing alone
// would not do: NATS does not check the *reply* subject of a request, so an
// anonymous push with the reply subject megaphone.fence.3 would have its
// acknowledgement stored there. Between accounts a reply goes back to the one
// who asked and nowhere else.
//
// The package imports nats-server (about 15 MB in a binary); client code
// belongs in package bus, which never imports this one. It promises no
// compatibility.
package server
