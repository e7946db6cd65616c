package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// bareStore is maps that take everything and cost nothing.
type bareStore struct{ fakeStore }

func newBareStore(b *testing.B) *bareStore {
	s := &bareStore{*newFakeStore(b)}
	s.limits = datapath.Limits{Services: 1 << 14, Backends: 1 << 18, Sources: 1 << 16}
	return s
}

func (s *bareStore) PutService(datapath.ServiceKey, datapath.Service) error { return nil }
func (s *bareStore) DeleteService(datapath.ServiceKey) error                { return nil }
func (s *bareStore) ClearServiceTraffic(uint32) error                       { return nil }
func (s *bareStore) ClearBackendTraffic(uint32) error                       { return nil }
func (s *bareStore) PutBackend(uint32, datapath.Backend) error              { return nil }
func (s *bareStore) PutBackends(map[uint32]datapath.Backend) error          { return nil }
func (s *bareStore) DeleteBackend(uint32) error                             { return nil }
func (s *bareStore) PutTable(uint32, []uint32) error                        { return nil }
func (s *bareStore) PutTables(map[uint32][]uint32) error                    { return nil }
func (s *bareStore) DeleteTable(uint32) error                               { return nil }
func (s *bareStore) Want(context.Context, []netip.Addr) error               { return nil }
func (s *bareStore) Drop(netip.Addr) error                                  { return nil }

// manyServices are services with tables of a size and ten backends each.
func manyServices(n int, size uint32) []api.Service {
	services := make([]api.Service, n)
	for i := range services {
		s := &services[i]
		*s = api.Service{ID: uint32(i + 1), Mode: "dsr", TableSize: size}
		s.Frontend = netip.AddrPortFrom(netip.AddrFrom4([4]byte{40, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
		for j := range 10 {
			n := i*10 + j
			s.Backends = append(s.Backends, at(fmt.Sprintf("30.%d.%d.%d:80", n>>16, n>>8&255, n&255)))
		}
	}
	return services
}

func benchManager(b *testing.B, store *bareStore, file string) *Manager {
	b.Helper()
	saved, err := ReadState(file)
	if err != nil {
		b.Fatal(err)
	}
	m, err := Open(b.Context(), Options{Store: store, NextHops: store, Saved: saved, Own4: store.own, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// The issue asks for 3 s, the maps' own writes included.
func BenchmarkProgram10000ServicesOf10Backends(b *testing.B) {
	for _, size := range []uint32{251, 2039, 16381} {
		services := manyServices(10000, size)
		b.Run(fmt.Sprint(size, "-slots"), func(b *testing.B) {
			for b.Loop() {
				m := benchManager(b, newBareStore(b), stateFile(b))
				if _, err := m.Apply(b.Context(), services); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The issue asks for 5 ms, saved on the disk.
func BenchmarkChangeOneBackendAmong10000Services(b *testing.B) {
	m := benchManager(b, newBareStore(b), stateFile(b))
	services := manyServices(10000, 16381)
	if _, err := m.Apply(b.Context(), services); err != nil {
		b.Fatal(err)
	}
	s := services[5000]
	for i := 0; b.Loop(); i++ {
		s.Backends[3] = weighted(uint16(i%1000), s.Backends[3].Address.String())
		if _, err := m.Put(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStartWith10000ServicesAfterTheMapsWereLost(b *testing.B) {
	file := stateFile(b)
	m := benchManager(b, newBareStore(b), file)
	if _, err := m.Apply(b.Context(), manyServices(10000, 251)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		benchManager(b, newBareStore(b), file)
	}
}
