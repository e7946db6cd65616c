package service

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/health"
	"l4lab/agent/maglev"
)

// validateValues checks what a complete service says by itself, and returns the first fault.
func validateValues(s api.Service) error { return first(valueFaults(s)) }

func first(faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	return faults[0]
}

// valueFaults is all that is wrong with what a complete service says by itself. That it has
// backends is checked where they are given: those that drain leave, the last one too.
func valueFaults(s api.Service) (faults []error) {
	add := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	if s.ID == 0 || s.ID > api.MaxServiceID {
		add(refuse("id", "is %d; wanted is 1 to %d", s.ID, api.MaxServiceID))
	}
	frontend := validateEndpoint("frontend", s.Frontend)
	add(frontend)
	if _, err := datapath.ParseProtocol(s.Protocol); err != nil {
		add(refuse("protocol", "%v", err))
	}
	mode, err := datapath.ParseMode(s.Mode)
	if err != nil {
		add(refuse("mode", "%v", err))
	}
	if _, err := datapath.ParseEncap(s.Encap); err != nil {
		add(refuse("encap", "%v", err))
	}
	if s.Selection != selectMaglev && s.Selection != selectRandom {
		add(refuse("selection", "%q is no selection: %s or %s", s.Selection, selectMaglev, selectRandom))
	}
	if !maglev.ValidSize(s.TableSize) {
		add(refuse("tableSize", "is %d; wanted is one of %v", s.TableSize, maglev.Sizes()))
	} else if uint64(len(s.Backends)) > uint64(s.TableSize) {
		add(refuse("backends", "%d do not fit into %d Maglev slots (tableSize)", len(s.Backends), s.TableSize))
	}
	if frontend != nil {
		return faults // what follows is judged by the frontend's family and port
	}
	for _, check := range []func(api.Service) error{
		validateOuterSource, validateAffinity, validateSources, validateMSS, health.Validate,
	} {
		add(check(s))
	}
	at := make(map[netip.AddrPort]int, len(s.Backends))
	for i, b := range s.Backends {
		add(validateBackend(s, mode, i, at))
		if _, twice := at[b.Address]; !twice {
			at[b.Address] = i
		}
	}
	return faults
}

// validateBackend checks one of a service's; at has those before it.
func validateBackend(s api.Service, mode datapath.Mode, i int, at map[netip.AddrPort]int) error {
	b, field := s.Backends[i], fmt.Sprintf("backends[%d]", i)
	if err := validateEndpoint(field, b.Address); err != nil {
		return err
	}
	if first, twice := at[b.Address]; twice {
		return refuse(field, "%s is backends[%d] already", b.Address, first)
	}
	if b.Address.Addr().Is4() != s.Frontend.Addr().Is4() {
		return refuse(field, "%s is %s and the frontend %s: a service is of one family", b.Address.Addr(),
			familyOf(b.Address.Addr()), familyOf(s.Frontend.Addr()))
	}
	if err := validatePorts(field, s, b, mode); err != nil {
		return err
	}
	if b.Share() > api.MaxWeight {
		return refuse(field+".weight", "is %d; wanted is 0 to %d", b.Share(), api.MaxWeight)
	}
	return validateState(field, b)
}

func validatePorts(field string, s api.Service, b api.Backend, mode datapath.Mode) error {
	port := s.Frontend.Port()
	switch {
	case b.Address.Port() == port:
		return nil
	case port == 0:
		return refuse(field, "%s: the frontend is of all ports, so the backend's must be 0: it gets the port that the client asked for", b.Address)
	case b.Address.Port() == 0:
		return refuse(field, "%s: port 0 is for frontends of all ports; wanted is 1 to 65535", b.Address)
	case mode == datapath.DSR:
		return refuse(field, "%s: in mode dsr the packet reaches the backend unchanged, so the port must be the frontend's, %d", b.Address, port)
	}
	return nil
}

func validateState(field string, b api.Backend) error {
	switch b.State {
	case "", datapath.Maintenance.String():
		if b.DrainUntil != nil {
			return refuse(field+".drainUntil", "is for a backend in the state %s", datapath.Draining)
		}
	case datapath.Draining.String():
	case datapath.Quarantined.String():
		return refuse(field+".state", "quarantined is what a health check says; set are active, draining or maintenance")
	default:
		return refuse(field+".state", "%q is no state: active, draining or maintenance", b.State)
	}
	return nil
}

func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

