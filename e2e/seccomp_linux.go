package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bpfRefused, when set in the environment, makes this program forbid itself the
// bpf system call and then become the program that its arguments name: a
// kernel that was built without CONFIG_BPF_SYSCALL, for one process.
const bpfRefused = "E2E_BPF_REFUSED"

// Become turns this process into what its environment asks for, a part of the
// suite or a program without bpf that args name, and does not return then. The
// program that calls Run calls it first, with the arguments behind Config.Self.
func Become(args []string) {
	switch {
	case os.Getenv(bpfRefused) != "":
		fmt.Fprintln(os.Stderr, becomeWithoutBPF(args))
		os.Exit(125)
	case os.Getenv(partEnv) != "":
		var p part
		err := json.Unmarshal([]byte(os.Getenv(partEnv)), &p)
		// The programs that specs run are not parts.
		if err = errors.Join(err, os.Unsetenv(partEnv)); err == nil {
			err = p.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// withoutBPF returns a command that runs as it would on such a kernel.
func (s *suite) withoutBPF(cmd *exec.Cmd) *exec.Cmd {
	wrapped := exec.Command("/proc/self/exe", slices.Concat(s.config.Self, cmd.Args)...)
	wrapped.Env = append(cmd.Env, bpfRefused+"=1")
	return wrapped
}

// becomeWithoutBPF returns only when it failed.
func becomeWithoutBPF(argv []string) error {
	runtime.LockOSThread() // a filter is the thread's; the program inherits it
	const (
		number = 0 // offset of seccomp_data.nr (linux/seccomp.h)
		allow  = 0x7fff0000
		errno  = 0x00050000
	)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: errno | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("refuse the bpf system call: %w", err)
	}
	return fmt.Errorf("run %s: %w", argv[0], unix.Exec(argv[0], argv, os.Environ()))
}
