package vm

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFreeMemory(t *testing.T) {
	t.Parallel()
	const meminfo = "MemTotal: 9000000 kB\nMemFree: 1000 kB\nMemAvailable: 4096000 kB\n"
	for name, tt := range map[string]struct {
		files map[string]string
		want  int
	}{
		"is what the kernel says is available": {map[string]string{}, 4000},
		"is less in a group with a limit": {map[string]string{
			"proc/self/cgroup":                 "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max":     "1048576000\n",
			"sys/fs/cgroup/a/b/memory.current": "524288000\n",
		}, 500},
		"counts cache that the group can give back": {map[string]string{
			"proc/self/cgroup":               "0::/a\n",
			"sys/fs/cgroup/a/memory.max":     "1048576000\n",
			"sys/fs/cgroup/a/memory.current": "524288000\n",
			"sys/fs/cgroup/a/memory.stat":    "anon 5\nactive_file 7\ninactive_file 104857600\n",
		}, 600},
		"is less when a group above has a limit": {map[string]string{
			"proc/self/cgroup":                 "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max":     "max\n",
			"sys/fs/cgroup/a/b/memory.current": "1\n",
			"sys/fs/cgroup/a/memory.max":       "209715200\n",
			"sys/fs/cgroup/a/memory.current":   "104857600\n",
		}, 100},
		"is that of the top group in a container that sees the host's path": {map[string]string{
			"proc/self/cgroup":             "0::/../../docker/x\n",
			"sys/fs/cgroup/memory.max":     "209715200\n",
			"sys/fs/cgroup/memory.current": "0\n",
		}, 200},
		"is limited by groups of the first version too": {map[string]string{
			"proc/self/cgroup": "5:cpu:/x\n4:memory:/a\n0::/\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "209715200\n",
			"sys/fs/cgroup/memory/a/memory.usage_in_bytes": "104857600\n",
			"sys/fs/cgroup/memory/a/memory.stat":           "inactive_file 1\ntotal_inactive_file 52428800\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes":   "104857600\n",
		}, 150},
		"is none when a group is over its limit": {map[string]string{
			"proc/self/cgroup":               "0::/a\n",
			"sys/fs/cgroup/a/memory.max":     "1048576\n",
			"sys/fs/cgroup/a/memory.current": "2097152\n",
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			tt.files["proc/meminfo"] = meminfo
			for path, text := range tt.files {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := freeMemoryMB(root); got != tt.want || err != nil {
				t.Errorf("got %d, %v; want %d", got, err, tt.want)
			}
		})
	}
}

func TestFreeMemoryOfThisMachine(t *testing.T) {
	t.Parallel()
	if free, err := FreeMemoryMB(); free <= 0 || err != nil {
		t.Errorf("%d MB, %v", free, err)
	}
}

func TestFreeMemoryThatCannotBeSeen(t *testing.T) {
	t.Parallel()
	_, err := freeMemoryMB(t.TempDir())
	wantError(t, err, "see how much memory is free")
}
