package bpf

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWindowsHasAllThatTheWindowsObjectsNeed(t *testing.T) {
	for name, object := range WindowsObjects() {
		t.Run(name, func(t *testing.T) {
			profile, ok := windowsProfiles[filepath.Dir(name)]
			if !ok {
				t.Fatalf("no profile %s", filepath.Dir(name))
			}
			faults, err := windowsFaults(object, profile)
			must(t, err)
			for _, f := range faults {
				t.Error(f)
			}
		})
	}
}

func TestTheWindowsCheckRefusesTheLinuxObjects(t *testing.T) {
	for name, c := range map[string]struct {
		object []byte
		want   []string
	}{
		"lb": {_LBBytes, []string{
			"section xdp", "no section xdp_test", "helper 44", "helper 160",
			"map maglev's values: attribute map_flags", "map maglev: a ringbuf with keys: true",
			`map service_stats: a hash_of_maps with values of ""`,
		}},
		"decap_xdp": {_DecapXDPBytes, []string{"section xdp", "helper 44"}},
		"decap_tc":  {_DecapTCBytes, []string{"section tc", "helper 50", "helper 39"}},
	} {
		t.Run(name, func(t *testing.T) {
			faults, err := windowsFaults(c.object, windowsProfiles["efw-0.21"])
			must(t, err)
			for _, want := range c.want {
				if !slices.ContainsFunc(faults, func(f string) bool { return strings.HasPrefix(f, want) }) {
					t.Errorf("no fault %q among %q", want, faults)
				}
			}
		})
	}
}

func TestTheWindowsCheckFindsEachKindOfFault(t *testing.T) {
	const head, counter, count = windowsHead, windowsCounter, windowsCount
	program := func(body string) string {
		return `SEC("xdp_test") int program(struct xdp_context *ctx) { (void)ctx; ` + body + "}\n"
	}
	cases := map[string]struct {
		source string
		flags  []string
		want   string
	}{
		"none at all":         {head + counter + program(count), nil, ""},
		"a section of Linux":  {head + counter + strings.Replace(program(count), "xdp_test", "xdp", 1), nil, "section xdp"},
		"no licence":          {strings.Replace(head, "char _license", "//", 1) + counter + program(count), nil, "no section license"},
		"a helper of Linux":   {head + counter + program(`((__u64 (*)(void))160)(); `+count), nil, "helper 160"},
		"trace_printk":        {head + counter + program(`((long (*)(const char *, int))12)(0, 0); `+count), nil, "helper 12"},
		"a map type of Linux": {head + strings.Replace(counter, "type, 2", "type, 27", 1) + program(count), nil, "map counter: type 27"},
		"a map attribute of Linux": {head + strings.Replace(counter, "struct { ", "struct { __uint(map_flags, 1); ", 1) + program(count), nil,
			"map counter: attribute map_flags"},
		"a map without a size": {head + strings.Replace(counter, "__uint(max_entries, 1);", "", 1) + program(count), nil, "map counter: no max_entries"},
		"a ring buffer with keys": {head + strings.Replace(counter, "type, 2", "type, 13", 1) + program(count), nil,
			"map counter: a ringbuf with keys: true"},
		"programs to call": {head + counter + windowsStages + program(`tail_call(ctx, &stages, 0); `+count), nil, ""},
		"more programs than entries": {head + counter + strings.Replace(windowsStages, "max_entries, 2", "max_entries, 1", 1) +
			program(`tail_call(ctx, &stages, 0); `+count), nil, "map stages: 2 programs for 1 entries"},
		"a static program to call": {head + counter + strings.Replace(windowsStages, "int next(", "static int next(", 1) +
			program(`tail_call(ctx, &stages, 0); `+count), nil, "map stages: initial value"},
		"programs in an array": {head + counter + strings.Replace(windowsStages, "type, 3", "type, 2", 1) +
			program(`tail_call(ctx, &stages, 0); `+count), nil, `map stages: a array with values of "programs"`},
		"a prog_array of maps": {head + strings.Replace(counter, "type, 2", "type, 3", 1) + program(count), nil,
			`map counter: a prog_array with values of ""`},
		"a hash of maps without maps": {head + strings.Replace(counter, "type, 2", "type, 6", 1) + program(count), nil,
			`map counter: a hash_of_maps with values of ""`},
		"padding inside a key": {head + `struct padded { __u8 a; __u32 b; };
struct { __uint(type, 1); __uint(max_entries, 1); __type(key, struct padded); __type(value, __u64); } counter SEC(".maps");
` + program(`struct padded key = {0, 0}; __u64 *value = map_lookup(&counter, &key); if (value) (*value)++; return 1;`), nil,
			"map counter: key has unnamed padding at byte 1"},
		"padding at the end of a key": {head + `struct padded { __u32 a; __u8 b; };
struct { __uint(type, 1); __uint(max_entries, 1); __type(key, struct padded); __type(value, __u64); } counter SEC(".maps");
` + program(`struct padded key = {0, 0}; __u64 *value = map_lookup(&counter, &key); if (value) (*value)++; return 1;`), nil,
			"map counter: key has unnamed padding at byte 5"},
		"a global variable": {head + counter + "__u64 seen;\n" + program(`seen++; `+count), nil, "section .bss"},
		"a constant table": {head + counter + "static const __u32 table[8] = {7, 1, 13, 2, 99, 5, 0, 77};\n" +
			program(`if (prandom()) return table[prandom() & 7]; `+count), nil, "section .rodata"},
		"a string literal": {head + counter + program(`((long (*)(const char *, int))22)("text", 5); `+count), nil, "section .rodata.str1.1"},
		"a call of a static function": {head + counter + "static __attribute__((noinline)) int f(__u64 n) { asm volatile(\"\" : \"+r\"(n)); return n; }\n" +
			program(`if (f((__u64)ctx->data)) return 2; `+count), nil, "call of a static function"},
		"a call of a function": {head + counter + "__attribute__((noinline)) int f(__u64 n) { asm volatile(\"\" : \"+r\"(n)); return n; }\n" +
			program(`if (f((__u64)ctx->data)) return 2; `+count), nil, "program calls a function"},
		"programs beyond a byte": {head + counter + strings.Replace(windowsStages, "max_entries, 2", "max_entries, 257", 1) +
			program(`tail_call(ctx, &stages, 0); `+count), nil, "map stages: a prog_array of 257 entries"},
		"maps beyond a byte": {head + `struct inner { __uint(type, 2); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); };
struct { __uint(type, 7); __uint(max_entries, 257); __type(key, __u32); __array(values, struct inner); } outer SEC(".maps");
` + counter + program(`__u32 of = 0; if (map_lookup(&outer, &of)) return 2; `+count), nil, "map outer: a array_of_maps of 257 entries"},
		"a byte's maps and programs": {head + counter + strings.Replace(windowsStages, "max_entries, 2", "max_entries, 256", 1) +
			program(`tail_call(ctx, &stages, 0); `+count), nil, ""},
		"version 3 of the instructions": {head + counter + program(`if (prandom() == 7) return 2; `+count), []string{"-mcpu=v3"}, "32-bit jump"},
		"an atomic exchange":            {head + counter + program(`__u32 key = 0; __u64 *value = map_lookup(&counter, &key); if (value) return __sync_lock_test_and_set(value, 5); return 1;`), []string{"-mcpu=v3"}, "atomic operation"},
		"CO-RE": {head + counter + "struct k { int a; } __attribute__((preserve_access_index));\n" +
			program(`struct k *p = (void *)ctx->data_meta; if (p->a) return 2; `+count), nil, "CO-RE relocations"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantFault(t, compileForWindows(t, c.source, c.flags...), "efw-0.21", c.want)
		})
	}
}