func validateEndpoint(field string, e netip.AddrPort) error {
	a := e.Addr()
	switch {
	case !e.IsValid():
		return refuse(field, "missing: ADDRESS:PORT")
	case a.Is4In6():
		return refuse(field, "%s: write it as IPv4, %s", a, a.Unmap())
	case a.Zone() != "":
		return refuse(field, "%s: an address with a zone is of one link only", a)
	case !isUnicast(a):
		return refuse(field, "%s is no unicast address", a)
	case a.Is6() && a.IsLinkLocalUnicast():
		return refuse(field, "%s is of one link only", a)
	}
	return nil
}

func isUnicast(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return false
	}
	return !a.Is4() || a.As4()[0] != 0 && a.As4()[0] < 240
}

// The shortest prefixes of an outer source. IPv6's hash goes into the last word
// of the address (struct backend in bpf/lib/types.h).
const (
	minOuter4 = 8
	minOuter6 = 96
)

// outerSource parses api.Service.OuterSource; it is invalid when none is given.
func outerSource(s api.Service) (netip.Prefix, error) {
	if s.OuterSource == "" {
		return netip.Prefix{}, nil
	}
	if strings.Contains(s.OuterSource, "/") {
		return netip.ParsePrefix(s.OuterSource)
	}
	a, err := netip.ParseAddr(s.OuterSource)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func validateOuterSource(s api.Service) error {
	const field = "outerSource"
	p, err := outerSource(s)
	if err != nil {
		return refuse(field, "%q is neither an address nor a prefix: %v", s.OuterSource, err)
	}
	if !p.IsValid() {
		return nil
	}
	shortest := minOuter4
	if p.Addr().Is6() {
		shortest = minOuter6
	}
	switch {
	case s.Encap != datapath.IPIP.String():
		return refuse(field, "is for the encapsulation ipip, not for %s", s.Encap)
	case p.Addr().Is4() != s.Frontend.Addr().Is4(), p.Addr().Is4In6():
		return refuse(field, "%s is not of the frontend's family, %s", p, familyOf(s.Frontend.Addr()))
	case p.Addr().Zone() != "", !isUnicast(p.Addr()):
		return refuse(field, "%s is no unicast address", p.Addr())
	case p.Masked() != p:
		return refuse(field, "%s has bits behind its length; meant is %s or %s", p, p.Masked(), p.Addr())
	case p.Bits() < shortest:
		return refuse(field, "%s: a prefix of %s must have %d bits or more", p, familyOf(p.Addr()), shortest)
	case p.Contains(s.Frontend.Addr()):
		return refuse(field, "%s has the frontend's address in it: backends drop what seems to come from themselves", p)
	}
	for i, b := range s.Backends {
		if p.Contains(b.Address.Addr()) {
			return refuse(field, "%s has the address of backends[%d] in it: it would drop what seems to come from itself", p, i)
		}
	}
	return nil
}

func validateAffinity(s api.Service) error {
	if d := time.Duration(s.Affinity); d < 0 || d > maxAffinity || d != 0 && d < time.Second {
		return refuse("affinity", "is %s; wanted is 0, or 1s to %s", d, maxAffinity)
	}
	return nil
}

// maxAffinity is a week.
const maxAffinity = 7 * 24 * time.Hour

func validateSources(s api.Service) error {
	at := make(map[netip.Prefix]bool, len(s.Sources))
	for i, p := range s.Sources {
		field := fmt.Sprintf("sources[%d]", i)
		switch {
		case !p.IsValid():
			return refuse(field, "missing: ADDRESS/BITS")
		case p.Addr().Is4() != s.Frontend.Addr().Is4(), p.Addr().Is4In6():
			return refuse(field, "%s is not of the frontend's family, %s", p, familyOf(s.Frontend.Addr()))
		case p.Masked() != p:
			return refuse(field, "%s has bits behind its length; meant is %s", p, p.Masked())
		case at[p]:
			return refuse(field, "%s is there twice", p)
		}
		at[p] = true
	}
	return nil
}

// The bounds of api.Service.MSS: below is no path for IP, above no IPv4 packet.
const (
	minMSS = 500
	maxMSS = 65495
)

func validateMSS(s api.Service) error {
	switch {
	case s.MSS == 0:
	case s.Protocol != datapath.TCP.String():
		return refuse("mss", "is for TCP, not for %s", s.Protocol)
	case s.MSS < minMSS || s.MSS > maxMSS:
		return refuse("mss", "is %d; wanted is 0, or %d to %d", s.MSS, minMSS, maxMSS)
	}
	return nil
}
