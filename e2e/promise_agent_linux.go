package e2e

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/cilium/ebpf"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/lab/guest"
	"l4lab/lab/role"
)

// agentUnderLoad is about the agent and its modes while connections in both modes
// stay open, and others come and go.
func (b *balanced) agentUnderLoad() {
	It("loses no connection while both services' modes are switched to and fro, and each goes on in its own", func() {
		load := b.gatherBoth(askLimit)
		began := b.modes()
		for _, c := range load {
			for _, r := range c.stay {
				Expect(began).To(HaveKeyWithValue(r.local().String()+" "+c.to.String(), map[bool]string{true: "dsr", false: "snat"}[c.to == vip()]))
			}
		}
		b.setModeOf(translatedID, "snat") // restores it in the end
		for _, direct := range []string{"snat", "dsr", "snat", "dsr"} {
			b.setMode(direct)
			b.setModeOf(translatedID, map[string]string{"snat": "dsr", "dsr": "snat"}[direct])
			load.goesOn(crowdRate / 5)
			now := b.modes()
			for _, c := range load {
				for _, r := range c.stay {
					key := r.local().String() + " " + c.to.String()
					Expect(now).To(HaveKeyWithValue(key, began[key]), "with new connections to the VIP in %s", direct)
				}
			}
		}
		load.loseNothing("the modes were switched four times")
	})

	for _, how := range []struct {
		name   string
		signal syscall.Signal
	}{{"stopped", syscall.SIGTERM}, {"killed", syscall.SIGKILL}} {
		It("loses no connection in either mode while the agent is "+how.name+" and started again", func() {
			b.needs(processes)
			load := b.gatherBoth(askLimit)
			b.moveTables()
			before := b.programID()
			kill(node(b.status(b.t.Name), "lb").PIDs["agent"], how.signal)
			load.goesOn(crowdRate / 5) // without an agent
			b.restart()
			Expect(b.programID()).NotTo(Equal(before), "the next agent's program has replaced the one before")
			load.goesOn(crowdRate / 5)
			load.loseNothing("the agent was " + how.name + " and started again")
		})
	}

	It("loses no connection in either mode while the agent is upgraded to another program, and back", func() {
		b.needs(namespaces)
		program, hash := b.agentProgram()
		other := otherProgram(program)
		otherHash, err := guest.HashFile(other)
		Expect(err).NotTo(HaveOccurred())
		load := b.gatherBoth(askLimit)
		tags := b.stageTags()
		b.moveTables()
		known := b.remembered(directID)
		install := func(program, hash string) {
			GinkgoHelper()
			Expect(b.machine("lb").System.EnsureAgent(GinkgoT().Context(), role.Agent{Address: b.t.Nodes["lb"].Address, Program: program, Hash: hash})).To(Succeed())
			load.goesOn(crowdRate / 5)
		}
		DeferCleanup(b.restart)
		install(other, otherHash)
		Expect(b.stageTags()).NotTo(Equal(tags), "the kernel's digests of the instructions that run")
		for _, r := range load[0].stay {
			Expect(b.remembered(directID)).To(HaveKeyWithValue(r.local(), BeNumerically(">", known[r.local()])), "packets of a connection that began before")
		}
		install(program, hash)
		Expect(b.stageTags()).To(Equal(tags))
		load.loseNothing("the agent was upgraded and downgraded again")
		b.restart() // gives the services all backends again
		Expect(b.labctl("up", "--name", b.t.Name).Stdout).To(ContainSubstring("nothing to change"))
	})
}

// moveTables takes the weights of two backends away, so that the hash would send half
// of the open connections elsewhere: they go on by what is remembered of them alone.
func (b *balanced) moveTables() {
	GinkgoHelper()
	for _, id := range []uint32{directID, translatedID} {
		b.setBackends(id, map[string]uint16{"be1": 1, "be2": 0, "be3": 1, "be4": 0})
	}
}

// modes are those of all known connections, by client and VIP.
func (b *balanced) modes() map[string]string {
	GinkgoHelper()
	connections, err := b.agent.Connections(GinkgoT().Context(), 0)
	Expect(err).NotTo(HaveOccurred())
	modes := map[string]string{}
	for _, c := range connections {
		modes[c.Source.String()+" "+c.Dest.String()] = c.Mode
	}
	return modes
}

func (b *balanced) programID() uint32 {
	GinkgoHelper()
	status, err := b.agent.Status(GinkgoT().Context())
	Expect(err).NotTo(HaveOccurred())
	Expect(status.ProgramID).NotTo(BeZero())
	return status.ProgramID
}

// agentProgram is the lbagent that the lab's nodes have, and its SHA-256.
func (b *balanced) agentProgram() (path, hash string) {
	GinkgoHelper()
	path = filepath.Join(b.bin, "lbagent")
	hash, err := guest.HashFile(path)
	Expect(err).NotTo(HaveOccurred())
	return path, hash
}

// stageTags are the kernel's digests of the programs behind the attached one, in
// the order in which it calls them.
func (b *balanced) stageTags() (tags []string) {
	GinkgoHelper()
	pins, err := filepath.Glob(filepath.Join(b.state, b.t.Name, "bpf", "lb", "lb", fmt.Sprintf("stages_%d", b.programID())))
	Expect(err).NotTo(HaveOccurred())
	Expect(pins).To(HaveLen(1))
	stages, err := ebpf.LoadPinnedMap(pins[0], nil)
	Expect(err).NotTo(HaveOccurred())
	defer stages.Close()
	for i := range stages.MaxEntries() {
		var id uint32
		Expect(stages.Lookup(i, &id)).To(Succeed())
		program, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		Expect(err).NotTo(HaveOccurred())
		info, err := program.Info()
		program.Close()
		Expect(err).NotTo(HaveOccurred())
		tags = append(tags, info.Tag)
	}
	return tags
}

// wayBackPause is a pause of a second that the balancer's programs have in nanoseconds
// (bpf/lib/fast.h); another one changes what the kernel is given and nothing that counts here.
const (
	wayBackPause      = 1_000_000_000
	otherWayBackPause = 900_000_000
)

// otherProgram returns a copy of an lbagent whose balancer has other
// instructions: the object in it is changed as a later source would change it.
func otherProgram(program string) string {
	GinkgoHelper()
	data, err := os.ReadFile(program)
	Expect(err).NotTo(HaveOccurred())
	changed := 0
	magic := []byte("\x7fELF\x02\x01\x01")
	for at := 1; ; at++ { // the one at 0 is lbagent itself
		found := bytes.Index(data[at:], magic)
		if found < 0 {
			break
		}
		at += found
		changed += changeObject(data[at:])
	}
	Expect(changed).To(BeNumerically(">", 0), "instructions of the balancer in %s that are known how to change", program)
	other := filepath.Join(GinkgoT().TempDir(), "lbagent")
	Expect(os.WriteFile(other, data, 0o700)).To(Succeed())
	return other
}

// changeObject changes the balancer's instructions in place and counts them; other
// objects have none of them.
func changeObject(object []byte) (changed int) {
	file, err := elf.NewFile(bytes.NewReader(object))
	if err != nil || file.Machine != elf.EM_BPF || file.Section("xdp") == nil {
		return 0
	}
	code := object[file.Section("xdp").Offset:][:file.Section("xdp").Size]
	for instruction := range slices.Chunk(code, 8) {
		if immediate := instruction[4:]; binary.LittleEndian.Uint32(immediate) == wayBackPause {
			binary.LittleEndian.PutUint32(immediate, otherWayBackPause)
			changed++
		}
	}
	return changed
}
