package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// LookPath finds a program also in the folders that not every user's PATH has.
func LookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// endPatience is how long a tool that was told to end may take to clean up.
const endPatience = 10 * time.Second

// command prepares a tool that ends with ctx, with all that it started.
func command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	path, err := LookPath(argv[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SOURCE_DATE_EPOCH="+epoch, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = endPatience
	return cmd, nil
}

// run runs a tool and returns what it printed; an error has the end of what it
// complained about.
func run(ctx context.Context, argv ...string) (string, error) { return runWith(ctx, "", argv...) }

// runWith is run with something on the tool's standard input.
func runWith(ctx context.Context, input string, argv ...string) (string, error) {
	cmd, err := command(ctx, argv...)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", toolError(ctx, argv[0], err, stderr.String())
	}
	return stdout.String(), nil
}

// runLogged runs a tool that takes long, in a mount namespace of its own: mounts
// that it would leave behind when it is killed end with it, and no removal of
// its folder can reach through them into the host.
func runLogged(ctx context.Context, log io.Writer, env []string, argv ...string) error {
	cmd, err := command(ctx, argv...)
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	var end bytes.Buffer
	cmd.Stdout = io.MultiWriter(log, &end)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return toolError(ctx, argv[0], err, end.String())
	}
	return nil
}

// runIn runs a program of a tree with the tree as its root.
func runIn(ctx context.Context, root, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return toolError(ctx, program+" in the image", err, string(out))
	}
	return nil
}

// lastLines is how much of a tool's output an error repeats.
const lastLines = 5

func toolError(ctx context.Context, tool string, err error, output string) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if len(lines) > lastLines {
		lines = lines[len(lines)-lastLines:]
	}
	return fmt.Errorf("%s: %w: %s", tool, err, strings.Join(lines, "; "))
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
