/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * checksum.h - Internet checksums, changed by what changed (RFC 1624): cheaper
 * than summing anew, and a checksum that came in wrong goes out wrong, so that
 * the receiver still notices. One's complement sums do not mind byte order, so
 * all words are taken as they lie in the packet.
 */
#pragma once

#include "packet.h"

static __always_inline __u16 checksum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* What the checksum's complement gains when a word changes: ~m + m' of the RFC. */
static __always_inline __u32 checksum_delta16(__u16 from, __u16 to)
{
	return (__u16)~from + to;
}

static __always_inline __u32 checksum_delta32(__u32 from, __u32 to)
{
	return checksum_delta16(from, to) + checksum_delta16(from >> 16, to >> 16);
}

static __always_inline __u32 checksum_delta_address(const struct address *from,
						    const struct address *to,
						    const enum family family)
{
	__u32 delta = checksum_delta32(from->word[0], to->word[0]);

	if (family == FAMILY_IPV6)
		delta += checksum_delta32(from->word[1], to->word[1]) +
			 checksum_delta32(from->word[2], to->word[2]) +
			 checksum_delta32(from->word[3], to->word[3]);
	return delta;
}

/* HC' = ~(~HC + ~m + m'), equation 3 of RFC 1624. */
static __always_inline __u16 checksum_apply(__u16 checksum, __u32 delta)
{
	return checksum_fold((__u16)~checksum + delta);
}

/* In UDP 0 says "not summed" and stays; a sum that comes out as 0 is sent as 0xffff (RFC 768). */
static __always_inline __u16 checksum_apply_udp(__u16 checksum, __u32 delta)
{
	if (!checksum)
		return 0;
	checksum = checksum_apply(checksum, delta);
	return checksum ? checksum : 0xffff;
}

/* The sum, not folded, of an address, as a pseudo header has it. */
static __always_inline __u32 checksum_address(const struct address *a)
{
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (a->word[i] & 0xffff) + (a->word[i] >> 16);
	return sum;
}
