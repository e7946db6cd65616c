package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// initrdCommands are busybox's programs that the init script uses.
var initrdCommands = []string{"findfs", "insmod", "ln", "mount", "sh", "switch_root", "usleep"}

// initrd writes an archive of busybox, the init script and the modules that the
// root file system is reached with. It is not compressed: unpacking costs an
// emulated CPU more than reading.
func (b *builder) initrd(context.Context) error {
	busybox, err := LookPath("busybox")
	if err != nil {
		return err
	}
	releases, err := filepath.Glob(filepath.Join(b.root, "usr/lib/modules/*/modules.dep"))
	if err != nil || len(releases) != 1 {
		return fmt.Errorf("find the kernel's modules in %s: %d folders, %v", b.root, len(releases), err)
	}
	dir := filepath.Dir(releases[0])
	modules, err := loadOrder(releases[0], b.Initrd)
	if err != nil {
		return err
	}
	drivers := map[string][]string{}
	for list, names := range b.Drivers {
		order, err := loadOrder(releases[0], names)
		if err != nil {
			return err
		}
		drivers[list] = slices.DeleteFunc(order, func(m string) bool { return slices.Contains(modules, m) })
	}
	return errors.Join(
		create(filepath.Join(b.work, initrdFile), func(f io.Writer) error { return writeInitrd(f, busybox, b.Init, dir, modules) }),
		create(filepath.Join(b.work, driversFile), func(f io.Writer) error { return writeDrivers(f, dir, drivers) }))
}

func create(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return f.Close()
}

// writeDrivers writes an archive that the kernel unpacks after the initrd: the
// modules of all lists, each once, and the lists.
func writeDrivers(out io.Writer, dir string, lists map[string][]string) error {
	w := &archive{Writer: cpio.NewWriter(out)}
	written := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		for _, m := range lists[name] {
			if !written[m] {
				w.addFile("modules/"+filepath.Base(m), 0o644, filepath.Join(dir, m))
			}
			written[m] = true
		}
		w.add("modules/"+name, cpio.TypeReg|0o644, []byte(order(lists[name])))
	}
	if w.err != nil {
		return w.err
	}
	return w.Close()
}

// order is a list of modules as the init script reads it.
func order(modules []string) string {
	var text strings.Builder
	for _, m := range modules {
		text.WriteString(filepath.Base(m) + "\n")
	}
	return text.String()
}

func writeInitrd(out io.Writer, busybox, init, dir string, modules []string) error {
	w := &archive{Writer: cpio.NewWriter(out)}
	for _, folder := range []string{"bin", "dev", "modules", "proc", "root", "sys"} {
		w.add(folder, cpio.TypeDir|0o755, nil)
	}
	w.add("init", cpio.TypeReg|0o755, []byte(init))
	w.addFile("bin/busybox", 0o755, busybox)
	for _, command := range initrdCommands {
		w.add("bin/"+command, cpio.TypeSymlink|0o777, []byte("busybox"))
	}
	for _, m := range modules {
		w.addFile("modules/"+filepath.Base(m), 0o644, filepath.Join(dir, m))
	}
	w.add("modules/order", cpio.TypeReg|0o644, []byte(order(modules)))
	if w.err != nil {
		return w.err
	}
	return w.Close()
}

// archive keeps the first error.
type archive struct {
	*cpio.Writer
	err error
}

func (a *archive) addFile(name string, mode cpio.FileMode, path string) {
	content, err := os.ReadFile(path)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.add(name, cpio.TypeReg|mode, content)
}

func (a *archive) add(name string, mode cpio.FileMode, content []byte) {
	if a.err != nil {
		return
	}
	if a.err = a.WriteHeader(&cpio.Header{Name: name, Mode: mode, Size: int64(len(content))}); a.err != nil {
		return
	}
	if len(content) > 0 { // a symbolic link's is its target
		_, a.err = a.Write(content)
	}
}

// loadOrder returns the files of modules and of all they depend on, dependencies
// first, as modules.dep has them: "a.ko: b.ko c.ko", where c.ko is to be loaded
// before b.ko (depmod(8)).
func loadOrder(modulesDep string, names []string) ([]string, error) {
	f, err := os.Open(modulesDep)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	needs := map[string][]string{}
	paths := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		path, rest, _ := strings.Cut(lines.Text(), ":")
		needs[path] = strings.Fields(rest)
		paths[strings.TrimSuffix(filepath.Base(path), ".ko")] = path
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	var order []string
	add := func(path string) {
		if !slices.Contains(order, path) {
			order = append(order, path)
		}
	}
	for _, name := range names {
		path, ok := paths[name]
		if !ok {
			return nil, fmt.Errorf("the kernel has no module %s that is kept", name)
		}
		for _, need := range slices.Backward(needs[path]) {
			add(need)
		}
		add(path)
	}
	return order, nil
}
