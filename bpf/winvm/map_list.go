package winvm

// listEntries are queues and stacks (ebpf_core_circular_map_t of ebpf_maps.c). They
// have no keys: a lookup sees the element that is next.
type listEntries struct {
	owner   *Map
	slots   []int32 // oldest first
	free    []int32
	retired []int32
}

func (l *listEntries) lookup([]byte) (slot int, code Code) {
	switch {
	case len(l.slots) == 0:
		return 0, ObjectNotFound
	case l.owner.Type == Queue:
		return int(l.slots[0]), success
	}
	return int(l.slots[len(l.slots)-1]), success
}

// update pushes; with Exist the oldest element makes room for the new one.
func (l *listEntries) update(_, value []byte, flag Flag) Code {
	if len(l.slots) == int(l.owner.MaxEntries) {
		if flag&Exist == 0 {
			return OutOfSpace
		}
		l.retire(l.slots[0])
		l.slots = append(l.slots[:0], l.slots[1:]...)
	}
	if len(l.free) == 0 {
		slots := len(l.slots) + len(l.retired)
		if !l.owner.setSlots(slots + 1) {
			return NoMemory
		}
		l.free = append(l.free, int32(slots))
	}
	slot := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	copy(l.owner.element(int(slot)), value)
	l.slots = append(l.slots, slot)
	return success
}

// pop removes the element that lookup sees.
func (l *listEntries) pop() (slot int, code Code) {
	slot, code = l.lookup(nil)
	if code != success {
		return 0, code
	}
	if l.owner.Type == Queue {
		l.slots = append(l.slots[:0], l.slots[1:]...)
	} else {
		l.slots = l.slots[:len(l.slots)-1]
	}
	l.retire(int32(slot))
	return slot, success
}

func (l *listEntries) peek() (slot int, code Code) { return l.lookup(nil) }

func (l *listEntries) retire(slot int32) {
	if !l.owner.machine.running {
		l.free = append(l.free, slot)
		return
	}
	if len(l.retired) == 0 {
		l.owner.machine.retiring = append(l.owner.machine.retiring, l)
	}
	l.retired = append(l.retired, slot)
}

func (l *listEntries) release() {
	l.free = append(l.free, l.retired...)
	l.retired = l.retired[:0]
}

func (l *listEntries) remove([]byte) Code             { return OperationNotSupported }
func (l *listEntries) next([]byte) (_ []byte, _ Code) { return nil, OperationNotSupported }
func (l *listEntries) count() int                     { return len(l.slots) }

// Push appends a value to a queue or stack. With Exist a full one drops its oldest.
func (m *Map) Push(value []byte, flag Flag) error {
	list, ok := m.entries.(*listEntries)
	if !ok {
		return m.failed("push", OperationNotSupported)
	}
	if len(value) != int(m.ValueSize) {
		return m.failed("push", InvalidArgument)
	}
	return m.failed("push", list.update(nil, value, flag))
}

// Pop removes and returns a queue's oldest element, or a stack's newest.
func (m *Map) Pop() ([]byte, error) {
	list, ok := m.entries.(*listEntries)
	if !ok {
		return nil, m.failed("pop", OperationNotSupported)
	}
	slot, code := list.pop()
	if code != success {
		return nil, m.failed("pop", code)
	}
	return append([]byte(nil), m.element(slot)[:m.ValueSize]...), nil
}
