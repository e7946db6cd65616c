package bpf

import "testing"

func TestWhatNeedsAProgramThatIsMissingIsDropped(t *testing.T) {
	large := sized(t, 1490, func(p *packet) { p.from = addrPort("20.1.1.100:40001") })
	for name, c := range map[string]struct {
		missing LBStage
		make    func(testing.TB) *balancer
		before  []packet
		probe   packet
	}{
		"for first packets":   {LBStageSTAGE_SLOW4, dsrBalancer, nil, request(40000, "S")},
		"for farewells":       {LBStageSTAGE_SLOW4, dsrBalancer, []packet{request(40000, "S"), request(40000, "A")}, request(40000, "FA")},
		"for first replies":   {LBStageSTAGE_REPLY4, snatBalancer, []packet{request(40000, "S")}, answer(3, 40000, 6, "SA")},
		"for echo requests":   {LBStageSTAGE_ICMP4, dsrBalancer, nil, ping("abcdefgh")},
		"for packets too big": {LBStageSTAGE_TOO_BIG4, dsrBalancer, nil, large},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.make(t)
			for _, p := range c.before {
				b.forward(p)
			}
			must(t, b.objects.Stages.Delete(uint32(c.missing)))
			b.drop(c.probe.frame(t), "no_stage")
		})
	}
}

func TestEstablishedFlowsDoWithTheFastProgramAlone(t *testing.T) {
	b := establishedSNAT(t)
	for _, stage := range []LBStage{LBStageSTAGE_SLOW4, LBStageSTAGE_REPLY4, LBStageSTAGE_ICMP4, LBStageSTAGE_TOO_BIG4} {
		must(t, b.objects.Stages.Delete(uint32(stage)))
	}
	for range 3 {
		p, reply := request(40000, "A"), answer(3, 40000, 6, "A")
		equalFrames(t, b.forward(p), translated(p, 40000, 3).frame(t))
		equalFrames(t, b.forward(reply), translatedBack(reply, web, p.from).frame(t))
	}
}

func TestABalancerWithoutItsFirstProgramPassesEverything(t *testing.T) {
	b := dsrBalancer(t)
	must(t, b.objects.Stages.Delete(uint32(LBStageSTAGE_FAST4)))
	b.pass(request(40000, "S").frame(t))
}
