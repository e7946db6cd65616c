package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/lab/guest"
	"l4lab/lab/guest/keys"
	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

const (
	// setUpFormat changes when set-ups of before can be used no more.
	setUpFormat = 1
	// setUpsKept is how many set-ups stay: each has the memory of all guests.
	setUpsKept = 2
)

// version is QEMU's.
func (p *Provider) version(ctx context.Context) (string, error) {
	path, err := program("qemu-system-x86_64")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask QEMU for its version: %w", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(line, "QEMU emulator version "), nil
}

// setUpDir is where the set-up of such a lab is kept. Labs are alike that differ in
// nothing but their names.
func (p *Provider) setUpDir(ctx context.Context, lab provider.Lab) (string, error) {
	t := lab.Topology
	block := topology.FilledQEMU(t.Providers.QEMU)
	t.Name, t.Providers = "", topology.Providers{QEMU: &block}
	img, err := p.image(ctx, block.Images.Linux)
	if err != nil {
		return "", err
	}
	version, err := p.version(ctx)
	if err != nil {
		return "", err
	}
	accel, err := p.accel()
	if err != nil {
		return "", err
	}
	program, err := guest.HashFile(p.o.Program)
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(struct {
		Format                       int
		Topology                     topology.Topology
		Image, QEMU, Accel, Programs string
	}{setUpFormat, t, img.SHA256, version, string(accel.Accel), program})
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(data)
	return filepath.Join(p.o.SetUps, hex.EncodeToString(hash[:])[:24]), nil
}

// originFile names the set-up that a lab goes on from, whose disks its own lie on.
func originFile(lab provider.Lab) string { return filepath.Join(lab.Dir, "setup") }

// hasWindows says whether a lab has real Windows guests. Its set-up is not kept: it
// would hold the password and gigabytes of memory for each of them.
func hasWindows(t topology.Topology) bool {
	return slices.ContainsFunc(t.NodeNames(), func(name string) bool { return isWindows(t, name) })
}

// HasSetUp implements provider.SetUpKeeper.
func (p *Provider) HasSetUp(ctx context.Context, lab provider.Lab) bool {
	if p.o.SetUps == "" || p.o.Fresh.Any() || hasWindows(lab.Topology) {
		return false
	}
	if _, err := p.o.Images.Get(topology.FilledQEMU(lab.Topology.Providers.QEMU).Images.Linux); err != nil {
		return false // it would be built, which is for the machines' making
	}
	dir, err := p.setUpDir(ctx, lab)
	if err != nil {
		return false
	}
	_, err = readSnapshot(dir)
	return err == nil
}

// ResumeSetUp implements provider.SetUpKeeper. The lab gets the keys that are in the
// guests.
func (p *Provider) ResumeSetUp(ctx context.Context, lab provider.Lab) error {
	dir, err := p.setUpDir(ctx, lab)
	if err != nil {
		return err
	}
	s, err := p.take(lab, dir)
	if err != nil {
		return err
	}
	now := time.Now()
	_ = os.Chtimes(dir, now, now) // the last one used is the last one removed
	if err := copyKeys(filepath.Join(dir, keys.Folder), filepath.Join(lab.Dir, keys.Folder)); err != nil {
		return fmt.Errorf("take over the keys of a kept set-up: %w", err)
	}
	if err := p.EnsureSwitch(ctx, lab); err != nil {
		return err
	}
	if err := p.base.EnsureNode(ctx, lab, lab.Topology.Client.Name); err != nil {
		return err
	}
	return p.goOnFrom(ctx, lab, s, func(b *build) error {
		if err := b.clear(ctx); err != nil {
			return err
		}
		_, err := b.plug()
		return err
	})
}

