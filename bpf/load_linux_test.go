package bpf

import (
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf"
)

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads programs into the kernel")
	}
}

func TestTheKernelAcceptsEveryProgram(t *testing.T) {
	requireRoot(t)
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"lb": LoadLB, "decap_xdp": LoadDecapXDP, "decap_tc": LoadDecapTC,
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := load()
			if err != nil {
				t.Fatal(err)
			}
			c, err := ebpf.NewCollection(spec)
			var ve *ebpf.VerifierError
			if errors.As(err, &ve) {
				t.Fatalf("%+v", ve)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, p := range c.Programs {
				info, _ := p.Info()
				n, _ := info.VerifiedInstructions()
				t.Logf("%s: verified instructions %d", name, n)
			}
		})
	}
}
