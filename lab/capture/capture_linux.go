package capture

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// blockBytes is the unit in which the kernel hands frames over; a frame
	// must fit one whole, and offloads make frames of up to 64 KiB.
	blockBytes = 128 << 10
	// retireMillis is how long a block that is not full may wait. Times the
	// number of blocks it is how long a reader may get no time before frames are
	// lost, however few they are: each of a trickle takes a block of its own.
	retireMillis = 12
	// sockaddrOffset is where struct sockaddr_ll follows a frame's header.
	sockaddrOffset = unix.SizeofTpacket3Hdr
)

// ring is a TPACKET_V3 receive ring (packet_mmap.rst in the kernel's
// documentation): blocks of frames in memory shared with the kernel, each
// owned by one of the two at a time.
type ring struct {
	file    *os.File
	conn    syscall.RawConn
	memory  []byte
	blocks  int
	current int
	taken   uint64
	dropped uint64
}

// Start begins a capture on an interface of the calling thread's network
// namespace. It needs CAP_NET_RAW in the namespace's user namespace.
func Start(iface string, opts Options) (*Session, error) {
	r, err := openInterface(iface, opts)
	if err != nil {
		return nil, err
	}
	return newSession(iface, r, opts.MaxBytes), nil
}

func openInterface(iface string, opts Options) (source, error) {
	// No protocol yet: nothing may arrive before the socket is bound to its interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("capture on %s: open packet socket: %w (needs root or CAP_NET_RAW)", iface, err)
		}
		return nil, fmt.Errorf("capture on %s: open packet socket: %w", iface, err)
	}
	r, err := openRing(fd, iface, opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("capture on %s: %w", iface, err), unix.Close(fd))
	}
	return r, nil
}

func openRing(fd int, iface string, opts Options) (*ring, error) {
	request, err := unix.NewIfreq(iface)
	if err != nil {
		return nil, fmt.Errorf("interface name: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return nil, fmt.Errorf("find interface: %w", err)
	}
	if len(opts.Filter) > 0 {
		if err := attachFilter(fd, opts.Filter); err != nil {
			return nil, fmt.Errorf("attach filter of %d instructions: %w", len(opts.Filter), err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return nil, fmt.Errorf("choose TPACKET_V3: %w", err)
	}
	ringBytes := opts.RingBytes
	if ringBytes <= 0 {
		ringBytes = DefaultRingBytes
	}
	blocks := max(2, ringBytes/blockBytes)
	if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq3{
		Block_size: blockBytes, Block_nr: uint32(blocks),
		Frame_size: blockBytes, Frame_nr: uint32(blocks),
		Retire_blk_tov: retireMillis,
	}); err != nil {
		return nil, fmt.Errorf("make ring of %d bytes: %w", blocks*blockBytes, err)
	}
	memory, err := unix.Mmap(fd, 0, blocks*blockBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map ring of %d bytes: %w", blocks*blockBytes, err)
	}
	address := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: int(request.Uint32())}
	if err := unix.Bind(fd, address); err != nil {
		return nil, errors.Join(fmt.Errorf("bind: %w", err), unix.Munmap(memory))
	}
	// The runtime's poller waits for the socket: no thread blocks for a quiet capture.
	file := os.NewFile(uintptr(fd), "capture:"+iface)
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("poll: %w", err), unix.Munmap(memory))
	}
	return &ring{file: file, conn: conn, memory: memory, blocks: blocks}, nil
}

// next returns the frames of the next block that the kernel hands over.
func (r *ring) next() ([]Frame, error) {
	block := r.memory[r.current*blockBytes : (r.current+1)*blockBytes]
	// struct tpacket_block_desc: version, offset, then struct tpacket_hdr_v1.
	header := (*unix.TpacketHdrV1)(unsafe.Pointer(&block[8]))
	ready := func(uintptr) bool {
		return atomic.LoadUint32(&header.Block_status)&unix.TP_STATUS_USER != 0
	}
	if err := r.conn.Read(ready); err != nil {
		return nil, err
	}
	frames := readBlock(block, header)
	atomic.StoreUint32(&header.Block_status, unix.TP_STATUS_KERNEL)
	r.current = (r.current + 1) % r.blocks
	return frames, nil
}

// readBlock copies the frames out of a block, into one allocation.
func readBlock(block []byte, header *unix.TpacketHdrV1) []Frame {
	frames := make([]Frame, 0, header.Num_pkts)
	store := make([]byte, 0, header.Blk_len)
	offset := int(header.Offset_to_first_pkt)
	for range header.Num_pkts {
		h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&block[offset]))
		start := offset + int(h.Mac)
		from := len(store)
		store = append(store, block[start:start+int(h.Snaplen)]...)
		f := Frame{
			Time:            time.Unix(int64(h.Sec), int64(h.Nsec)),
			Data:            store[from:len(store):len(store)],
			Length:          int(h.Len),
			ChecksumPending: h.Status&unix.TP_STATUS_CSUMNOTREADY != 0,
			// struct sockaddr_ll: sll_pkttype is its 11th byte.
			Outgoing: block[offset+sockaddrOffset+10] == unix.PACKET_OUTGOING,
		}
		if h.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			f.VLAN = uint16(h.Hv1.Vlan_tci)
		}
		frames = append(frames, f)
		offset += int(h.Next_offset)
	}
	return frames
}

// mute lets a filter refuse every further frame; the ring stays readable.
func (r *ring) mute() error {
	refuse := []Instruction{{Op: unix.BPF_RET | unix.BPF_K, K: 0}}
	if err := r.control(func(fd int) error { return attachFilter(fd, refuse) }); err != nil {
		return fmt.Errorf("mute: %w", err)
	}
	return nil
}

// statistics accumulates: the kernel's counters restart with each reading.
func (r *ring) statistics() (taken, dropped uint64, err error) {
	err = r.control(func(fd int) error {
		stats, err := unix.GetsockoptTpacketStatsV3(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			return err
		}
		// The kernel's tp_packets includes the drops.
		r.taken += uint64(stats.Packets - stats.Drops)
		r.dropped += uint64(stats.Drops)
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("read PACKET_STATISTICS: %w", err)
	}
	return r.taken, r.dropped, nil
}

func (r *ring) control(do func(fd int) error) error {
	var err error
	if controlErr := r.conn.Control(func(fd uintptr) { err = do(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

// close wakes the reader, which may be inside the ring; release follows when
// it has left.
func (r *ring) close() error { return r.file.Close() }

// release gives the ring's memory back. Nobody may read any more.
func (r *ring) release() error { return unix.Munmap(r.memory) }

func attachFilter(fd int, filter []Instruction) error {
	raw := make([]unix.SockFilter, len(filter))
	for i, in := range filter {
		raw[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]})
}

func networkOrder(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return *(*uint16)(unsafe.Pointer(&b[0]))
}
