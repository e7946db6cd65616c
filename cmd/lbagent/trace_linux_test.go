package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// What trace says of a flow before, between and after its packets, by the command line.
func TestTraceFollowsAFlowFromItsFirstPacketOn(t *testing.T) {
	r := newRig(t)
	r.start(t)
	r.put(t)
	r.resolved(t, backends...)
	source := netip.MustParseAddrPort("20.1.1.100:45678")
	its := chosen(t, source)
	trace := func(says ...string) {
		t.Helper()
		out, err := r.ask("trace --from " + source.String() + " --to " + vip.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Log("\n" + out)
		for _, want := range says {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
	}
	trace("tcp S,", "the flow is not known", fmt.Sprintf("of %d", 2039), "forward to "+its.String()+" by dsr, a new flow")
	r.wire.send(t, source, vip, 0)
	r.wire.receive(t)
	trace("tcp A,", "flow known: table new, opening, dsr", "forward to "+its.String()+" by dsr\n")
	r.wire.send(t, source, vip, 1)
	r.wire.receive(t)
	trace("tcp A,", "flow known: table established, established, dsr", "forward to "+its.String()+" by dsr\n")

	out, err := r.ask("trace -o json --length 1500 --from " + source.String() + " --to " + vip.String())
	if err != nil || !strings.Contains(out, `"reason": "mtu_exceeded"`) || !strings.Contains(out, `"answered": true`) {
		t.Errorf("%v: %s", err, out)
	}
	if out, err = r.ask("trace --from " + source.String() + " --to 8.8.8.8:53"); err != nil || !strings.HasSuffix(out, "\npass\n") {
		t.Errorf("%v: %s", err, out)
	}
	c, err := r.client.Capabilities(t.Context())
	if err != nil || c.Profile != "linux" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestMetricsForOthersMustBePermitted(t *testing.T) {
	r := newRig(t)
	a := r.launch(t, "--metrics", "0.0.0.0:9100")
	if code := a.wait(t); code != exitUsage || !strings.Contains(a.stderr.String(), "--metrics-public") {
		t.Errorf("exit code %d: %s", code, a.stderr)
	}
	a = r.launch(t, "--metrics", "9100")
	if code := a.wait(t); code != exitUsage || !strings.Contains(a.stderr.String(), `--metrics: "9100" is no ADDRESS:PORT`) {
		t.Errorf("exit code %d: %s", code, a.stderr)
	}
	b := r.start(t, "--metrics", "0.0.0.0:9100", "--metrics-public")
	if steps := strings.Join(b.steps, "\n"); !strings.Contains(steps, "metrics: http://") {
		t.Errorf("it says\n%s", steps)
	}
	r.put(t)
	text, err := connect(t, r.Peer, false).get("http://20.1.1.1:9100/metrics")
	if err != nil || !strings.Contains(text, `lbagent_service_info{frontend="40.1.1.1:80",mode="dsr",protocol="tcp",service="1"} 1`) {
		t.Errorf("%v: %s", err, text)
	}
}
