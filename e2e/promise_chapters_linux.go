package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/topology"
)

// promises are about operating the balancer: what clients may notice of it, in
// figures. One lab serves the specs of the data path.
func (s *suite) promises() {
	Describe("the orchestrator", s.orchestrating)
	Describe("the balancer", Ordered, ContinueOnFailure, func() {
		b := &balanced{suite: s}
		BeforeAll(b.startPromised)
		Describe("backends under load", Label("churn", "dsr", "snat"), b.backendsUnderLoad)
		Describe("the agent under load", Label("churn", "dsr", "snat"), b.agentUnderLoad)
		Describe("a client's ports", Label("dsr", "snat"), b.portReuse)
		Describe("slow and silent peers", Label("dsr", "snat"), b.slowAndSilent)
		Describe("in bulk", b.inBulk)
		Describe("virtual addresses side by side", Label("churn", "dsr", "snat"), b.sideBySideVIPs)
	})
}

// startPromised brings up the demo's lab, whose backends serve in either mode.
func (b *balanced) startPromised() {
	b.t = demo(b.name("prom"))
	second := b.t.Services[0]
	second.ID, second.Port, second.Mode = translatedID, translatedVIP().Port(), topology.SNAT
	b.t.Services = append(b.t.Services, second)
	b.up(b.t)
	b.l = b.open(b.t.Name)
	var err error
	b.agent, err = b.l.Agent()
	Expect(err).NotTo(HaveOccurred())
}

// setModeOf switches a service's mode, and back to the lab's when the spec ends.
func (b *balanced) setModeOf(id uint32, mode string) {
	GinkgoHelper()
	Expect(b.agent.SetMode(GinkgoT().Context(), api.ModeUpdate{ServiceID: id, Mode: mode})).To(Succeed())
	own := ""
	for _, service := range b.t.Services {
		if service.ID == id {
			own = string(service.Mode)
		}
	}
	DeferCleanup(func(ctx context.Context) {
		Expect(b.agent.SetMode(ctx, api.ModeUpdate{ServiceID: id, Mode: own})).To(Succeed())
	})
}
