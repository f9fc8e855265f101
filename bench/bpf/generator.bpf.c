/* Traffic source for live frames (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES): writes the
 * headers of each frame anew, for its page may have been through a device under test before, gives
 * it the addresses of its flow and redirects it out of an interface. Paced here, since nothing outside
 * can stop a running call and go on: a frame that is not due yet is dropped. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define HEADER_WORDS 7 /* up to the hop limit of the inner header, the last field relays change */
#define TICK_SHIFT 6   /* a tick is 1/64 of a nanosecond */
#define PAUSED (~0ull)
#define CATCH_UP 2048  /* frames; half of what the rings of the device under test hold */

const volatile __u32 egress;        /* interface index */
const volatile __u32 tunnelled;     /* 1: 6in4, 0: plain IPv6 */
const volatile __u32 flow_mask;     /* number of flows less 1; a power of two less 1 */
const volatile __u32 first_peer;    /* IPv4 address of the first flow's tunnel, host order */
const volatile __u32 checksum_base; /* sum of the IPv4 header without source and checksum */
const volatile __u64 header[HEADER_WORDS];

/* Good frames; frames of the flood. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} sent SEC(".maps");

/* Ticks between two frames; 0: as fast as it goes; PAUSED: none. Then whether seven of eight frames
 * are such as a relay drops. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} gap SEC(".maps");

/* When the next frame may go. One program runs, on one CPU. */
static __u64 due;
/* Which frame of eight comes next. */
static __u32 turn;

/* What strangers and misbehaving users send; 0 is a frame as it should be. */
enum {
	GOOD,
	LAST_HOP,      /* inner hop limit 1 */
	INNER_SPOOF,   /* another user's source */
	OUTER_SPOOF,   /* from nobody known */
	FIRST_FRAGMENT,
	CONGESTED,     /* outer CE on an inner packet that is not ECN-capable */
	MULTICAST,     /* inner source */
	LENGTH,        /* longer inside than outside */
};

/* A generator that lost its CPU for a while catches up, within reason. */
static __always_inline int is_due(__u64 ticks)
{
	if (!ticks)
		return 1;
	if (ticks == PAUSED)
		return 0;
	__u64 now = bpf_ktime_get_ns() << TICK_SHIFT;

	if (now < due)
		return 0;
	if (due + ticks * CATCH_UP < now)
		due = now - ticks * CATCH_UP;
	due += ticks;
	return 1;
}

/* Bits 80 to 111 of an address: the /48 of the flow. */
static __always_inline void set_prefix(struct in6_addr *address, __u32 flow)
{
	address->s6_addr16[1] = bpf_htons(flow >> 16);
	address->s6_addr16[2] = bpf_htons(flow & 0xffff);
}

SEC("xdp")
int sixferry_generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	__u32 one = 1;
	__u64 *number = bpf_map_lookup_elem(&sent, &zero);
	__u64 *flooded = bpf_map_lookup_elem(&sent, &one);
	__u64 *ticks = bpf_map_lookup_elem(&gap, &zero);
	__u64 *flood = bpf_map_lookup_elem(&gap, &one);
	__u32 kind = GOOD;

	if (!number || !flooded || !ticks || !flood ||
	    data + sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + 8 > end)
		return XDP_ABORTED;
	if (!is_due(*ticks))
		return XDP_DROP;
	if (*flood) {
		kind = turn++ & 7;
		if (kind != GOOD)
			number = flooded;
	}
	/* an odd multiplier visits every flow, in an order no prefetcher follows */
	__u32 flow = ((__u32)(*number)++ * 2654435761u >> 7) & flow_mask;
	__u64 *words = data;
#pragma unroll
	for (int i = 0; i < HEADER_WORDS; i++)
		words[i] = header[i];
	if (tunnelled) {
		struct iphdr *outer = data + sizeof(struct ethhdr);
		struct ipv6hdr *inner = (void *)(outer + 1);

		if ((void *)(inner + 1) > end)
			return XDP_ABORTED;
		__u32 source = kind == OUTER_SPOOF ? first_peer - 1 - flow : first_peer + flow;
		__u32 sum = checksum_base + (source >> 16) + (source & 0xffff);

		if (kind == FIRST_FRAGMENT) {
			__u32 id = *number & 0xffff;

			outer->id = bpf_htons(id);
			outer->frag_off = bpf_htons(0x2000);
			sum += id + 0x2000;
		} else if (kind == CONGESTED) {
			outer->tos = 3;
			sum += 3;
		}
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		outer->saddr = bpf_htonl(source);
		outer->check = bpf_htons((__u16)~sum);
		set_prefix(&inner->saddr, kind == INNER_SPOOF ? flow ^ 1 : flow);
		if (kind == LAST_HOP)
			inner->hop_limit = 1;
		else if (kind == MULTICAST)
			inner->saddr.s6_addr[0] = 0xff;
		else if (kind == LENGTH)
			inner->payload_len = bpf_htons(0xffff);
	} else {
		struct ipv6hdr *packet = data + sizeof(struct ethhdr);

		set_prefix(&packet->daddr, flow);
	}
	return bpf_redirect(egress, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
