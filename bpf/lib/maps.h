/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * maps.h - the balancer's maps. All configuration goes through them: the
 * same object serves every mode and interface, and nothing is compiled on a
 * node. Names are the pins' names. Sizes are defaults, which together take less
 * than 64 MiB; on Linux the agent may set others before it loads, on Windows
 * they are fixed in the image.
 *
 * Flows are in two tables: `new_flows` until the client's second packet, `flows`
 * from then on, and so are SNAT's ways back. Each is an LRU of its own, so that a
 * flood of first packets pushes out other first packets and nothing else.
 *
 * All functions are inlined: of native images, bpf2c of efW 0.21.1 gives a
 * function that is called neither maps nor helpers nor a stack of its own
 * (bpf_code_generator.cpp). What has no room on the stack is in `scratch`.
 */
#pragma once

#include "types.h"

#define MAX_SERVICES 4096
#define MAX_BACKENDS 16384
#define MAX_FLOWS4 131072
#define MAX_FLOWS6 32768
#define MAX_NEW_FLOWS4 32768
#define MAX_NEW_FLOWS6 8192
#define MAX_AFFINITIES 16384
#define MAX_SOURCES 4096
#define MAX_FRAGMENTS 4096
#define EVENT_BYTES (256 * 1024)
/* Slots of a Maglev table: Cilium's default. On Linux a table may be of another size. */
#define MAGLEV_TABLE_SIZE 16381
/* Bits of vip_filter, 64 a word. */
#define VIP_FILTER_WORDS 1024

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_config);
} config SEC(".maps");

/*
 * A bit for each address that may be ours, at its hash (family.h). Whatever the
 * number of services, a packet to another address costs one look here.
 */
struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, VIP_FILTER_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} vip_filter SEC(".maps");

/* Twice as many entries as services: each may have a VIP of its own, which is one, too. */
struct {
	__uint(type, MAP_HASH);
	__uint(max_entries, 2 * MAX_SERVICES);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

/* Indexed by backend id; id 0 is never given out. */
struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/*
 * service.slot -> that service's Maglev table, two slots of it in a value, the even one
 * in the lower half: Linux gives each value of an array 8 bytes, filled or not.
 * Replacing the inner map is one write, so a packet sees the old table or the new
 * one, never a mixture.
 */
struct maglev_table {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, (MAGLEV_TABLE_SIZE + 1) / 2);
	MAP_OF_ANY_SIZE
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, MAP_HASH_OF_MAPS);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__array(values, struct maglev_table);
} maglev SEC(".maps");

#define FLOW_TABLE(name, key_type, value_type, size)                                              \
	struct {                                                                                   \
		__uint(type, MAP_LRU_HASH);                                                        \
		__uint(max_entries, size);                                                         \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
	} name SEC(".maps")

/* The first packets of floods end here, so entering one has to be cheap. */
#define NEW_FLOW_TABLE(name, key_type, value_type, size)                                          \
	struct {                                                                                   \
		__uint(type, MAP_LRU_HASH);                                                        \
		__uint(max_entries, size);                                                         \
		MAP_LRU_OF_EACH_CPU                                                                \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
	} name SEC(".maps")

FLOW_TABLE(flows4, struct flow4, struct ct_entry, MAX_FLOWS4);
FLOW_TABLE(flows6, struct flow, struct ct_entry, MAX_FLOWS6);
NEW_FLOW_TABLE(new_flows4, struct flow4, struct ct_entry, MAX_NEW_FLOWS4);
NEW_FLOW_TABLE(new_flows6, struct flow, struct ct_entry, MAX_NEW_FLOWS6);
FLOW_TABLE(nat4, struct flow4, struct nat_entry, MAX_FLOWS4);
FLOW_TABLE(nat6, struct flow, struct nat_entry, MAX_FLOWS6);
NEW_FLOW_TABLE(new_nat4, struct flow4, struct nat_entry, MAX_NEW_FLOWS4);
NEW_FLOW_TABLE(new_nat6, struct flow, struct nat_entry, MAX_NEW_FLOWS6);

FLOW_TABLE(affinities, struct affinity_key, struct affinity, MAX_AFFINITIES);
FLOW_TABLE(fragments, struct fragment_key, struct fragment, MAX_FRAGMENTS);

/* The sources that services with SERVICE_RANGES allow; the values are the agent's. */
struct {
	__uint(type, MAP_LPM_TRIE);
	__uint(max_entries, MAX_SOURCES);
	MAP_NO_PREALLOC
	__type(key, struct source_key);
	__type(value, __u32);
} sources SEC(".maps");

struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct traffic);
} service_stats SEC(".maps");

struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct traffic);
} backend_stats SEC(".maps");

struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASON_MAX);
	__type(key, enum drop_reason);
	__type(value, __u64);
} drops SEC(".maps");

struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, ICMP_DEED_MAX);
	__type(key, enum icmp_deed);
	__type(value, __u64);
} icmp_packets SEC(".maps");

struct {
	__uint(type, MAP_RINGBUF);
	__uint(max_entries, EVENT_BYTES);
} events SEC(".maps");

/* A program is not interrupted by another one on its CPU, so this is its own while it runs. */
struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct request);
} scratch SEC(".maps");
