/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * platform.h - the one place where the source asks which system it is compiled
 * for. Each header defines the same names; nothing else may differ.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed int __s32;
typedef signed long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef _Bool bool;
#define true 1
#define false 0

/*
 * Maps are described to the loaders by the BTF of a struct whose members'
 * types carry the numbers, libbpf's convention, which eBPF for Windows shares.
 */
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) __typeof__(val) *name
#define __array(name, val) __typeof__(val) *name[]

#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))

#ifdef PLATFORM_WINDOWS
#include "windows.h"
#else
#include "linux.h"
#endif
