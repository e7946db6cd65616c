package bpf

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
)

// atOnce sends frames on as many CPUs at a time, each so often, and wants them to leave.
func (b *balancer) atOnce(times int, frames ...[]byte) error {
	var ready atomic.Int32
	faults := make(chan error, len(frames))
	for _, frame := range frames {
		go func() {
			// Meet as closely as threads can; alone on one CPU, do not wait.
			ready.Add(1)
			for spin := 0; int(ready.Load()) < len(frames) && spin < 100_000; spin++ {
			}
			for range times {
				verdict, _, err := b.objects.Lb.Test(frame)
				if err == nil && verdict != xdpTX {
					err = fmt.Errorf("verdict %d on %x", verdict, frame[:38])
				}
				if err != nil {
					faults <- err
					return
				}
			}
			faults <- nil
		}()
	}
	var all error
	for range frames {
		all = errors.Join(all, <-faults)
	}
	return all
}

// TestNobodyMissesAFlowWhileItMoves sends the packet that establishes a flow beside
// others on two CPUs: entries move from one table to another, and whoever looks
// into both must find them in one.
func TestNobodyMissesAFlowWhileItMoves(t *testing.T) {
	const flows, times = 500, 3
	for name, firstPort := range map[string]uint16{
		"with the client's own port": natMin, "with a random port": 1024,
	} {
		for beside, reply := range map[string]bool{"replies": true, "other packets of the client": false} {
			t.Run(beside+", "+name, func(t *testing.T) {
				b := snatBalancer(t)
				for i := range uint16(flows) {
					natPort := sourcePort(b.quick(request(firstPort+i, "S").frame(t), xdpTX))
					other := request(firstPort+i, "PA")
					if reply {
						other = answer(3, natPort, 6, "A")
					}
					if err := b.atOnce(times, request(firstPort+i, "A").frame(t), other.frame(t)); err != nil {
						t.Fatalf("flow %d: %v; drops %v", i, err, b.counters().drops)
					}
				}
				o := b.objects
				got := [4]int{count(t, o.Flows4), count(t, o.NewFlows4), count(t, o.Nat4), count(t, o.NewNat4)}
				if want := [4]int{flows, 0, flows, 0}; got != want {
					t.Errorf("flows, new_flows, nat, new_nat have %v entries, want %v", got, want)
				}
				if n := b.counters().service[1].Connections; n != flows {
					t.Errorf("%d connections counted, want %d", n, flows)
				}
			})
		}
	}
}
