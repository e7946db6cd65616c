package winvm

import "math"

// lru is the order in which an LRU map gives up its elements, as ebpf_maps.c keeps
// it: for each of at most eight groups of processors a hot list, of what was used
// in the current generation, and a cold list of all that was used before. When
// the hot list exceeds a tenth of the group's share, it is put behind the cold
// one. The head of a cold list goes; of several the one used longest ago.
//
// So the order is that of generations, not of single uses, and what goes is only
// nearly the least recently used.
type lru struct {
	hash   *hashEntries
	groups []lruGroup
	nodes  []lruNode // group by group of each slot
	limit  int       // of a hot list
}

type lruGroup struct {
	hot, cold  lruList
	hotSize    int
	generation uint64
}

type lruList struct{ first, last int32 }

type lruNode struct {
	before, after int32
	// generation is that of the group when the element was last used there; 0
	// before the first use and deleted after the last.
	generation uint64
	used       uint64
}

const (
	lruGroups      = 8  // EBPF_LRU_MAXIMUM_PARTITIONS
	lruGenerations = 10 // EBPF_LRU_GENERATION_COUNT
	lruFirst       = 1  // EBPF_LRU_INITIAL_GENERATION
	deleted        = math.MaxUint64
)

func newLRU(hash *hashEntries, cpus int) *lru {
	l := &lru{hash: hash, groups: make([]lruGroup, min(cpus, lruGroups))}
	l.limit = max(int(hash.owner.MaxEntries)/len(l.groups)/lruGenerations, 1)
	for i := range l.groups {
		empty := lruList{end, end}
		l.groups[i] = lruGroup{hot: empty, cold: empty, generation: lruFirst}
	}
	return l
}

func (l *lru) grow(slots int) {
	l.nodes = append(l.nodes, make([]lruNode, slots*len(l.groups))...)
}

func (l *lru) node(slot, group int) *lruNode { return &l.nodes[slot*len(l.groups)+group] }

func (l *lru) currentGroup() int { return l.hash.owner.machine.cpu % len(l.groups) }

// list is the list of a group that an element is in, or nil.
func (l *lru) list(slot, group int) *lruList {
	switch l.node(slot, group).generation {
	case 0, deleted:
		return nil
	case l.groups[group].generation:
		return &l.groups[group].hot
	}
	return &l.groups[group].cold
}

func (l *lru) unlink(list *lruList, slot, group int) {
	n := l.node(slot, group)
	if n.before == end {
		list.first = n.after
	} else {
		l.node(int(n.before), group).after = n.after
	}
	if n.after == end {
		list.last = n.before
	} else {
		l.node(int(n.after), group).before = n.before
	}
}

// heat puts an element at the end of the group's hot list, which may end a generation.
func (l *lru) heat(slot, group int) {
	g, n := &l.groups[group], l.node(slot, group)
	*n = lruNode{before: g.hot.last, after: end, generation: g.generation, used: l.hash.owner.machine.ticks()}
	if g.hot.last == end {
		g.hot.first = int32(slot)
	} else {
		l.node(int(g.hot.last), group).after = int32(slot)
	}
	g.hot.last = int32(slot)
	if g.hotSize++; g.hotSize > l.limit {
		l.cool(group)
	}
}

// cool is _merge_hot_into_cold_list_if_needed.
func (l *lru) cool(group int) {
	g := &l.groups[group]
	if g.cold.last == end {
		g.cold = g.hot
	} else if g.hot.first != end {
		l.node(int(g.cold.last), group).after = g.hot.first
		l.node(int(g.hot.first), group).before = g.cold.last
		g.cold.last = g.hot.last
	}
	g.hot = lruList{end, end}
	g.hotSize = 0
	g.generation++
}

// allocated is _initialize_lru_entry, use _insert_into_hot_list, and freed
// _uninitialize_lru_entry.
func (l *lru) allocated(slot int) {
	for group := range l.groups {
		*l.node(slot, group) = lruNode{}
	}
	l.heat(slot, l.currentGroup())
}

func (l *lru) use(slot int) {
	group := l.currentGroup()
	list := l.list(slot, group)
	if list == &l.groups[group].hot || l.node(slot, group).generation == deleted {
		return
	}
	if list != nil {
		l.unlink(list, slot, group)
	}
	l.heat(slot, group)
}

func (l *lru) freed(slot int) {
	for group := range l.groups {
		if list := l.list(slot, group); list != nil {
			l.unlink(list, slot, group)
			if list == &l.groups[group].hot {
				l.groups[group].hotSize--
			}
		}
		l.node(slot, group).generation = deleted
	}
}

// evict is _reap_oldest_map_entry. With fewer elements than groups of processors all
// may be hot, and efW would look for a cold one forever; here the hot ones cool.
func (l *lru) evict() {
	slot := l.oldest()
	if slot == end {
		for group := range l.groups {
			l.cool(group)
		}
		if slot = l.oldest(); slot == end {
			return
		}
	}
	l.hash.discard(slot)
}

// oldest is _reap_lru_cold_lists: among the heads of the cold lists the one used longest ago.
// A head that another group used later is taken off its list instead.
func (l *lru) oldest() int {
	for {
		oldest, time, any := end, uint64(math.MaxUint64), false
		for group := range l.groups {
			cold := &l.groups[group].cold
			slot := int(cold.first)
			if slot == end {
				continue
			}
			any = true
			var last uint64
			for other := range l.groups {
				last = max(last, l.node(slot, other).used)
			}
			if n := l.node(slot, group); n.used != last {
				l.unlink(cold, slot, group)
				n.generation = 0
			} else if last < time {
				oldest, time = slot, last
			}
		}
		if oldest != end || !any {
			return oldest
		}
	}
}
