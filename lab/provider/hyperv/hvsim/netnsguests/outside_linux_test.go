package netnsguests

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/topology"
)

func TestAMachineOfOthersHasAPlaceOnASwitchWithCapture(t *testing.T) {
	r := newRig(t, "tgo", nil)
	r.lan()
	m := r.machine("be3", topology.Linux, "20.1.1.30")
	name, err := r.ConnectTap(m)
	if err != nil {
		t.Fatal(err)
	}
	here := func() bool {
		found := false
		err := r.InSwitch("lan", func() error {
			_, err := net.InterfaceByName(name)
			found = err == nil
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if !here() {
		t.Errorf("there is no tap %s in the switch's network", name)
	}
	stop, err := r.Capture(t.Context(), []string{"be3"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stop(func(id string) string { return filepath.Join(r.dir, id+".pcapng") }); err != nil {
		t.Error(err)
	}
	if err := r.RemoveSwitch(t.Context(), "lan"); err == nil || !strings.Contains(err.Error(), "lab-be3 is on it") {
		t.Errorf("a switch with the machine on it is removed: %v", err)
	}
	if err := r.DisconnectTap(m); err != nil || here() {
		t.Errorf("the tap is still there: %v", err)
	}
	if _, err := r.Capture(t.Context(), []string{"be3"}); err == nil {
		t.Error("a machine that is off has a port")
	}
	if err := r.RemoveSwitch(t.Context(), "lan"); err != nil {
		t.Error(err)
	}
}
