package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// behaviour is what the tests' guest does when its count reaches eight.
type behaviour byte

const (
	counts  behaviour = 'c' // goes on counting
	panics  behaviour = 'p' // tells pvpanic
	reboots behaviour = 'r'
	leaves  behaviour = 'o' // switches itself off
	floods  behaviour = 'f' // writes to the console without end
	ignores behaviour = 'i' // goes on, and does not mind the power button either
)

// bootSector is a guest that needs nothing and is up in half a second. It says
// "B" when it boots. Eighteen times a second it says how far it has counted in
// memory, and on the disk; the two are equal as long as memory and disk are of
// the same moment. Then it counts on and writes it to the disk. When the
// power button is pressed it says "O" and is off.
func bootSector(b behaviour) []byte {
	code := []byte{
		0xfa,       // cli
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0x8e, 0xc0, // mov es, ax
		0x8e, 0xd0, // mov ss, ax
		0xbc, 0x00, 0x7c, // mov sp, 0x7c00
		0x88, 0x16, 0x00, 0x05, // mov byte 0x500, dl ; the disk's number, from the BIOS
		0xfb,             // sti
		0xba, 0x02, 0x06, // mov dx, 0x602 ; PM1 enable (SeaBIOS puts ACPI at 0x600): the power button
		0xb8, 0x00, 0x01, // mov ax, 0x100
		0xef,       // out dx, ax
		0xb0, 0x42, // mov al, 0x42
		0xe8, 0x93, 0x00, // call putc
		0xe8, 0x8e, 0x00, // call newline
		0xe8, 0x78, 0x00, // call read
		0x8b, 0x2e, 0x00, 0x08, // mov bp, 0x800 ; the count goes on from the disk
		// tick:
		0xf4,             // hlt ; until the timer's next interrupt: 18 times a second
		0xba, 0x00, 0x06, // mov dx, 0x600 ; PM1 status: was the power button pressed?
		0xed,             // in ax, dx
		0xf6, 0xc4, 0x01, // test ah, 0x1
		0x74, 0x07, // je go on
		0x80, 0x3e, 0xfd, 0x7d, 0x69, // cmp byte 0x7dfd, 0x69 ; does it mind?
		0x75, 0x4a, // jne off
		// go on:
		0xe8, 0x60, 0x00, // call read
		0x89, 0xe8, // mov ax, bp ; the count in memory
		0xe8, 0x7f, 0x00, // call hex
		0xb0, 0x20, // mov al, 0x20
		0xe8, 0x6b, 0x00, // call putc
		0xa1, 0x00, 0x08, // mov ax, ds:0x800 ; and on the disk
		0xe8, 0x74, 0x00, // call hex
		0xe8, 0x60, 0x00, // call newline
		0x45,                   // inc bp
		0x89, 0x2e, 0x00, 0x08, // mov 0x800, bp
		0xb4, 0x03, // mov ah, 0x3 ; write it
		0xe8, 0x45, 0x00, // call disk
		0x83, 0xfd, 0x08, // cmp bp, 0x8
		0x75, 0xca, // jne tick
		0xa0, 0xfd, 0x7d, // mov al, ds:0x7dfd ; the behaviour
		0x3c, 0x70, // cmp al, 0x70
		0x74, 0x0e, // je panic
		0x3c, 0x72, // cmp al, 0x72
		0x74, 0x12, // je reset
		0x3c, 0x6f, // cmp al, 0x6f
		0x74, 0x16, // je off
		0x3c, 0x66, // cmp al, 0x66
		0x74, 0x24, // je flood
		0xeb, 0xb5, // jmp tick
		// panic:
		0xb0, 0x01, // mov al, 0x1
		0xba, 0x05, 0x05, // mov dx, 0x505 ; pvpanic
		0xee,       // out dx, al
		0xeb, 0xad, // jmp tick
		// reset:
		0xba, 0xf9, 0x0c, // mov dx, 0xcf9 ; reset control
		0xb0, 0x06, // mov al, 0x6
		0xee,       // out dx, al
		0xeb, 0x0f, // jmp stop
		// off:
		0xb0, 0x4f, // mov al, 0x4f
		0xe8, 0x29, 0x00, // call putc
		0xe8, 0x24, 0x00, // call newline
		0xba, 0x04, 0x06, // mov dx, 0x604 ; PM1 control: S5
		0xb8, 0x00, 0x20, // mov ax, 0x2000
		0xef, // out dx, ax
		// stop:
		0xf4,       // hlt
		0xeb, 0xfd, // jmp stop
		// flood:
		0xb0, 0x66, // mov al, 0x66
		0xe8, 0x17, 0x00, // call putc
		0xeb, 0xf9, // jmp flood
		// read:
		0xb4, 0x02, // mov ah, 0x2
		// disk:
		0xb0, 0x01, // mov al, 0x1
		0xb9, 0x02, 0x00, // mov cx, 0x2 ; the second sector of the disk
		0xbb, 0x00, 0x08, // mov bx, 0x800
		0x8a, 0x16, 0x00, 0x05, // mov dl, byte 0x500
		0xb6, 0x00, // mov dh, 0x0
		0xcd, 0x13, // int 0x13
		0xc3, // ret
		// newline:
		0xb0, 0x0a, // mov al, 0xa
		// putc:
		0x50,             // push ax
		0xba, 0xfd, 0x03, // mov dx, 0x3fd ; line status
		// ready:
		0xec,       // in al, dx
		0xa8, 0x20, // test al, 0x20
		0x74, 0xfb, // je ready
		0x58,             // pop ax
		0xba, 0xf8, 0x03, // mov dx, 0x3f8 ; transmit
		0xee, // out dx, al
		0xc3, // ret
		// hex:
		0x89, 0xc3, // mov bx, ax
		0xb9, 0x04, 0x00, // mov cx, 0x4
		// digit:
		0xc1, 0xc3, 0x04, // rol bx, 0x4
		0x88, 0xd8, // mov al, bl
		0x24, 0x0f, // and al, 0xf
		0x04, 0x30, // add al, 0x30
		0x3c, 0x39, // cmp al, 0x39
		0x76, 0x02, // jbe decimal
		0x04, 0x07, // add al, 0x7
		// decimal:
		0xe8, 0xda, 0xff, // call putc
		0xe2, 0xec, // loop digit
		0xc3, // ret
	}
	const sector = 512
	image := make([]byte, sector)
	copy(image, code)
	copy(image[sector-3:], []byte{byte(b), 0x55, 0xaa})
	return image
}

