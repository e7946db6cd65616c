package datapath

import "l4lab/bpf"

// stagePrograms are the programs that belong into the map of stages, by index. Linux'
// loader enters them itself, from the object (stages.h).
var stagePrograms = [bpf.LBStageSTAGE_MAX]string{
	bpf.LBStageSTAGE_FAST4:    bpf.LBProgLbFast4,
	bpf.LBStageSTAGE_SLOW4:    bpf.LBProgLbSlow4,
	bpf.LBStageSTAGE_REPLY4:   bpf.LBProgLbReply4,
	bpf.LBStageSTAGE_ICMP4:    bpf.LBProgLbIcmp4,
	bpf.LBStageSTAGE_TOO_BIG4: bpf.LBProgLbTooBig4,
	bpf.LBStageSTAGE_FAST6:    bpf.LBProgLbFast6,
	bpf.LBStageSTAGE_SLOW6:    bpf.LBProgLbSlow6,
	bpf.LBStageSTAGE_REPLY6:   bpf.LBProgLbReply6,
	bpf.LBStageSTAGE_ICMP6:    bpf.LBProgLbIcmp6,
	bpf.LBStageSTAGE_TOO_BIG6: bpf.LBProgLbTooBig6,
}
