package device

import (
	"context"
	"net"
	"time"
)

// pollEvery is how often the interface is looked at; Windows would call back
// (NotifyIpInterfaceChange), but MTUs and MACs hardly ever change.
const pollEvery = 5 * time.Second

// Watch calls changed with the device whenever its MTU or MAC is another one,
// until ctx ends, or with ErrGone when the interface is deleted. Address and name
// stay those of d.
func Watch(ctx context.Context, d Device, changed func(Device)) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
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
	}
}
