//go:build race

package aggregator

func init() { raceEnabled = true }
