package guestinit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Mark is the environment variable that all processes of an instance's
// machines begin with; its value is the instance's folder.
const Mark = "L4LAB_HVSIM"

// Socket is where a machine's init answers, as the machine sees it.
const Socket = "/run/guestinit.sock"

// Program is where a machine sees the program of its init.
const Program = "/usr/lib/guestinit/guestinit"

// seedDevice is where a machine sees the disc in its drive, a plain file here.
const seedDevice = "/dev/sr0"

// Config is what a boot is told, on file descriptor 3, as one JSON value.
type Config struct {
	Machine string
	// Services says that the machine configures itself from a seed and has an
	// SSH server (Linux). Without it, it only waits for requests.
	Services bool
	// Root is an empty folder to mount the root file system at. Disk holds what
	// the machine writes, in upper and work; "" keeps nothing.
	Root, Disk string
	// Self is the command line of Main, the program's path first.
	Self []string
	// Seed is the disc's file, "" for none.
	Seed  string
	Binds []Bind
	// BootTime passes before anything is heard of the machine.
	BootTime time.Duration
}

// Bind is a file or folder of the simulated host's machine seen in the guest.
type Bind struct {
	From, To string
	ReadOnly bool
}

// Stage is how far a machine has come.
type Stage string

// The stages: the kernel runs, all is started, the machine goes down.
const (
	StageUp    Stage = "up"
	StageReady Stage = "ready"
	StageDown  Stage = "down"
)

// Event is what a machine's init tells its parent, one JSON value each.
type Event struct {
	Stage  Stage
	Reboot bool   `json:",omitempty"`
	Error  string `json:",omitempty"`
}

// Request is what a machine's init is asked: one packet, with the descriptors
// of standard input, output and error for Exec.
type Request struct {
	// Command is a line of the machine's commands: systemctl, journalctl, cloud-init.
	Command []string `json:",omitempty"`
	// Exec runs a program; closing the connection ends it.
	Exec *Exec `json:",omitempty"`
	// Start starts a service of this description, Stop ends one, State asks for one.
	Start *Unit  `json:",omitempty"`
	Stop  string `json:",omitempty"`
	State string `json:",omitempty"`
	// Down ends the machine, Reboot has it begin anew.
	Down, Reboot bool `json:",omitempty"`
}

// Exec is a program to run.
type Exec struct {
	Argv []string
	Env  []string
	Dir  string
}

// Reply answers a request.
type Reply struct {
	// Error says why it could not be done.
	Error string `json:",omitempty"`
	// NotFound: a program that does not exist.
	NotFound bool `json:",omitempty"`
	// Code and Text are a command's; Code is a program's, too.
	Code int    `json:",omitempty"`
	Text string `json:",omitempty"`
	// Service is a service's state.
	Service *ServiceState `json:",omitempty"`
}

// ServiceState is how a service is.
type ServiceState struct {
	// Active is systemd's word: active, activating, inactive, failed.
	Active string
	// Waiting: it ended by itself and is about to be started again.
	Waiting  bool `json:",omitempty"`
	PID      int
	ExitCode int
	Restarts int
}

// maxPacket bounds a request and a reply.
const maxPacket = 128 << 10

// ErrGone is matched when a machine's init cannot be asked.
var ErrGone = errors.New("the machine does not answer")

// Ask sends a request to the init whose socket is at path. The files are those
// of Exec. A context that ends closes the connection, which ends the program.
func Ask(ctx context.Context, path string, r Request, files ...*os.File) (Reply, error) {
	var reply Reply
	packet, err := json.Marshal(r)
	if err == nil && len(packet) > maxPacket {
		err = fmt.Errorf("%d bytes exceed %d", len(packet), maxPacket)
	}
	if err != nil {
		return reply, fmt.Errorf("ask the machine: %w", err)
	}
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		return reply, fmt.Errorf("%w: %w", ErrGone, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(packet, rights, nil); err != nil {
		return reply, fmt.Errorf("%w: %w", ErrGone, err)
	}
	answer := make([]byte, maxPacket)
	n, err := conn.Read(answer)
	if ctx.Err() != nil {
		return reply, context.Cause(ctx)
	}
	if err != nil || n == 0 {
		return reply, fmt.Errorf("%w: %w", ErrGone, errors.Join(err, errors.New("it closed the connection")))
	}
	return reply, json.Unmarshal(answer[:n], &reply)
}
