package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/probe"
	"l4lab/topology"
)

// figureSteps are the proof of all paths, and what can be measured.
func (w *walk) figureSteps() []planned {
	return []planned{
		{key: "proof", title: "The proof: every path from captured packets, in both modes", run: w.prove},
		{key: "figures", title: "Figures", run: w.measure},
	}
}

var modes = [...]topology.Mode{topology.SNAT, topology.DSR}

// farTransfer is the size of the proof's large transfers where each byte of the
// client's crosses WinRM: some hundred segments, as against minutes for the usual.
const farTransfer = 1 << 20

// prove runs what `labctl test` runs. A run whose captures lost frames is made again.
func (w *walk) prove(ctx context.Context) error {
	var report probe.Report
	o := probe.Options{Modes: modes[:]}
	if w.far {
		o.TransferBytes = farTransfer
	}
	for range captureTries {
		var err error
		if report, err = w.lab.Test(ctx, o); err != nil {
			return err
		}
		if !lostFrames(report) {
			break
		}
	}
	for _, c := range report.Checks {
		text := fmt.Sprintf("%s %s: %s", c.Mode, c.Name, c.Seen)
		switch c.Status {
		case probe.Pass:
			w.check(true, "%s", text)
		case probe.Fail:
			w.check(false, "%s", text)
			w.showText(c.Name, c.Details())
		default:
			w.showText(fmt.Sprintf("%s (%s)", c.Name, c.Status), text)
		}
	}
	w.figure("promises of the paths borne out by packets", float64(report.Count(probe.Pass)), "checks", report.Summary())
	w.here("%s, in %.1f s.", report.Summary(), report.Duration.Seconds())
	w.sayStandIns()
	return nil
}

// lostFrames says that a report fails for its captures.
func lostFrames(r probe.Report) bool {
	return slices.ContainsFunc(r.Checks, func(c probe.Check) bool {
		return c.Status == probe.Fail && slices.ContainsFunc(c.Faults, func(f string) bool { return strings.Contains(f, " frames dropped, ") })
	})
}

// measured is how long each figure is measured, measureWorkers how many ask at a time.
const (
	measured       = time.Second
	measureWorkers = 8
)

func (w *walk) measure(ctx context.Context) error {
	for _, mode := range modes {
		if err := w.lab.Mode(ctx, 0, mode); err != nil {
			return err
		}
		upper := strings.ToUpper(string(mode))
		gigabits, direct, err := w.download(ctx)
		way := ""
		if err == nil && !direct {
			way = "; what labctl asks goes a longer way than the lab's network, which is what this measures"
		}
		rate, lost := w.requestRate(ctx)
		w.check(rate > 0 && len(lost) == 0, "%s: %s requests a second through the VIP, each on a connection of its own, %d failed%s", upper, number(rate), len(lost), firstOf(lost))
		w.figure("requests a second through the VIP in "+upper, rate, "requests/s", fmt.Sprintf("%d at a time, a connection each%s", measureWorkers, way))
		if err != nil {
			w.check(false, "%s: a download through the VIP: %v", upper, err)
			continue
		}
		w.check(gigabits > 0, "%s: %s Gbit/s, a download through the VIP on one connection", upper, number(gigabits))
		w.figure("download through the VIP in "+upper, gigabits, "Gbit/s", "one connection"+way)
	}
	return w.countAll(ctx)
}

// requestRate opens connections as fast as some workers can.
func (w *walk) requestRate(ctx context.Context) (rate float64, lost []attempt) {
	l := w.startLoad(ctx, measureWorkers, 0)
	begin := time.Now()
	select {
	case <-time.After(measured):
	case <-ctx.Done():
	}
	attempts := l.stop()
	lost = failed(attempts)
	return float64(len(attempts)-len(lost)) / time.Since(begin).Seconds(), lost
}

// downloadBytes is more than comes in the time measured.
const downloadBytes = 4 << 30

// download reads what a backend sends, for a while. It says whether the
// connection's bytes come straight from the lab's network.
func (w *walk) download(ctx context.Context) (gigabits float64, direct bool, err error) {
	c, _, err := w.converse(ctx, nil)
	if err != nil {
		return 0, false, err
	}
	defer c.close()
	direct = c.direct()
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s/bytes?n=%d", c.at, int64(downloadBytes)), nil)
	if err != nil {
		return 0, direct, err
	}
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, direct, err
	}
	if err := request.Write(c.conn); err != nil {
		return 0, direct, err
	}
	response, err := http.ReadResponse(bufio.NewReaderSize(c.conn, 256<<10), request)
	if err != nil {
		return 0, direct, err
	}
	if response.StatusCode != http.StatusOK {
		return 0, direct, fmt.Errorf("GET %s: %s; this web server sends no such stream", request.URL, response.Status)
	}
	begin := time.Now()
	var bytes int64
	for buffer := make([]byte, 256<<10); time.Since(begin) < measured; {
		n, err := response.Body.Read(buffer)
		bytes += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, direct, fmt.Errorf("after %d bytes: %w", bytes, err)
		}
	}
	return float64(bytes) * 8 / 1e9 / time.Since(begin).Seconds(), direct, nil
}

// countAll shows what the balancer has counted since it came up.
func (w *walk) countAll(ctx context.Context) error {
	counters, err := w.agent.Counters(ctx)
	if err != nil {
		return fmt.Errorf("read the balancer's counters: %w", err)
	}
	i := slices.IndexFunc(counters.Services, func(s api.ServiceCounters) bool { return s.ID == w.service.ID })
	if i < 0 {
		return fmt.Errorf("the agent counts nothing of service %d", w.service.ID)
	}
	s := counters.Services[i]
	w.figure("connections through the VIP in the whole walk", float64(s.Connections), "connections", "as the balancer counted them")
	w.figure("packets through the balancer in the whole walk", float64(s.RxPackets+s.TxPackets), "packets", "requests in both modes, replies in SNAT")
	var rows [][]string
	for _, f := range w.record.Figures {
		rows = append(rows, []string{f.Name, f.Number(), f.Unit, f.Note})
	}
	w.showTable("", []string{"FIGURE", "VALUE", "UNIT", "NOTE"}, rows)
	w.here("%d connections went through the VIP in this walk. Figures of a lab on one machine: they compare modes, not products.", s.Connections)
	return nil
}

// number is a value as one reads it.
func number(v float64) string {
	switch {
	case v == float64(int64(v)), v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
