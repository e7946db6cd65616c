package server

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/service"
	"l4lab/agent/testnet"
)

// noHops follows no next hop.
type noHops struct{ service.NextHops }

func (noHops) Want(context.Context, []netip.Addr) error { return nil }
func (noHops) Drop(netip.Addr) error                    { return nil }

// loaded is a server of a data path that is loaded and not attached.
func loaded(t *testing.T, mode datapath.Mode) *Server {
	t.Helper()
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	s := &Server{options: Options{Log: slog.New(slog.DiscardHandler)}}
	var err error
	pair.Balancer.Do(t, func() {
		s.datapath, err = datapath.Load(datapath.Options{
			Interface: "eth0", Index: pair.Balancer.Link(t).Attrs().Index, PinDir: filepath.Join(testnet.BPFFS(t), "lb"),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.datapath.Unload() })
	s.device.Address4 = netip.MustParseAddr("20.1.1.1")
	saved, err := service.ReadState("")
	if err != nil {
		t.Fatal(err)
	}
	s.services, err = service.Open(t.Context(), service.Options{
		Store: s.datapath.Maps(), NextHops: noHops{}, Saved: saved, DefaultMode: mode, Own4: s.device.Address4, Log: s.options.Log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDiffWithJudgesByTheAgentsDefaultMode(t *testing.T) {
	s := loaded(t, datapath.SNAT)
	// Another port than the frontend's is SNAT's alone.
	wanted := api.Service{ID: 1, Frontend: netip.MustParseAddrPort("40.1.1.1:80"), Backends: []api.Backend{{Address: netip.MustParseAddrPort("20.1.1.10:8080")}}}
	if _, err := s.services.Put(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	if diff, err := s.DiffWith(t.Context(), []api.Service{wanted}); err != nil || !diff.Same {
		t.Errorf("the service as it was put: %+v, %v", diff, err)
	}
	wanted.Mode = "dsr"
	if _, err := s.DiffWith(t.Context(), []api.Service{wanted}); err == nil || !strings.Contains(err.Error(), "services[0].backends[0]") {
		t.Errorf("what cannot be: %v", err)
	}
}

func TestSettingsThatCouldNotBeWrittenAreTriedAgain(t *testing.T) {
	s := loaded(t, datapath.DSR)
	wish := Wish{}
	wish.Lifetimes = datapath.DefaultConfig().Lifetimes
	wish.Lifetimes.NonTCP = 5 * time.Second
	maps := s.datapath.Maps()
	if err := s.datapath.Close(); err != nil { // nothing can be written any more
		t.Fatal(err)
	}
	for round := range 2 {
		if err := s.reload(t.Context(), wish); err == nil {
			t.Errorf("round %d: no error", round)
		}
	}
	if c, err := maps.Config(); err != nil || c.Lifetimes.NonTCP == 5*time.Second {
		t.Errorf("config %+v, %v", c, err)
	}
}