func TestTheWindowsCheckKnowsThatXDPForWindowsMovesNoHeads(t *testing.T) {
	source := func(name string) string {
		return windowsHead + windowsCounter + `SEC(LB_SECTION) int ` + name + `(struct xdp_context *ctx)
{ if (adjust_head(ctx, 20)) return XDP_DROP; ` + windowsCount + "}\n"
	}
	for name, c := range map[string]struct {
		source, profile, want string
		flags                 []string
	}{
		"a balancer":                       {source("lb"), "xdp", "", []string{"-DPLATFORM_WINDOWS_XDP"}},
		"a decapsulation":                  {source("decap_xdp"), "xdp", "decap_xdp cannot work", []string{"-DPLATFORM_WINDOWS_XDP"}},
		"a decapsulation in the test hook": {source("decap_xdp"), "efw-0.21", "", nil},
		"an object of the other profile":   {source("lb"), "xdp", "section xdp_test", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantFault(t, compileForWindows(t, c.source, c.flags...), c.profile, c.want)
		})
	}
}

// Parts of the small programs.
const (
	windowsStages = `SEC("xdp_test") int next(struct xdp_context *ctx) { return ctx->ingress_ifindex ? XDP_PASS : XDP_DROP; }
struct { __uint(type, 3); __uint(max_entries, 2); __type(key, __u32); __array(values, int(struct xdp_context *)); } stages SEC(".maps") =
	{ .values = { next, next } };
`
	windowsHead = `#define PLATFORM_WINDOWS
#include "platform/platform.h"
char _license[] SEC("license") = "GPL";
`
	windowsCounter = `struct { __uint(type, 2); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } counter SEC(".maps");
`
	windowsCount = `__u32 key = 0; __u64 *value = map_lookup(&counter, &key); if (value) (*value)++; return XDP_PASS;`
)

func compileForWindows(t *testing.T, source string, flags ...string) []byte {
	t.Helper()
	compiler, err := exec.LookPath("clang-19")
	if err != nil {
		t.Skip("needs clang-19: compiles small programs with one fault each")
	}
	here, err := os.Getwd()
	must(t, err)
	folder := t.TempDir()
	file, object := filepath.Join(folder, "case.c"), filepath.Join(folder, "case.o")
	must(t, os.WriteFile(file, []byte(source), 0o600))
	args := append([]string{"-target", "bpfel", "-O2", "-g", "-mcpu=v2", "-w", "-I", here, "-c", file, "-o", object}, flags...)
	if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command("llvm-strip-19", "-g", object).CombinedOutput(); err != nil {
		t.Fatalf("llvm-strip-19: %v\n%s", err, out)
	}
	data, err := os.ReadFile(object)
	must(t, err)
	return data
}

// wantFault checks that an object has a fault that begins so, or none at all.
func wantFault(t *testing.T, object []byte, profile, want string) {
	t.Helper()
	faults, err := windowsFaults(object, windowsProfiles[profile])
	must(t, err)
	if want == "" && len(faults) > 0 {
		t.Errorf("faults in a program that has none: %q", faults)
	}
	if want != "" && !slices.ContainsFunc(faults, func(f string) bool { return strings.HasPrefix(f, want) }) {
		t.Errorf("faults %q, want %q", faults, want)
	}
}

func TestKeysHaveNoUnnamedPadding(t *testing.T) {
	spec, err := LoadLB()
	must(t, err)
	for name, m := range spec.Maps {
		if at, padded := padding(m.Key); padded {
			t.Errorf("map %s: key %v has unnamed padding at byte %d", name, m.Key, at)
		}
		if at, padded := padding(m.Value); m.Value != nil && padded {
			t.Errorf("map %s: value %v has unnamed padding at byte %d", name, m.Value, at)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
