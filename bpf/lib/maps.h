/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * maps.h - the balancer's maps. All configuration goes through them: the
 * same object serves every mode and interface, and nothing is compiled on a
 * node. Names are the pins' names. Sizes are defaults; on Linux the agent may
 * set others before it loads, on Windows they are fixed in the image.
 */
#pragma once

#include "types.h"

#define MAX_SERVICES 4096
#define MAX_BACKENDS 16384
#define MAX_FLOWS 131072
/* Slots of a Maglev table: Cilium's default. On Linux a table may be of another size. */
#define MAGLEV_TABLE_SIZE 16381

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_config);
} config SEC(".maps");

struct {
	__uint(type, MAP_HASH);
	__uint(max_entries, MAX_SERVICES);
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
 * service.slot -> that service's Maglev table. Replacing the inner map is one
 * write, so a packet sees the old table or the new one, never a mixture.
 */
struct maglev_table {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, MAGLEV_TABLE_SIZE);
	MAP_OF_ANY_SIZE
	__type(key, __u32);
	__type(value, __u32);
};

struct {
	__uint(type, MAP_HASH_OF_MAPS);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__array(values, struct maglev_table);
} maglev SEC(".maps");

struct {
	__uint(type, MAP_HASH);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __be32);
	__type(value, struct neighbour);
} neighbours SEC(".maps");

struct {
	__uint(type, MAP_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct ct_entry);
} conntrack SEC(".maps");

struct {
	__uint(type, MAP_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct nat_entry);
} nat SEC(".maps");

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
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");
