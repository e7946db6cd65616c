package hvsim

import (
	"slices"
	"testing"

	"l4lab/lab/provider/hyperv/scripts"
)

func TestASwitchIsMadeOnceAndRemovedOnce(t *testing.T) {
	b := newBench(t, Options{})
	p := scripts.SwitchEnsureParams{Name: lan, Mark: mark}
	first := must(b, b.v.SwitchEnsure, p)
	if !first.Changed.Changed || first.Switch.Type != "Internal" || first.Switch.ID == "" || first.Switch.InterfaceIndex == 0 || first.Switch.MAC[:9] != "00-15-5D-" {
		t.Errorf("got %+v", first)
	}
	if again := must(b, b.v.SwitchEnsure, p); again.Changed.Changed || again.Switch.ID != first.Switch.ID {
		t.Errorf("the second time: %+v", again)
	}
	remove := scripts.SwitchRemoveParams{Name: lan, Mark: mark}
	if r := must(b, b.v.SwitchRemove, remove); !r.Removed {
		t.Error("it was not removed")
	}
	if r := must(b, b.v.SwitchRemove, remove); r.Removed {
		t.Error("it was removed twice")
	}
}

func TestASwitchOfAnotherIsLeftAlone(t *testing.T) {
	for name, notes := range map[string]string{
		"made by hand":            "",
		"another lab's":           others,
		"with a mark that begins": mark + "0",
		"with a machine's mark":   mark + " node=lb",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{})
			if _, err := b.h.PlaceSwitch(t.Context(), "L4LAB-demo", notes); err != nil {
				t.Fatal(err)
			}
			refuse(b, b.v.SwitchEnsure, scripts.SwitchEnsureParams{Name: lan, Mark: mark}, "foreign")
			refuse(b, b.v.SwitchRemove, scripts.SwitchRemoveParams{Name: lan, Mark: mark}, "foreign")
			refuse(b, b.v.HostAddressEnsure, scripts.HostAddressEnsureParams{Switch: lan, Mark: mark, Addresses: nil, MTU: 1500}, "foreign")
			refuse(b, b.v.HostRoutesEnsure, scripts.HostRoutesEnsureParams{Switch: lan, Mark: mark}, "notFound")
			if got := b.observe(); got.Switch != nil || !slices.Equal(got.Foreign, []string{"switch L4LAB-demo"}) {
				t.Errorf("observed %+v", got)
			}
		})
	}
}

func TestAForeignSwitchBesideTheLabsOwnOfTheSameNameStopsVerbs(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	// Hyper-V does not want the names of switches to be unique.
	if _, err := b.h.PlaceSwitch(t.Context(), lan, "by hand"); err != nil {
		t.Fatal(err)
	}
	refuse(b, b.v.SwitchEnsure, scripts.SwitchEnsureParams{Name: lan, Mark: mark}, "foreign")
	refuse(b, b.v.SwitchRemove, scripts.SwitchRemoveParams{Name: lan, Mark: mark}, "foreign")
}

func TestASwitchWithAMachineOnItStays(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	b.machine("lb", linuxImage)
	remove := scripts.SwitchRemoveParams{Name: lan, Mark: mark}
	refuse(b, b.v.SwitchRemove, remove, "inUse", lan, "being used by")
	must(b, b.v.VMRemove, scripts.VMRemoveParams{Name: "demo-lb", Node: "lb", Mark: mark, Folder: folder})
	if r := must(b, b.v.SwitchRemove, remove); !r.Removed {
		t.Error("it was not removed once the machine had gone")
	}
}

func TestTheHostsAdapterGetsExactlyWhatIsAskedFor(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	address := scripts.HostAddressEnsureParams{Switch: lan, Mark: mark, Addresses: []string{"20.1.1.100/24"}, MTU: 1500}
	routes := scripts.HostRoutesEnsureParams{Switch: lan, Mark: mark, Routes: []scripts.HostRoute{{Destination: "40.1.1.1/32", Via: "20.1.1.1"}}}
	if r := must(b, b.v.HostAddressEnsure, address); r.Changed.Changed {
		t.Errorf("the same address again: %+v", r)
	}
	if r := must(b, b.v.HostRoutesEnsure, routes); !r.Changed {
		t.Error("no route was added")
	}
	if r := must(b, b.v.HostRoutesEnsure, routes); r.Changed {
		t.Errorf("the same route again: %+v", r)
	}
	address.MTU = 9000
	if r := must(b, b.v.HostAddressEnsure, address); !slices.Equal(r.What, []string{"mtu 1500 -> 9000"}) || r.Switch.MTU != 9000 || len(r.Switch.Routes) != 1 {
		t.Errorf("another MTU: %+v", r)
	}
	address.Addresses = []string{"30.1.1.100/24"}
	// A route goes with the address that reached its next hop.
	if r := must(b, b.v.HostAddressEnsure, address); len(r.Switch.Routes) != 0 || !slices.Equal(r.Switch.Addresses, []string{"30.1.1.100/24"}) {
		t.Errorf("another address: %+v", r)
	}
	routes.Routes = []scripts.HostRoute{}
	if r := must(b, b.v.HostRoutesEnsure, routes); r.Changed {
		t.Errorf("no routes were there: %+v", r)
	}
}

func TestNetworksThatCannotBeAreRefused(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	address := func(mtu int, addresses ...string) scripts.HostAddressEnsureParams {
		return scripts.HostAddressEnsureParams{Switch: lan, Mark: mark, Addresses: addresses, MTU: mtu}
	}
	refuse(b, b.v.HostAddressEnsure, address(1500, "20.1.1.100"), "InvalidParameter")
	refuse(b, b.v.HostAddressEnsure, address(100, "20.1.1.100/24"), "InvalidParameter")
	missing := address(1500, "20.1.1.100/24")
	missing.Switch = "other"
	refuse(b, b.v.HostAddressEnsure, missing, "notFound")
	must(b, b.v.SwitchEnsure, scripts.SwitchEnsureParams{Name: "other", Mark: mark})
	refuse(b, b.v.HostAddressEnsure, missing, "foreign", "vEthernet (l4lab-demo)")
	for _, r := range []scripts.HostRoute{{Destination: "40.1.1.1/24", Via: "20.1.1.1"}, {Destination: "x", Via: "20.1.1.1"}, {Destination: "40.1.1.1/32", Via: "30.1.1.1"}} {
		refuse(b, b.v.HostRoutesEnsure, scripts.HostRoutesEnsureParams{Switch: lan, Mark: mark, Routes: []scripts.HostRoute{r}}, "InvalidParameter")
	}
	if got := b.observe().Switch; !slices.Equal(got.Addresses, []string{"20.1.1.100/24"}) || got.MTU != 1500 || len(got.Routes) != 0 {
		t.Errorf("a refusal changed the adapter: %+v", got)
	}
}
