package winvm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cHead is what the C sources of these tests have in common: Windows' numbers.
const cHead = `
typedef unsigned char __u8; typedef unsigned int __u32; typedef unsigned long long __u64;
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) __typeof__(val) *name
#define __array(name, val) __typeof__(val) *name[]
#define __noinline __attribute__((noinline))
struct xdp_context { void *data; void *data_end; __u64 data_meta; __u32 ingress_ifindex; };
static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const tail_call)(void *ctx, void *map, __u32 index) = (void *)5;
char _license[] SEC("license") = "GPL";
`

// compile makes an object of C, as bpf/gen.go makes those that ship.
func compile(t testing.TB, source string) []byte {
	t.Helper()
	compiler, err := exec.LookPath("clang-19")
	if err != nil {
		t.Skip("needs clang-19: compiles small objects to load")
	}
	folder := t.TempDir()
	in, out := filepath.Join(folder, "test.c"), filepath.Join(folder, "test.o")
	must(t, os.WriteFile(in, []byte(cHead+source), 0o600))
	if text, err := exec.Command(compiler, "-target", "bpfel", "-O2", "-g", "-mcpu=v2", "-w", "-c", in, "-o", out).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	object, err := os.ReadFile(out)
	must(t, err)
	return object
}

func loadC(t testing.TB, options Options, source string) *Machine {
	t.Helper()
	m, err := Load(compile(t, source), options)
	must(t, err)
	return m
}

func action(t testing.TB, m *Machine, program string) Action {
	t.Helper()
	p, err := m.Program(program)
	must(t, err)
	result, err := m.Run(p, frame60())
	must(t, err)
	return result.Action
}

func TestLoadLinksSeveralProgramsAndTheirFunctions(t *testing.T) {
	m := loadC(t, fixed(), `
__noinline int global_function(int n) { asm volatile("" : "+r"(n)); return n * 3; }
static __noinline int static_function(int n) { asm volatile("" : "+r"(n)); return global_function(n) + 1; }
SEC("xdp_test") int first(struct xdp_context *ctx) { return static_function(5); }
SEC("xdp_test") int second(struct xdp_context *ctx) { return global_function(ctx->data_end - ctx->data); }
SEC("xdp_test/other") int third(struct xdp_context *ctx) { return 2; }
`)
	for program, want := range map[string]Action{"first": 16, "second": 180, "third": 2} {
		if got := action(t, m, program); got != want {
			t.Errorf("%s: %d, want %d", program, got, want)
		}
	}
	if len(m.Programs()) != 3 {
		t.Errorf("%d programs: the functions of .text are none", len(m.Programs()))
	}
	if _, err := m.Program("global_function"); err == nil || !strings.Contains(err.Error(), `"first"`) {
		t.Errorf("%v", err)
	}
}

func TestLoadReadsEveryKindOfMap(t *testing.T) {
	m := loadC(t, Options{MaxEntries: map[string]uint32{"plain": 77, "nested.": 9}}, `
struct key { __u32 length; __u8 data[4]; };
struct inner { __uint(type, 2); __uint(max_entries, 8); __type(key, __u32); __type(value, __u64); };
struct { __uint(type, 1); __uint(max_entries, 10); __type(key, __u32); __type(value, struct key); } plain SEC(".maps");
struct { __uint(type, 9); __uint(max_entries, 11); __type(key, struct key); __uint(value_size, 5); } trie SEC(".maps");
struct { __uint(type, 7); __uint(max_entries, 12); __type(key, __u32); __array(values, struct inner); } nested SEC(".maps");
struct { __uint(type, 6); __uint(max_entries, 13); __uint(key_size, 16); __array(values, struct { __uint(type, 8); __uint(max_entries, 2); __uint(key_size, 4); __uint(value_size, 4); }); } hashes SEC(".maps");
struct { __uint(type, 13); __uint(max_entries, 4096); } ring SEC(".maps");
struct { __uint(type, 3); __uint(max_entries, 4); __uint(key_size, 4); __uint(value_size, 4); } calls SEC(".maps");
SEC("xdp_test") int program(struct xdp_context *ctx) {
	__u32 key = 0;
	return map_lookup(&plain, &key) || map_lookup(&trie, &key) || map_lookup(&nested, &key) || map_lookup(&hashes, &key) || map_lookup(&ring, &key) || map_lookup(&calls, &key);
}
`)
	for name, want := range map[string]MapSpec{
		"plain":  {"plain", Hash, 4, 8, 77, nil},
		"trie":   {"trie", LPMTrie, 8, 5, 11, nil},
		"nested": {"nested", ArrayOfMaps, 4, 4, 12, &MapSpec{"nested.", Array, 4, 8, 9, nil}},
		"hashes": {"hashes", HashOfMaps, 16, 4, 13, &MapSpec{"hashes.", LRUHash, 4, 4, 2, nil}},
		"ring":   {"ring", RingBuf, 0, 0, 4096, nil},
		"calls":  {"calls", ProgArray, 4, 4, 4, nil},
	} {
		mp, err := m.Map(name)
		must(t, err)
		got := mp.MapSpec
		gotInner, wantInner := got.Inner, want.Inner
		got.Inner, want.Inner = nil, nil
		if got != want || (gotInner == nil) != (wantInner == nil) || gotInner != nil && *gotInner != *wantInner {
			t.Errorf("%s: %+v (%+v), want %+v (%+v)", name, got, gotInner, want, wantInner)
		}
	}
}

