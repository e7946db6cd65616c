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

/* What has the same number on both. */
#define MAP_HASH 1
#define MAP_ARRAY 2
#define MAP_PROG_ARRAY 3

#define MAP_UPDATE_ANY 0
#define MAP_UPDATE_NOEXIST 1

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)2;
static long (*const map_delete)(void *map, const void *key) = (void *)3;

#ifdef PLATFORM_WINDOWS
#include "windows.h"
#else
#include "linux.h"
#endif
