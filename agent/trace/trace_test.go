package trace

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// fakeTables are tables in memory.
type fakeTables struct {
	config     datapath.Config
	services   map[datapath.ServiceKey]datapath.Service
	backends   map[uint32]datapath.Backend
	table      uint32 // the backend of every slot
	affinities map[netip.Addr]datapath.Affinity
	conns      map[datapath.Flow]datapath.Conn
	nats       map[datapath.Flow]datapath.NAT
	err        error
}

func (f *fakeTables) Config() (datapath.Config, error) { return f.config, f.err }

func (f *fakeTables) MayBeOurs(a netip.Addr) (bool, error) {
	return a.As4()[0] == 40 || a == f.config.Address4, nil
}

func (f *fakeTables) Service(k datapath.ServiceKey) (datapath.Service, bool, error) {
	s, ok := f.services[k]
	return s, ok, nil
}

func (f *fakeTables) SourceAllowed(_ uint32, source netip.Addr) (bool, error) {
	return source.As4()[0] == 20, nil
}

func (f *fakeTables) Affinity(client netip.Addr, _ uint32) (datapath.Affinity, bool, error) {
	a, ok := f.affinities[client]
	return a, ok, nil
}

func (f *fakeTables) TableSlot(uint32, uint32) (uint32, error) { return f.table, nil }

func (f *fakeTables) Backend(id uint32) (datapath.Backend, bool, error) {
	b, ok := f.backends[id]
	return b, ok, nil
}

func (f *fakeTables) Conn(flow datapath.Flow) (datapath.Conn, bool, error) {
	c, ok := f.conns[flow]
	return c, ok, nil
}

func (f *fakeTables) NAT(flow datapath.Flow) (datapath.NAT, bool, error) {
	n, ok := f.nats[flow]
	return n, ok, nil
}

const now = time.Hour

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func key(s string) datapath.ServiceKey {
	return datapath.ServiceKey{Frontend: at(s), Protocol: datapath.TCP}
}

func flow(from, to string) datapath.Flow {
	return datapath.Flow{Source: at(from), Dest: at(to), Protocol: datapath.TCP}
}

func newTables() *fakeTables {
	f := &fakeTables{
		config: datapath.DefaultConfig(), table: 1,
		services: map[datapath.ServiceKey]datapath.Service{
			key("40.1.1.1:80"): {ID: 1, Mode: datapath.DSR, TableSize: 251, MSS: 1300},
			key("40.1.1.1:0"):  {ID: 2, Mode: datapath.SNAT, TableSize: 251, Affinity: time.Minute},
			key("40.1.1.2:80"): {ID: 3, Mode: datapath.DSR, TableSize: 251, Random: true, Ranges: true},
		},
		backends: map[uint32]datapath.Backend{
			1: {Address: at("20.1.1.10:0"), State: datapath.Active, MAC: datapath.MAC{2}, Outer: netip.MustParsePrefix("172.16.0.0/16")},
			2: {Address: at("20.1.1.20:0"), State: datapath.Draining, MAC: datapath.MAC{2}},
		},
		affinities: make(map[netip.Addr]datapath.Affinity),
		conns:      make(map[datapath.Flow]datapath.Conn),
		nats:       make(map[datapath.Flow]datapath.NAT),
	}
	f.config.Address4, f.config.MTU, f.config.MAC = netip.MustParseAddr("20.1.1.1"), 1500, datapath.MAC{2}
	return f
}

