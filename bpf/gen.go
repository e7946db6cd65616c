package bpf

// The objects are built with the clang of CLANG_VERSION and committed;
// generate_test.go says whether they still are what the source gives. The Linux
// objects go through bpf2go, which writes their Go types as well. The Windows
// ones share those types, so they only need the compiler. -mcpu=v2: version 3's
// 32-bit compares lose bounds in PREVAIL, the verifier of eBPF for Windows; nor does it
// follow a call whose map is one of two, which is what merged tails of branches make.

//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -mcpu=v2 -mllvm -enable-tail-merge=false -fno-strict-aliasing -Wall -Wextra -Werror" -type drop_reason -type lb_mode -type lb_encap -type backend_state -type service_flag -type ct_flag -type event_kind -type icmp_deed -type stage -type vlan_policy -type flow_event -type address -type way_back -type event_budget -type layout LB lb.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -mcpu=v2 -mllvm -enable-tail-merge=false -fno-strict-aliasing -Wall -Wextra -Werror" DecapXDP decap_xdp.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -mcpu=v2 -mllvm -enable-tail-merge=false -fno-strict-aliasing -Wall -Wextra -Werror" DecapTC decap_tc.c
//go:generate clang-19 -DPLATFORM_WINDOWS -O2 -g -mcpu=v2 -mllvm -enable-tail-merge=false -fno-strict-aliasing -Wall -Wextra -Werror -target bpfel -fno-ident -fdebug-compilation-dir . -c lb.c -o windows/efw-0.21/lb.o
//go:generate clang-19 -DPLATFORM_WINDOWS -O2 -g -mcpu=v2 -mllvm -enable-tail-merge=false -fno-strict-aliasing -Wall -Wextra -Werror -target bpfel -fno-ident -fdebug-compilation-dir . -c decap_xdp.c -o windows/efw-0.21/decap_xdp.o
//go:generate clang-19 -DPLATFORM_WINDOWS -DPLATFORM_WINDOWS_XDP -O2 -g -mcpu=v2 -mllvm -enable-tail-merge=false -fno-strict-aliasing -Wall -Wextra -Werror -target bpfel -fno-ident -fdebug-compilation-dir . -c lb.c -o windows/xdp/lb.o
//go:generate llvm-strip-19 -g windows/efw-0.21/lb.o windows/efw-0.21/decap_xdp.o windows/xdp/lb.o
//go:generate sh -c "clang-19 --version | head -n 1 > CLANG_VERSION"
