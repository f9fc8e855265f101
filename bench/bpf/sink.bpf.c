/* Counts the generator's frames and drops all: the measuring end. Neighbour discovery and the like,
 * which the kernel sends too, would hide as many lost ones, and are counted apart. Of frames with a
 * time tag it knows how long they took, and whether they came twice or out of order. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "tag.h"

#define BUCKETS 2240     /* delays up to 2^40 ns */
#define SEEN (1 << 16)   /* clocks of the last tagged frames */

enum {
	FRAMES,
	BYTES,
	OTHERS,     /* frames that are not the generator's */
	TAGGED,
	DUPLICATES, /* of tagged ones */
	REORDERED,  /* tagged before one that came earlier */
	SKEWED,     /* tagged in the future: by another host's clock */
	COUNTS,
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} arrived SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} delays SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SEEN);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

/* The first tagged frame since user space wrote zeros. */
struct first {
	__u64 arrived;
	__u64 sent;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct first);
} first SEC(".maps");

/* The latest tag; queues on several CPUs write it without a lock. */
static __u64 latest;

static __always_inline void count(__u32 what, __u64 more)
{
	__u64 *number = bpf_map_lookup_elem(&arrived, &what);

	if (number)
		*number += more;
}

/* UDP over IPv6, in a tunnel or not. */
static __always_inline int is_ours(void *data, void *end)
{
	struct ethhdr *link = data;
	struct ipv6hdr *native = (void *)(link + 1);
	struct iphdr *outer = (void *)(link + 1);

	if ((void *)(native + 1) > end)
		return 0;
	if (link->h_proto == bpf_htons(ETH_P_IPV6))
		return native->nexthdr == IPPROTO_UDP;
	return link->h_proto == bpf_htons(ETH_P_IP) &&
	       (outer->protocol == IPPROTO_IPV6 || outer->protocol == IPPROTO_UDP);
}

/* 64 buckets for every power of two: none is wider than a 64th of its delay. */
static __always_inline __u32 bucket(__u64 delay)
{
	__u64 rest = delay;
	__u32 top = 0;

	if (delay < 128)
		return delay;
	if (delay >> 40)
		return BUCKETS - 1;
#pragma unroll
	for (int step = 32; step; step >>= 1) {
		if (rest >> step) {
			top += step;
			rest >>= step;
		}
	}
	return (top - 6) * 64 + (delay >> (top - 6));
}

static __always_inline void time(__u64 tag)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 zero = 0;
	struct first *earliest = bpf_map_lookup_elem(&first, &zero);
	__u32 place = (__u32)(tag * 0x9e3779b97f4a7c15ull >> 32) & (SEEN - 1);
	__u64 *before = bpf_map_lookup_elem(&seen, &place);

	if (earliest && !earliest->arrived) {
		earliest->sent = tag;
		earliest->arrived = now;
	}
	count(TAGGED, 1);
	if (before && *before == tag) {
		count(DUPLICATES, 1);
		return;
	}
	if (before)
		*before = tag;
	if (tag < latest)
		count(REORDERED, 1);
	else
		latest = tag;
	if (now < tag) {
		count(SKEWED, 1);
		return;
	}
	__u32 where = bucket(now - tag);
	__u64 *number = bpf_map_lookup_elem(&delays, &where);

	if (number)
		(*number)++;
}

SEC("xdp")
int sixferry_sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 len = ctx->data_end - ctx->data;

	if (!is_ours(data, end)) {
		count(OTHERS, 1);
		return XDP_DROP;
	}
	count(FRAMES, 1);
	count(BYTES, len);
	__u32 offset = (len - TAG_LEN) & 0xfff;
	void *tag = data + offset;

	if (tag + TAG_LEN <= end && *(__u32 *)tag == TAG_MAGIC)
		time(*(__u64 *)(tag + 4));
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