func TestTraceSaysWhyInWords(t *testing.T) {
	const client = "20.1.1.100:40000"
	for _, c := range []struct {
		name, from, to string
		tables         func(*fakeTables)
		verdict        api.Verdict
		says           []string
	}{
		{"a balancer that is not configured", client, "40.1.1.1:80", func(f *fakeTables) { f.config.MAC = datapath.MAC{} }, api.Passed, []string{"not configured"}},
		{"an address that is none of ours", client, "50.1.1.1:80", nil, api.Passed, []string{"vip_filter: 50.1.1.1 is no VIP"}},
		{"a port without a service", client, "40.1.1.2:81", nil, api.Passed, []string{"no service for 40.1.1.2:81/tcp"}},
		{"a new flow by DSR", client, "40.1.1.1:80", nil, api.Forwarded,
			[]string{"service 1: 40.1.1.1:80/tcp, mode dsr", "of 251", "an MSS option above 1300", "an address of 172.16.0.0/16 by the flow's hash to 20.1.1.10"}},
		{"all ports", client, "40.1.1.1:81", nil, api.Forwarded, []string{"service 2: 40.1.1.1:0/tcp", "port 40000 is kept", "from 20.1.1.1 port 40000 to 20.1.1.10:81"}},
		{"a client's port outside the pool", "20.1.1.100:1024", "40.1.1.1:81", nil, api.Forwarded, []string{"outside the pool 32768 to 65535", "a random free port"}},
		{"a client's port that is taken", client, "40.1.1.1:81", func(f *fakeTables) {
			f.nats[flow("20.1.1.10:81", "20.1.1.1:40000")] = datapath.NAT{Client: at("20.1.1.101:40000"), VIP: at("40.1.1.1:81")}
		}, api.Forwarded, []string{"port 40000 is 20.1.1.101:40000's"}},
		{"affinity to a backend that drains", client, "40.1.1.1:81", func(f *fakeTables) {
			f.affinities[at(client).Addr()] = datapath.Affinity{BackendID: 2, LastSeen: now}
		}, api.Forwarded, []string{"takes no new flows", "to 20.1.1.10:81"}},
		{"affinity that is over", client, "40.1.1.1:81", func(f *fakeTables) {
			f.affinities[at(client).Addr()] = datapath.Affinity{BackendID: 1, LastSeen: now - 2*time.Minute}
		}, api.Forwarded, []string{"last seen 2m0s ago"}},
		{"affinity", client, "40.1.1.1:81", func(f *fakeTables) {
			f.affinities[at(client).Addr()] = datapath.Affinity{BackendID: 1, LastSeen: now}
		}, api.Forwarded, []string{"affinity: 20.1.1.100 has 20.1.1.10:81"}},
		{"random selection", client, "40.1.1.2:80", nil, api.Forwarded, []string{"a random one of the table's 251 slots"}},
		{"a source that is not allowed", "30.1.1.1:1", "40.1.1.2:80", nil, api.Dropped, []string{"30.1.1.1 is in none of the ranges", "source_denied"}},
		{"hairpin", "20.1.1.10:40000", "40.1.1.1:80", nil, api.Forwarded, []string{"hairpin", "from 20.1.1.1 port 40000 to 20.1.1.10:80"}},
		{"no backend", client, "40.1.1.1:80", func(f *fakeTables) { f.table = 0 }, api.Dropped, []string{"no_backend"}},
		{"a flow whose backend has gone", client, "40.1.1.1:80", func(f *fakeTables) {
			f.conns[flow(client, "40.1.1.1:80")] = datapath.Conn{BackendID: 9, Mode: datapath.DSR, LastSeen: now}
		}, api.Forwarded, []string{"the flow was known, but its backend has gone"}},
		{"a flow without its service", client, "40.1.1.9:80", func(f *fakeTables) {
			f.conns[flow(client, "40.1.1.9:80")] = datapath.Conn{BackendID: 2, Mode: datapath.DSR, LastSeen: now - time.Minute, Flags: datapath.SeenNonSYN}
		}, api.Forwarded, []string{"table established, established, dsr, last packet 1m0s ago, 2h12m20s left", "no service of its destination any more"}},
		{"a reply", "20.1.1.10:81", "20.1.1.1:40000", func(f *fakeTables) {
			f.nats[flow("20.1.1.10:81", "20.1.1.1:40000")] = datapath.NAT{Client: at(client), VIP: at("40.1.1.1:81"), BackendID: 1}
		}, api.Forwarded, []string{"way back to 20.1.1.100:40000, which had asked 40.1.1.1:81", "evicted and is restored", "from 40.1.1.1:81 to 20.1.1.100:40000"}},
		{"a reply to nobody", "20.1.1.10:81", "20.1.1.1:40000", nil, api.Passed, []string{"no way back"}},
		{"the balancer's own SSH", client, "20.1.1.1:22", nil, api.Passed, []string{"port 22 is outside SNAT's pool"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tables := newTables()
			if c.tables != nil {
				c.tables(tables)
			}
			got, err := Run(tables, api.TracePacket{Protocol: "tcp", From: at(c.from), To: at(c.to)}, now)
			if err != nil || got.Verdict != c.verdict {
				t.Errorf("verdict %s, %v", got.Verdict, err)
			}
			text := strings.Join(got.Steps, "\n")
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
		})
	}
}

func TestTableThatCannotBeReadIsAnErrorThatNamesThePacket(t *testing.T) {
	tables := newTables()
	tables.err = errors.New("the map is gone")
	_, err := Run(tables, api.TracePacket{Protocol: "tcp", From: at("20.1.1.100:1"), To: at("40.1.1.1:80")}, now)
	if !errors.Is(err, tables.err) {
		t.Errorf("got %v", err)
	}
}
