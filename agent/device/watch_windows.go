package device

import (
	"context"
	"fmt"
	"net"
	"time"

	"l4lab/agent/iphelper"
)

// lookEvery is how often the interface is looked at when nothing is told of it:
// Windows tells of MTUs and addresses (NotifyIpInterfaceChange), not of MACs.
const lookEvery = 5 * time.Second

// Watch calls changed with the device whenever its MTU or MAC is another one,
// until ctx ends, or with ErrGone when the interface is deleted. Addresses and name
// stay those of d. Not run on a Windows host yet.
func Watch(ctx context.Context, d Device, changed func(Device)) error {
	changes, err := iphelper.Watch()
	if err != nil {
		return fmt.Errorf("follow interface %s: %w", d.Name, err)
	}
	defer changes.Close()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		i, err := net.InterfaceByIndex(d.Index)
		if err != nil {
			return ErrGone
		}
		now := d
		now.MTU = i.MTU
		if len(i.HardwareAddr) == len(now.MAC) {
			now.MAC = [6]byte(i.HardwareAddr)
		}
		if now != d {
			d = now
			changed(d)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changes.C:
		case <-ticker.C:
		}
	}
}
