/* Steering: which frames belong to the relay and which to the kernel (see README.md).
 *
 * To the AF_XDP socket of the receiving queue:
 *   - IPv4 protocol 41 to a tunnel address, all fragments of it;
 *   - UDP to a tunnel address and configured port; later fragments, which carry no port, only
 *     if the address is dedicated to tunnels;
 *   - ICMPv4 errors to a tunnel address that quote one of the packets above, sent by it;
 *   - IPv6 to a covering prefix, unless it is an address of this host.
 * Everything else, and whatever cannot be read, goes to the kernel: this program never drops.
 * It takes no forwarding decision either; a frame that is ours by address and protocol but
 * malformed goes to the worker, which counts why it drops it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "steer.h"

#define IP_MF 0x2000
#define IP_OFFSET 0x1fff
#define ICMP4_UNREACHABLE 3
#define ICMP4_SOURCE_QUENCH 4
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER 12
#define ICMP4_HEADER_LEN 8

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STEER_OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} outcomes SEC(".maps");

/* One 8-byte value, so that a reader never sees half of a new MAC. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_mac);
} port SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ADDRS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} tunnel_addrs SEC(".maps");

/* Near tables: what most frames ask for, in arrays. A look-up in a hash or a trie is a call of some 40 ns;
 * one in an array the verifier turns into a load. A slot is 8 bytes, so no reader sees half of one,
 * and says what the large table says; one that is empty, like all after it, says nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NEAR_SLOTS);
	__type(key, __u32);
	__type(value, struct near_addr);
} near_addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NEAR_SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} near_covering SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_UDP_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct udp_key);
	__type(value, __u8);
} udp_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HOST_ADDRS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct in6_addr);
	__type(value, __u8);
} host_addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_COVERING);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, __u8);
} covering SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VLAN_IDS);
	__type(key, __u32);
	__type(value, __u8);
} vlans SEC(".maps");

static __always_inline int for_this_port(const struct ethhdr *eth)
{
	__u32 zero = 0;
	const struct port_mac *own = bpf_map_lookup_elem(&port, &zero);

	/* Multicast is never ours, even if somebody gave the port such an address. */
	if (!own || (eth->h_dest[0] & 1))
		return 0;
	return eth->h_dest[0] == own->mac[0] && eth->h_dest[1] == own->mac[1] &&
	       eth->h_dest[2] == own->mac[2] && eth->h_dest[3] == own->mac[3] &&
	       eth->h_dest[4] == own->mac[4] && eth->h_dest[5] == own->mac[5];
}

/* Flags of a tunnel address with ADDR_PRESENT, 0 for any other address. */
static __always_inline __u32 flags_of(__be32 addr)
{
	const __u32 *flags;

#pragma unroll
	for (__u32 i = 0; i < NEAR_SLOTS; i++) {
		__u32 key = i;
		const struct near_addr *near = bpf_map_lookup_elem(&near_addrs, &key);
		__be32 own;

		if (!near || !near->flags)
			break;
		__builtin_memcpy(&own, near->addr, 4);
		if (own == addr)
			return near->flags;
	}
	flags = bpf_map_lookup_elem(&tunnel_addrs, &addr);
	return flags ? *flags | ADDR_PRESENT : 0;
}

/* Whether an IPv6 destination is the relay's, as an outcome. */
static __always_inline __u32 steer_address(const struct in6_addr *addr)
{
	struct prefix_key key = { .prefix_len = 128 };
	__u64 high;

	__builtin_memcpy(&high, addr, 8);
	high = bpf_be64_to_cpu(high);
	__builtin_memcpy(key.addr, addr, 16);
#pragma unroll
	for (__u32 i = 0; i < NEAR_SLOTS; i++) {
		__u32 slot = i;
		const __u64 *near = bpf_map_lookup_elem(&near_covering, &slot);

		if (!near || !(*near & NEAR_LEN))
			break;
		if ((high ^ *near) >> (64 - (*near & NEAR_LEN)))
			continue;
		if (!(*near & NEAR_HOSTS))
			return XSK_IPV6;
		return bpf_map_lookup_elem(&host_addrs, key.addr) ? PASS_IPV6_HOST : XSK_IPV6;
	}
	if (!bpf_map_lookup_elem(&covering, &key))
		return PASS_IPV6;
	return bpf_map_lookup_elem(&host_addrs, key.addr) ? PASS_IPV6_HOST : XSK_IPV6;
}