// disk makes a raw disk with the guest on it.
func disk(t *testing.T, dir string, b behaviour) Disk {
	t.Helper()
	path := filepath.Join(dir, "disk.raw")
	image := make([]byte, 1<<20)
	copy(image, bootSector(b))
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return Disk{Path: path, Format: "raw"}
}

// needQEMU skips a test where there is none.
func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := binary(""); err != nil {
		t.Skip(err)
	}
}

// needImages skips a test where there is no qemu-img.
func needImages(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("install Debian's package qemu-utils: ", err)
	}
}

// folder makes a folder with a path that is short enough for sockets, whatever
// the test's name.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// config is a machine with the tests' guest in a folder of its own.
func config(t *testing.T, b behaviour) Config {
	t.Helper()
	needQEMU(t)
	dir := folder(t)
	return Config{Name: "be1", Dir: filepath.Join(dir, "be1"), Accel: TCG, MemoryMB: 16, CPUs: 1, Disks: []Disk{disk(t, dir, b)}}
}

// run starts a machine that the test's end ends.
func run(t *testing.T, c Config) *VM {
	t.Helper()
	v, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.End(context.WithoutCancel(t.Context()), 0); err != nil {
			t.Error(err)
		}
	})
	return v
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	const limit = 60 * time.Second
	for deadline := time.Now().Add(limit); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not so: %s", limit, what)
		}
	}
}

// awaitState waits for a machine's state.
func awaitState(t *testing.T, v *VM, want State) {
	t.Helper()
	var got State
	eventually(t, fmt.Sprintf("%s is %s", v.record.Name, want), func() bool {
		var err error
		got, err = v.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got == want
	})
}

// count is a line of the guest's.
type count struct{ memory, disk int }

var countLine = regexp.MustCompile(`(?m)^([0-9A-F]{4}) ([0-9A-F]{4})$`)

// counted returns all that the guest has said so far.
func counted(v *VM) []count {
	var all []count
	for _, m := range countLine.FindAllStringSubmatch(v.Console(2*consolePart), -1) {
		memory, _ := strconv.ParseInt(m[1], 16, 32)
		disk, _ := strconv.ParseInt(m[2], 16, 32)
		all = append(all, count{int(memory), int(disk)})
	}
	return all
}

// last returns how far the guest has counted, -1 when it has said nothing yet.
func last(v *VM) int {
	if all := counted(v); len(all) > 0 {
		return all[len(all)-1].memory
	}
	return -1
}

// awaitCount waits until the guest has counted so far.
func awaitCount(t *testing.T, v *VM, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("the guest has counted to %d", n), func() bool { return last(v) >= n })
}

// boots says how often the guest has booted.
func boots(v *VM) int {
	return bytes.Count([]byte("\n"+v.Console(2*consolePart)+"\n"), []byte("\nB\n"))
}

// wantError checks that an error is there and says all that it should.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q:\n%v", part, err)
		}
	}
}
