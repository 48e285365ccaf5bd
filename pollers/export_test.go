package pollers

// ErrDenied is for tests.
var ErrDenied = errDenied
