package events

import (
	"bytes"
	"time"
)

// PlainRegistration reads an event of [TypeRegistered] as [Decode] and [DataAs]
// do, at a fraction of their cost. It is false for everything that is not plain,
// be it valid or not, and for other events: those are left to them. What it takes
// has still to be validated; nothing of it is a part of b.
func PlainRegistration(b []byte) (Registration, bool) {
	var v view
	var r Registration
	if !v.parse(b) || string(v.kind) != TypeRegistered || !parseRegistration(v.data, &r) {
		return Registration{}, false
	}
	return r, true
}

// parseRegistration reads a plain registration, and is false for any other. Of a
// member that is given twice the last one counts, as in encoding/json.
func parseRegistration(b []byte, r *Registration) bool {
	end := members(b, 0, func(name, value []byte) (ok bool) {
		switch string(name) {
		case "id":
			r.ID, ok = plainString(value)
		case "host":
			r.Host, ok = plainString(value)
		case "url":
			r.URL, ok = bytes.Clone(value), string(value) != "null"
		case "interval":
			r.Interval, ok = plainSeconds(value)
		case "timeout":
			r.Timeout, ok = plainSeconds(value)
		case "ttl":
			r.TTL, ok = plainSeconds(value)
		case "on_silence":
			r.OnSilence = new(Status)
			*r.OnSilence, ok = plainStatus(value)
		case "rise":
			r.Rise, ok = plainStreak(value)
		case "fall":
			r.Fall, ok = plainStreak(value)
		case "start_period":
			r.StartPeriod, ok = plainSeconds(value)
		case "labels":
			if r.Labels == nil {
				r.Labels = map[string]string{}
			}
			ok = plainLabels(value, r.Labels)
		case "pool":
			r.Pool, ok = plainPool(value)
		case "origin":
			r.Origin, ok = plainString(value)
		}
		return ok
	})
	return end == len(b)
}

// plainSeconds reads whole seconds as they are written here: "60s".
func plainSeconds(value []byte) (Duration, bool) {
	text, quoted := plainText(value)
	digits, seconds := bytes.CutSuffix(text, []byte("s"))
	n, ok := plainUint(digits)
	return Duration(n) * Duration(time.Second), quoted && seconds && ok && len(digits) > 0 && n <= maxSeconds
}

func plainStreak(value []byte) (int, bool) {
	n, ok := plainUint(value)
	return int(n), ok && n <= MaxStreak
}

func plainLabels(value []byte, labels map[string]string) bool {
	end := members(value, 0, func(name, value []byte) (ok bool) {
		labels[string(name)], ok = plainString(value)
		return ok
	})
	return end == len(value)
}