static __always_inline int known_vlan(__be16 tci)
{
	__u32 vid = bpf_ntohs(tci) & 0x0fff;
	const __u8 *known = bpf_map_lookup_elem(&vlans, &vid);

	return known && *known;
}

/* `port_bytes` points at two readable bytes. */
static __always_inline int known_udp(__be32 addr, const __u8 *port_bytes)
{
	struct udp_key key = {};

	__builtin_memcpy(key.addr, &addr, 4);
	key.port[0] = port_bytes[0];
	key.port[1] = port_bytes[1];
	return bpf_map_lookup_elem(&udp_ports, &key) != 0;
}

/* Offsets that depend on the packet go through bpf_xdp_load_bytes: adding them to a packet
 * pointer would need CAP_PERFMON on top of CAP_BPF. */

static __always_inline __u32 steer_udp(struct xdp_md *ctx, const struct iphdr *ip, __u32 l3,
				       __u32 addr_flags)
{
	const __u8 *payload = (const void *)(ip + 1);
	const void *end = (void *)(long)ctx->data_end;
	__u8 ports[4];

	if (ip->frag_off & bpf_htons(IP_OFFSET))
		return addr_flags & ADDR_DEDICATED ? XSK_UDP_FRAGMENT : PASS_UDP;
	if (ip->ihl < 5)
		return PASS_UDP;
	if (ip->ihl == 5) {
		if ((const void *)(payload + sizeof(ports)) > end)
			return PASS_TRUNCATED;
		return known_udp(ip->daddr, payload + 2) ? XSK_UDP : PASS_UDP;
	}
	if (bpf_xdp_load_bytes(ctx, l3 + ip->ihl * 4, ports, sizeof(ports)))
		return PASS_TRUNCATED;
	return known_udp(ip->daddr, ports + 2) ? XSK_UDP : PASS_UDP;
}

/* The quoted packet must be one that a tunnel of ours could have sent: the source is a tunnel
 * address, the protocol 41 or UDP from a configured port. */
static __always_inline __u32 steer_icmp4(struct xdp_md *ctx, const struct iphdr *ip, __u32 l3)
{
	struct {
		__u8 type, code;
		__be16 checksum;
		__be32 rest;
		struct iphdr quoted;
	} error;
	__u32 at = l3 + ip->ihl * 4;
	__u32 addr_flags;
	__u8 port_bytes[2];

	/* Fragmented ICMP errors are the kernel's: it can reassemble, the type may be absent. */
	if ((ip->frag_off & bpf_htons(IP_OFFSET | IP_MF)) || ip->ihl < 5)
		return PASS_ICMP4;
	if (bpf_xdp_load_bytes(ctx, at, &error.type, 1))
		return PASS_TRUNCATED;
	if (error.type != ICMP4_UNREACHABLE && error.type != ICMP4_TIME_EXCEEDED &&
	    error.type != ICMP4_PARAMETER && error.type != ICMP4_SOURCE_QUENCH)
		return PASS_ICMP4;
	if (bpf_xdp_load_bytes(ctx, at, &error, sizeof(error)))
		return PASS_TRUNCATED;
	addr_flags = flags_of(error.quoted.saddr);
	if (!addr_flags)
		return PASS_ICMP4;
	if (error.quoted.protocol == IPPROTO_IPV6)
		return addr_flags & ADDR_PROTO41 ? XSK_ICMP4 : PASS_ICMP4;
	if (error.quoted.protocol != IPPROTO_UDP)
		return PASS_ICMP4;
	if (error.quoted.frag_off & bpf_htons(IP_OFFSET))
		return addr_flags & ADDR_DEDICATED ? XSK_ICMP4 : PASS_ICMP4;
	if (error.quoted.ihl < 5)
		return PASS_ICMP4;
	at += ICMP4_HEADER_LEN + error.quoted.ihl * 4;
	if (bpf_xdp_load_bytes(ctx, at, port_bytes, sizeof(port_bytes)))
		return PASS_TRUNCATED;
	return known_udp(error.quoted.saddr, port_bytes) ? XSK_ICMP4 : PASS_ICMP4;
}

