package pollers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	descPartitions = prometheus.NewDesc("megaphone_worker_partitions", "Partitions that this worker holds, by pool.", []string{"pool"}, nil)
	descChecks     = prometheus.NewDesc("megaphone_worker_checks", "Checks that this worker polls now.", nil, nil)
	descLate       = prometheus.NewDesc("megaphone_worker_late_seconds", "How long after its due time the latest poll of the last minute began, or has been waiting now.", nil, nil)
	descRunning    = prometheus.NewDesc("megaphone_worker_polls_running", "Polls under way; slow ones take longer than a second.", []string{"speed"}, nil)
	descSuspect    = prometheus.NewDesc("megaphone_worker_suspect", "1 while this worker's results do not count, because its canaries do not answer.", nil, nil)
	descPolls      = prometheus.NewDesc("megaphone_worker_polls_total", "Polls that were begun.", nil, nil)
	descFailures   = prometheus.NewDesc("megaphone_worker_poll_errors_total", "Polls that found nothing out.", nil, nil)
	descDropped    = prometheus.NewDesc("megaphone_worker_polls_dropped_total", "Polls that were due again before they were begun.", nil, nil)
	descDiscarded  = prometheus.NewDesc("megaphone_worker_results_discarded_total", "Results that came after the end of their lease or registration.", nil, nil)
	descLost       = prometheus.NewDesc("megaphone_worker_results_lost_total", "Results that could not be published.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (w *Worker) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descPartitions, descChecks, descLate, descRunning, descSuspect, descPolls, descFailures, descDropped, descDiscarded, descLost,
	} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (w *Worker) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := w.work(time.Now())
	for _, pool := range w.conf.pools() {
		gauge(descPartitions, float64(now.Partitions[pool]), pool)
	}
	gauge(descChecks, float64(now.Checks))
	gauge(descLate, now.LateSeconds)
	gauge(descRunning, float64(now.Running-now.Slow), "quick")
	gauge(descRunning, float64(now.Slow), "slow")
	suspect := 0.0
	if now.Suspect != "" {
		suspect = 1
	}
	gauge(descSuspect, suspect)
	s := w.Stats()
	for d, n := range map[*prometheus.Desc]uint64{
		descPolls: s.Polls, descFailures: s.Failures, descDropped: s.Dropped, descDiscarded: s.Discarded, descLost: s.Lost,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
}
