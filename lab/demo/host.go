package demo

import "runtime"

// thisHost says what the walk ran on, and with what.
func thisHost(o Options) Host {
	h := Host{CPUs: runtime.GOMAXPROCS(0), Labctl: o.Labctl}
	h.System, h.Kernel = system()
	if b, ok := o.Browser.(interface{ Version() string }); ok {
		h.Browser = b.Version()
	}
	return h
}
