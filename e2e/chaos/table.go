package chaos

import "slices"

// Table is what a service's Maglev table is filled from: the weights of the
// backends that have slots in it.
type Table map[string]int

// Choose says whom a service's table gives a new connection of the client's address
// and port to. It must not depend on anything else.
type Choose func(service uint32, t Table, local string) (backend string)

// tablesBetween are all tables that hold the backends that surely are in it, and any of
// those that may be, with the weights of a service.
func tablesBetween(sure, may []string, s Service) []Table {
	base := Table{}
	add := func(t Table, name string) {
		if m, is := s.Member(name); is && m.Share > 0 {
			t[name] = m.Share
		}
	}
	for _, name := range sure {
		add(base, name)
	}
	var open []string
	for _, name := range may {
		if !slices.Contains(sure, name) {
			open = append(open, name)
		}
	}
	tables := make([]Table, 0, 1<<len(open))
	for chosen := range 1 << len(open) {
		t := Table{}
		for name, share := range base {
			t[name] = share
		}
		for i, name := range open {
			if chosen&(1<<i) != 0 {
				add(t, name)
			}
		}
		if len(t) > 0 {
			tables = append(tables, t)
		}
	}
	return tables
}

// given are the backends that a new connection may have been given to.
func (of Allowed) given(service uint32, local string, choose Choose) []string {
	var given []string
	if of.Tables == nil || choose == nil || local == "" {
		for name := range of.New {
			given = append(given, name)
		}
	} else {
		for _, t := range of.Tables {
			given = append(given, choose(service, t, local))
		}
	}
	slices.Sort(given)
	return slices.Compact(given)
}
