/* Traffic source for live frames (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES): writes the
 * headers of each frame anew, for its page may have been through a device under test before, gives
 * it the addresses of its flow and redirects it out of an interface. Paced here, since nothing outside
 * can stop a running call and go on: a frame that is not due yet is dropped. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "tag.h"

#define HEADER_WORDS 7 /* up to the hop limit of the inner header, the last field relays change */
#define TICK_SHIFT 6   /* a tick is 1/64 of a nanosecond */
#define PAUSED (~0ull)
#define SLOTS 64

const volatile __u32 egress;        /* interface index */
const volatile __u32 outer_len;     /* of IPv4 and UDP: 0 is plain IPv6 */
const volatile __u32 flows;
const volatile __u32 first_peer;    /* IPv4 address of the first flow's tunnel, host order */
const volatile __u32 checksum_base; /* sum of the IPv4 header without source, length and checksum */
const volatile __u32 flow_at;       /* offset of the 32 bits that tell flows apart inside */
const volatile __u32 flow_base;     /* those of the first flow */
const volatile __u32 flow_mask;     /* all ones where they are written inverted */
const volatile __u32 routed;        /* 1: the inner address comes from `routes` */
const volatile __u32 tag_every;     /* each so many frames one has a time tag; 0: none */
const volatile __u32 catch_up;      /* frames that a stalled generator may be late with */
const volatile __u32 slot_mask;     /* 0: all frames have the length they come with */
const volatile __u16 slot_len[SLOTS];
const volatile __u64 header[HEADER_WORDS];

/* Upper halves of inner addresses, one for each flow, if there is no rule for them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} routes SEC(".maps");

/* Good frames; frames of the flood; tagged frames; bytes of good ones. One program runs, on whatever
 * CPU its thread is. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} sent SEC(".maps");

/* What to do from now on. */
enum {
	GAP,   /* ticks between two frames; 0: as fast as it goes; PAUSED: none */
	FLOOD, /* whether seven of eight frames are such as a relay drops */
	LIMIT, /* good frames in all */
	ORDERS,
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ORDERS);
	__type(key, __u32);
	__type(value, __u64);
} orders SEC(".maps");

/* When the next frame may go. */
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

static __always_inline __u64 *at(void *map, __u32 index)
{
	return bpf_map_lookup_elem(map, &index);
}

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
	if (due + ticks * catch_up < now)
		due = now - ticks * catch_up;
	due += ticks;
	return 1;
}

static __always_inline void set_half(void *at, __u16 high, __u16 low)
{
	__u16 *halves = at;

	halves[0] = bpf_htons(high);
	halves[1] = bpf_htons(low);
}

/* The IPv4 header, and UDP's after it. */
static __always_inline int set_outer(struct xdp_md *ctx, __u32 len, __u32 flow, __u32 kind, __u32 id)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *outer = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(outer + 1);

	if ((void *)(udp + 1) > end)
		return -1;
	__u32 source = kind == OUTER_SPOOF ? first_peer - 1 - flow : first_peer + flow;
	__u32 total = len - sizeof(struct ethhdr);
	__u32 sum = checksum_base + (source >> 16) + (source & 0xffff) + total;

	if (kind == FIRST_FRAGMENT) {
		outer->id = bpf_htons(id & 0xffff);
		outer->frag_off = bpf_htons(0x2000);
		sum += (id & 0xffff) + 0x2000;
	} else if (kind == CONGESTED) {
		outer->tos = 3;
		sum += 3;
	}
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	outer->saddr = bpf_htonl(source);
	outer->tot_len = bpf_htons((__u16)total);
	outer->check = bpf_htons((__u16)~sum);
	if (outer_len > sizeof(*outer))
		udp->len = bpf_htons((__u16)(total - sizeof(*outer)));
	return 0;
}

/* The inner address that tells flows apart, lengths, and what is wrong with it in a flood. */
static __always_inline int set_inner(struct xdp_md *ctx, __u32 len, __u32 flow, __u32 kind)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *inner = data + sizeof(struct ethhdr) + outer_len;
	struct udphdr *udp = (void *)(inner + 1);
	__u16 payload = len - sizeof(struct ethhdr) - outer_len - sizeof(*inner);
	void *place = data + flow_at;

	if ((void *)(udp + 1) > end || place - 2 < data || place + 6 > end)
		return -1;
	inner->payload_len = bpf_htons(payload);
	if (slot_mask)
		udp->len = bpf_htons(payload);
	if (routed) {
		__u64 *bits = at(&routes, flow);

		if (!bits)
			return -1;
		set_half(place - 2, *bits >> 48, *bits >> 32);
		set_half(place + 2, *bits >> 16, *bits);
	} else {
		__u32 word = (flow_base + (kind == INNER_SPOOF ? flow ^ 1 : flow)) ^ flow_mask;

		set_half(place, word >> 16, word);
	}
	if (kind == LAST_HOP)
		inner->hop_limit = 1;
	else if (kind == MULTICAST)
		inner->saddr.s6_addr[0] = 0xff;
	else if (kind == LENGTH)
		inner->payload_len = bpf_htons(0xffff);
	return 0;
}

/* The tag, or no tag: the page may still hold one. */
static __always_inline int set_tag(struct xdp_md *ctx, __u32 len, __u32 number)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 offset = (len - TAG_LEN) & 0xfff;
	void *tag = data + offset;

	if (tag + TAG_LEN > end)
		return -1;
	if (number % tag_every) {
		*(__u32 *)tag = 0;
		return 0;
	}
	__u64 *tagged = at(&sent, 2);

	if (tagged)
		(*tagged)++;
	*(__u32 *)tag = TAG_MAGIC;
	*(__u64 *)(tag + 4) = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int set_header(struct xdp_md *ctx)
{
	__u64 *words = (void *)(long)ctx->data;

	if ((void *)(words + HEADER_WORDS) > (void *)(long)ctx->data_end)
		return -1;
#pragma unroll
	for (int i = 0; i < HEADER_WORDS; i++)
		words[i] = header[i];
	return 0;
}

SEC("xdp")
int sixferry_generate(struct xdp_md *ctx)
{
	__u64 *number = at(&sent, 0);
	__u64 *flooded = at(&sent, 1);
	__u64 *bytes = at(&sent, 3);
	__u64 *ticks = at(&orders, GAP);
	__u64 *flood = at(&orders, FLOOD);
	__u64 *limit = at(&orders, LIMIT);
	__u32 len = ctx->data_end - ctx->data;
	__u32 kind = GOOD;

	if (!number || !flooded || !bytes || !ticks || !flood || !limit)
		return XDP_ABORTED;
	if (*number >= *limit || !is_due(*ticks))
		return XDP_DROP;
	if (*flood) {
		kind = turn++ & 7;
		if (kind != GOOD)
			number = flooded;
	}
	__u32 count = (*number)++;

	if (slot_mask) {
		__u32 wanted = slot_len[count & slot_mask & (SLOTS - 1)];

		if (bpf_xdp_adjust_tail(ctx, (int)wanted - (int)len))
			return XDP_ABORTED;
		len = wanted;
	}
	if (kind == GOOD)
		*bytes += len;
	/* multiples of the golden section visit every flow, in an order no prefetcher follows */
	__u32 flow = (__u64)(count * 2654435761u) * flows >> 32;

	if (set_header(ctx) || (outer_len && set_outer(ctx, len, flow, kind, count)) ||
	    set_inner(ctx, len, flow, kind) || (tag_every && set_tag(ctx, len, count)))
		return XDP_ABORTED;
	return bpf_redirect(egress, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
