package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// FreeMemoryMB returns how much memory new processes can have without swapping:
// what the kernel says is available, or what this process's control group and
// those above it have left, whichever is less.
func FreeMemoryMB() (int, error) { return freeMemoryMB("/") }

// freeMemoryMB looks below a root that stands for the file system.
func freeMemoryMB(root string) (int, error) {
	meminfo, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return 0, fmt.Errorf("see how much memory is free: %w", err)
	}
	free, err := field(string(meminfo), "MemAvailable:")
	if err != nil {
		return 0, fmt.Errorf("see how much memory is free: /proc/meminfo: %w", err)
	}
	free *= 1024
	for _, group := range controlGroups(root) {
		left, limited, err := group.left()
		if err != nil {
			return 0, fmt.Errorf("see how much memory the control group %s has left: %w", group.dir, err)
		}
		if limited {
			free = min(free, left)
		}
	}
	return int(free >> 20), nil
}

// controlGroup is a group with its files for limit, use and statistics, which
// are other ones in the first version of control groups.
type controlGroup struct {
	dir, limit, use, cache string
}

// controlGroups returns the groups that limit this process's memory, its own and
// all above it (cgroups(7)).
func controlGroups(root string) []controlGroup {
	membership, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	var groups []controlGroup
	for line := range strings.Lines(string(membership)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var top string
		group := controlGroup{limit: "memory.max", use: "memory.current", cache: "inactive_file"}
		switch {
		case parts[0] == "0":
			top = filepath.Join(root, "sys/fs/cgroup")
		case parts[1] == "memory":
			top = filepath.Join(root, "sys/fs/cgroup/memory")
			group = controlGroup{limit: "memory.limit_in_bytes", use: "memory.usage_in_bytes", cache: "total_inactive_file"}
		default:
			continue
		}
		// Inside a container the path may be that of the host, and the group
		// that holds is the top one.
		for dir := filepath.Join(top, filepath.Join("/", parts[2])); ; dir = filepath.Dir(dir) {
			group.dir = dir
			groups = append(groups, group)
			if dir == top || !strings.HasPrefix(dir, top) {
				break
			}
		}
	}
	return groups
}

// left returns how many bytes the group may still take, if it is limited. Cache
// that was not used lately is given back before anything is refused.
func (g controlGroup) left() (bytes int64, limited bool, err error) {
	limit, err := number(filepath.Join(g.dir, g.limit))
	if errors.Is(err, fs.ErrNotExist) || err == nil && limit < 0 {
		return 0, false, nil // the root group, or one without the memory controller
	}
	if err != nil {
		return 0, false, err
	}
	used, err := number(filepath.Join(g.dir, g.use))
	if err != nil {
		return 0, false, err
	}
	var cache int64
	if stat, err := os.ReadFile(filepath.Join(g.dir, "memory.stat")); err == nil {
		cache, _ = field(string(stat), g.cache)
	}
	return max(0, limit-used+cache), true, nil
}

// number reads a file that holds a number; "max" is -1.
func number(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return -1, nil
	}
	return strconv.ParseInt(text, 10, 64)
}

// field returns the number after a name in lines of name and number.
func field(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == name {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("there is no %s", name)
}
