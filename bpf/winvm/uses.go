package winvm

import "slices"

// Uses returns the helpers that a program calls and the maps that it refers to,
// itself or in functions that it calls; each once, in the order of the code. What it
// tail-calls is another program.
func (p *Program) Uses() (helpers []string, maps []*Map) {
	m := p.machine
	seen := map[int]bool{}
	var visit func(first int)
	visit = func(first int) {
		if seen[first] {
			return
		}
		seen[first] = true
		for pc := first; m.code[pc].op != opTrap; pc++ {
			switch in := m.code[pc]; in.op {
			case opHelper, opTailCall:
				if name := helperName(in.imm); !slices.Contains(helpers, name) {
					helpers = append(helpers, name)
				}
			case opLocalCall:
				visit(int(in.offset))
			case opMov64:
				if in.src != fromImmediate {
					continue
				}
				for _, mp := range m.maps {
					if in.imm == address(mp.handle, 0) && !slices.Contains(maps, mp) {
						maps = append(maps, mp)
					}
				}
			}
		}
	}
	visit(p.entry)
	return helpers, maps
}