func copyKeys(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "client" && !strings.HasPrefix(e.Name(), "host-") {
			continue // of Windows guests, which no set-up has
		}
		key, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err == nil {
			err = state.WriteFile(filepath.Join(to, e.Name()), key, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// booted remembers that the machine was made from nothing.
func (b *build) booted() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.made[b.lab.Dir] == nil {
		b.made[b.lab.Dir] = map[string]bool{}
	}
	b.made[b.lab.Dir][b.name] = true
}

// KeepSetUp implements provider.SetUpKeeper: the state of a lab whose machines were made
// from nothing is kept.
func (p *Provider) KeepSetUp(ctx context.Context, lab provider.Lab) error {
	p.mu.Lock()
	// All of them: one that goes on is what somebody worked in.
	made := len(p.made[lab.Dir]) == len(lab.Topology.NodeNames()) && !p.kept[lab.Dir]
	p.kept[lab.Dir] = true
	p.mu.Unlock()
	if p.o.SetUps == "" || !made || hasWindows(lab.Topology) {
		return nil
	}
	dir, err := p.setUpDir(ctx, lab)
	if err != nil {
		return err
	}
	unlock, err := p.lockSetUps()
	if err != nil {
		return err
	}
	used := inUse(dir)
	if !used {
		err = os.RemoveAll(dir)
	}
	unlock()
	if used || err != nil {
		return err
	}
	p.o.Say("the machines' state is kept: a lab like this one comes up from it in seconds")
	switch err := p.save(ctx, lab, "set-up", dir, true); {
	case errors.Is(err, fs.ErrExist):
		return nil // by a lab like this one that was made beside it
	case err != nil:
		return err
	}
	return p.prune()
}

// partLife is how old what a labctl that was killed has left of a set-up must be to be
// removed: longer than keeping one takes.
const partLife = time.Hour

// prune removes the set-ups that were used longest ago, and parts of some.
func (p *Provider) prune() error {
	unlock, err := p.lockSetUps()
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(p.o.SetUps)
	if err != nil {
		return err
	}
	used := map[string]time.Time{}
	var dirs []string
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || !e.IsDir() {
			continue
		}
		dir := filepath.Join(p.o.SetUps, e.Name())
		switch part := strings.HasPrefix(e.Name(), partPrefix); {
		case !part:
			dirs, used[dir] = append(dirs, dir), st.ModTime()
		case time.Since(st.ModTime()) > partLife:
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(dirs, func(a, b string) int { return used[b].Compare(used[a]) })
	for _, dir := range dirs[min(setUpsKept, len(dirs)):] {
		if inUse(dir) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// labsFolder of a set-up has a symbolic link to the originFile of each lab that goes on
// from it, wherever that lab's folder is. A link to a lab that is gone, or is made from
// something else by now, counts no more.
const labsFolder = "labs"

// lockSetUps keeps other labctls from removing set-ups, and from going on from one.
func (p *Provider) lockSetUps() (unlock func(), err error) {
	if err := os.MkdirAll(p.o.SetUps, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p.o.SetUps+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the kept set-ups: %w", err)
	}
	return func() { f.Close() }, nil
}

// take reads a set-up and notes that a lab goes on from it.
func (p *Provider) take(lab provider.Lab, dir string) (snapshot, error) {
	unlock, err := p.lockSetUps()
	if err != nil {
		return snapshot{}, err
	}
	defer unlock()
	s, err := readSnapshot(dir)
	if err != nil {
		return s, err
	}
	if err := use(lab, dir); err != nil {
		return s, fmt.Errorf("note that the lab goes on from %s: %w", dir, err)
	}
	return s, nil
}

// use notes that a lab goes on from a set-up: before its disks lie on it, so that
// nobody removes it.
func use(lab provider.Lab, dir string) error {
	origin := originFile(lab)
	if err := state.WriteFile(origin, []byte(dir), 0o600); err != nil {
		return err
	}
	labs := filepath.Join(dir, labsFolder)
	if err := os.Mkdir(labs, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	sum := sha256.Sum256([]byte(origin))
	err := os.Symlink(origin, filepath.Join(labs, hex.EncodeToString(sum[:8])))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// inUse says whether the disks of a lab lie on a set-up's, also where that cannot be known.
func inUse(dir string) bool {
	labs, err := os.ReadDir(filepath.Join(dir, labsFolder))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	here, err := os.Stat(dir)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(labs, func(e fs.DirEntry) bool {
		from, err := os.ReadFile(filepath.Join(dir, labsFolder, e.Name()))
		if err != nil {
			return !errors.Is(err, fs.ErrNotExist)
		}
		there, err := os.Stat(string(from)) // by whatever path
		return err == nil && os.SameFile(here, there)
	})
}
