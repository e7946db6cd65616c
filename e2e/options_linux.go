package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// optionsID is the service whose options the specs below set, on a port of its own
// that no web server of the lab has.
const optionsID = 21

func optionsVIP() netip.AddrPort { return netip.AddrPortFrom(vip().Addr(), 8090) }

// options are what a service can be told beyond its mode and backends.
func (b *balanced) options() {
	its := func() (list []netip.AddrPort) {
		for _, name := range b.t.Backends() {
			b.serve(name, optionsVIP().Port())
			list = append(list, b.backend(name, optionsVIP().Port()))
		}
		return list
	}

	It("reach backends by MAC alone", Label("dsr"), func() {
		b.put(api.Service{ID: optionsID, Frontend: optionsVIP(), Mode: "dsr", Encap: "l2"}, its()...)
		place := capture.Place{Machine: "be1", Port: true}
		session, err := b.l.Capture(GinkgoT().Context(), place)
		Expect(err).NotTo(HaveOccurred())
		Expect(b.reached("client", optionsVIP(), 30)).To(HaveLen(4))
		_, err = session.Stop()
		Expect(err).NotTo(HaveOccurred())
		requests := 0
		for _, p := range evidence.Decode(place, session.Frames()) {
			if p.Dest() == optionsVIP() {
				Expect(p.Encapsulated()).To(BeFalse(), p.String())
				requests++
			}
		}
		Expect(requests).To(BeNumerically(">", 0))
	})

	It("spread the outer source over a prefix, which the backend's decapsulation lets in", Label("dsr"), func() {
		prefix := netip.MustParsePrefix("20.1.2.0/24")
		b.decapFrom("be3", "20.1.0.0/16") // the spread sources, and the balancer itself
		DeferCleanup(b.decapFrom, "be3", b.t.Nodes["lb"].Address.String())
		b.serve("be3", optionsVIP().Port())
		b.put(api.Service{ID: optionsID, Frontend: optionsVIP(), Mode: "dsr", OuterSource: prefix.String()}, b.backend("be3", optionsVIP().Port()))
		place := capture.Place{Machine: "be3", Port: true}
		session, err := b.l.Capture(GinkgoT().Context(), place)
		Expect(err).NotTo(HaveOccurred())
		Expect(b.reached("client", optionsVIP(), 30)).To(Equal(map[string]int{"be3": 30}))
		_, err = session.Stop()
		Expect(err).NotTo(HaveOccurred())
		sources, flows := map[netip.Addr]bool{}, map[netip.AddrPort]netip.Addr{}
		for _, p := range evidence.Decode(place, session.Frames()) {
			if p.Dest() != optionsVIP() {
				continue
			}
			Expect(p.Encapsulated()).To(BeTrue(), p.String())
			Expect(prefix.Contains(p.Outer.Src)).To(BeTrue(), p.String())
			if its, seen := flows[p.Source()]; seen {
				Expect(p.Outer.Src).To(Equal(its), "one flow, one outer source")
			}
			sources[p.Outer.Src], flows[p.Source()] = true, p.Outer.Src
		}
		Expect(len(sources)).To(BeNumerically(">", 10), "of %d flows", len(flows))
	})

	It("keep a client at one backend", Label("dsr"), func() {
		b.put(api.Service{ID: optionsID, Frontend: optionsVIP(), Mode: "dsr", Affinity: api.Duration(time.Minute)}, its()...)
		Expect(b.reached("client", optionsVIP(), 30)).To(HaveLen(1))
	})

	It("let in the allowed sources alone", Label("dsr"), func() {
		backends := its()
		client := netip.PrefixFrom(b.t.Client.Address, 32)
		other := netip.MustParsePrefix("20.1.1.200/30")
		b.put(api.Service{ID: optionsID, Frontend: optionsVIP(), Mode: "dsr", Sources: []netip.Prefix{other}}, backends...)
		before := b.drops("source_denied")
		_, err := b.dial("client", "tcp", optionsVIP(), 200*time.Millisecond)
		Expect(err).To(MatchError(ContainSubstring("timeout")), "not even a reset")
		Expect(b.drops("source_denied")).To(BeNumerically(">", before))

		service, err := b.agent.Service(GinkgoT().Context(), optionsID)
		Expect(err).NotTo(HaveOccurred())
		service.Sources = []netip.Prefix{other, client}
		_, err = b.agent.PutService(GinkgoT().Context(), service)
		Expect(err).NotTo(HaveOccurred())
		Expect(b.reached("client", optionsVIP(), 30)).To(HaveLen(4))
	})

	It("take all ports that no other service has", Label("dsr"), func() {
		its()
		var all []netip.AddrPort
		for _, name := range b.t.Backends() {
			all = append(all, b.backend(name, 0))
		}
		b.put(api.Service{ID: optionsID, Frontend: netip.AddrPortFrom(vip().Addr(), 0), Mode: "dsr"}, all...)
		Expect(b.reached("client", optionsVIP(), 30)).To(HaveLen(4))
		connections, err := b.agent.Connections(GinkgoT().Context(), optionsID)
		Expect(err).NotTo(HaveOccurred())
		Expect(connections).To(HaveLen(30))
		Expect(connections).To(HaveEach(HaveField("Dest", optionsVIP())))
	})

	It("serve a backend that is itself the client, through SNAT where DSR chose that backend", Label("dsr", "snat"), func() {
		b.needs(emulation) // routes and addresses by Linux's commands
		frontend := netip.MustParseAddrPort("40.1.1.9:80")
		b.addIn("be1", "route", frontend.Addr().String()+"/32", "via", b.t.Nodes["lb"].Address.String())
		b.addIn("be3", "address", frontend.Addr().String()+"/32", "dev", "lo")
		b.put(api.Service{ID: optionsID, Frontend: frontend, Mode: "dsr"}, b.backend("be1", 80), b.backend("be3", 80))
		Expect(b.reached("be1", frontend, 30)).To(HaveLen(2))
		from := map[string]netip.Addr{"be1": b.t.Nodes["lb"].Address, "be3": b.t.Nodes["be1"].Address}
		for range 10 {
			c, err := converseFrom(b.machine("be1"), frontend)
			Expect(err).NotTo(HaveOccurred())
			defer c.close()
			Expect(peer(c).Addr()).To(Equal(from[c.backend]), c.backend)
		}
	})
}

// decapFrom has a backend's decapsulation accept outer sources.
func (b *balanced) decapFrom(backend, sources string) {
	GinkgoHelper()
	b.needs(folders)
	hook := map[topology.OS]string{topology.Windows: "xdp", topology.Linux: "tc"}[b.t.Nodes[backend].OS]
	b.exec(b.t.Name, backend, "lbagent", "decap", "attach", "--interface", "eth0", "--address", b.t.Nodes[backend].Address.String(),
		"--balancer", sources, "--hook", hook, "--pin-dir", b.decapPins(b.t.Name, backend))
}

// serve answers /whoami on another port of a backend until it is stopped or the spec ends.
func (b *balanced) serve(backend string, port uint16) (stop func()) {
	GinkgoHelper()
	b.needs(namespaces)
	listener, err := in(b.t.Name+"-"+backend, func() (net.Listener, error) {
		return net.Listen("tcp", fmt.Sprintf(":%d", port))
	})
	Expect(err).NotTo(HaveOccurred())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"name":%q,"client":%q}`, backend, r.RemoteAddr)
	})}
	DeferCleanup(server.Close)
	go func() { _ = server.Serve(listener) }()
	return func() { Expect(server.Close()).To(Succeed()) }
}