static __always_inline __u32 steer_ipv4(struct xdp_md *ctx, const struct iphdr *ip, __u32 l3)
{
	__u32 addr_flags;

	if ((const void *)(ip + 1) > (void *)(long)ctx->data_end)
		return PASS_TRUNCATED;
	addr_flags = flags_of(ip->daddr);
	if (!addr_flags)
		return PASS_IPV4;
	switch (ip->protocol) {
	case IPPROTO_IPV6: /* 41; a bad version, IHL or length is for the worker to count */
		return addr_flags & ADDR_PROTO41 ? XSK_PROTO41 : PASS_IPV4;
	case IPPROTO_UDP:
		return steer_udp(ctx, ip, l3, addr_flags);
	case IPPROTO_ICMP:
		return steer_icmp4(ctx, ip, l3);
	}
	return PASS_IPV4;
}

static __always_inline __u32 steer_ipv6(struct xdp_md *ctx, const struct ipv6hdr *ip)
{
	if ((const void *)(ip + 1) > (void *)(long)ctx->data_end)
		return PASS_TRUNCATED;
	if (ip->daddr.s6_addr[0] == 0xff ||
	    (ip->daddr.s6_addr[0] == 0xfe && (ip->daddr.s6_addr[1] & 0xc0) == 0x80))
		return PASS_IPV6_SCOPE;
	return steer_address(&ip->daddr);
}

/* What follows the Ethernet header, and at most one tag, at `l3` bytes. */
static __always_inline __u32 steer_l3(struct xdp_md *ctx, __be16 proto, const void *p, __u32 l3)
{
	if (proto == bpf_htons(ETH_P_IP))
		return steer_ipv4(ctx, p, l3);
	if (proto == bpf_htons(ETH_P_IPV6))
		return steer_ipv6(ctx, p);
	if (proto == bpf_htons(ETH_P_ARP))
		return PASS_ARP;
	return PASS_ETHERTYPE;
}

static __always_inline __u32 steer(struct xdp_md *ctx)
{
	const struct ethhdr *eth = (void *)(long)ctx->data;
	const struct vlan_tag *tag = (const void *)(eth + 1);
	const void *end = (void *)(long)ctx->data_end;

	if ((const void *)(eth + 1) > end)
		return PASS_TRUNCATED;
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return PASS_ARP;
	if (!for_this_port(eth))
		return PASS_L2;
	if (eth->h_proto != bpf_htons(ETH_P_8021Q) && eth->h_proto != bpf_htons(ETH_P_8021AD))
		return steer_l3(ctx, eth->h_proto, tag, sizeof(*eth));
	if ((const void *)(tag + 1) > end)
		return PASS_TRUNCATED;
	if (!known_vlan(tag->tci) || tag->proto == bpf_htons(ETH_P_8021Q) ||
	    tag->proto == bpf_htons(ETH_P_8021AD))
		return PASS_VLAN;
	return steer_l3(ctx, tag->proto, tag + 1, sizeof(*eth) + sizeof(*tag));
}

SEC("xdp")
int sixferry_steer(struct xdp_md *ctx)
{
	__u32 outcome = steer(ctx);
	int action = XDP_PASS;
	__u64 *count;

	if (outcome < PASS_TRUNCATED) {
		/* A queue without a socket, or a dead daemon: the kernel gets the frame. */
		action = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);
		if (action != XDP_REDIRECT)
			outcome = PASS_NO_SOCKET;
	}
	count = bpf_map_lookup_elem(&outcomes, &outcome);
	if (count)
		(*count)++;
	return action;
}

char _license[] SEC("license") = "Dual MIT/GPL";