func TestLoadInitializesMapsOfProgramsAndOfMaps(t *testing.T) {
	m := loadC(t, fixed(), `
int callee(struct xdp_context *ctx);
struct { __uint(type, 3); __uint(max_entries, 4); __uint(key_size, 4); __array(values, int(void *)); } calls SEC(".maps") = { .values = { [2] = (void *)callee } };
struct inner { __uint(type, 2); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); } one SEC(".maps"), two SEC(".maps");
struct { __uint(type, 7); __uint(max_entries, 4); __type(key, __u32); __array(values, struct inner); } nested SEC(".maps") = { .values = { [1] = &one, [3] = &two } };
SEC("xdp_test") int callee(struct xdp_context *ctx) {
	__u32 key = 3, zero = 0, *value;
	void *inner = map_lookup(&nested, &key);
	if (!inner || !(value = map_lookup(inner, &zero))) return 99;
	return *value;
}
SEC("xdp_test") int program(struct xdp_context *ctx) { tail_call(ctx, &calls, 2); return 98; }
`)
	two, err := m.Map("two")
	must(t, err)
	must(t, two.Update(u32(0), u32(42), Any))
	if got := action(t, m, "program"); got != 42 {
		t.Errorf("%d, want 42", got)
	}
	nested, err := m.Map("nested")
	must(t, err)
	for index, want := range []string{"", "one", "", "two"} {
		inner, err := nested.LookupMap(u32(uint32(index)))
		if (err == nil) != (want != "") || err == nil && inner.Name() != want {
			t.Errorf("at %d: %v, want %q", index, err, want)
		}
	}
}

func TestLoadMakesMapsOfGlobalVariables(t *testing.T) {
	m := loadC(t, fixed(), `
static volatile __u32 seen; static volatile __u32 limit = 3; static volatile const __u8 table[4] = {1, 2, 3, 4};
SEC("xdp_test") int program(struct xdp_context *ctx) { if (++seen > limit) return 90; return table[seen & 3]; }
`)
	for i, want := range []Action{2, 3, 4, 90} {
		if got := action(t, m, "program"); got != want {
			t.Errorf("run %d: %d, want %d", i, got, want)
		}
	}
	bss, err := m.Map(".bss")
	must(t, err)
	if value, err := bss.Lookup(u32(0)); err != nil || !bytes.Equal(value, u32(4)) {
		t.Errorf(".bss: %x, %v", value, err)
	}
}

func TestLoadRefusesWhatItCannotLink(t *testing.T) {
	for name, c := range map[string]struct{ source, want string }{
		"a function that is elsewhere": {`int missing(int n); SEC("xdp_test") int program(struct xdp_context *ctx) { return missing(1); }`, "no function begins"},
		"a variable that is elsewhere": {`extern int missing; SEC("xdp_test") int program(struct xdp_context *ctx) { return missing; }`, "an address in section"},
		"a map type of Linux": {`struct { __uint(type, 27); __uint(max_entries, 4096); } ring SEC(".maps");
			SEC("xdp_test") int program(struct xdp_context *ctx) { return (long)&ring; }`, "type 27 is none of Windows'"},
		"a function's address": {`static __noinline int callee(void) { return 1; } SEC("xdp_test") int program(struct xdp_context *ctx) { return (long)&callee; }`, "an address in section .text"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(compile(t, c.source), fixed())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if _, err := Load(compile(t, `struct { __uint(type, 2); __uint(max_entries, 4); __type(key, __u32); __type(value, __u32); } map SEC(".maps");
		SEC("xdp_test") int program(struct xdp_context *ctx) { return (long)&map; }`), Options{MaxEntries: map[string]uint32{"mep": 1}}); err == nil {
		t.Error("a size for a map that is not there: loaded")
	}
	if _, err := Load([]byte("no ELF"), fixed()); err == nil {
		t.Error("no ELF: loaded")
	}
	if _, err := Load(nil, Options{Profile: 7}); err == nil {
		t.Error("profile 7: loaded")
	}
}

func TestProfilesHaveNames(t *testing.T) {
	for _, p := range []Profile{EFW021, XDP} {
		if got, err := ParseProfile(p.String()); err != nil || got != p {
			t.Errorf("%s: %v, %v", p, got, err)
		}
	}
	if _, err := ParseProfile("xdp_test"); err == nil {
		t.Error("xdp_test is no profile")
	}
}
