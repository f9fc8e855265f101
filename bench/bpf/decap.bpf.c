/* 6in4 decapsulation wholly in the kernel: the outer source is looked up in a hash, the outer header
 * stripped, the frame redirected. No inner source is checked and nothing counted: less than a relay
 * does, and no way to user space. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 egress;
const volatile __u8 destination[ETH_ALEN];
const volatile __u8 source[ETH_ALEN];

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __be32);
	__type(value, __u32);
} tunnels SEC(".maps");

SEC("xdp")
int sixferry_decap(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *link = data;
	struct iphdr *outer = (void *)(link + 1);

	if ((void *)(outer + 1) > end || link->h_proto != bpf_htons(ETH_P_IP) ||
	    outer->protocol != IPPROTO_IPV6 || outer->ihl != 5)
		return XDP_PASS;
	__be32 key = outer->saddr;

	if (!bpf_map_lookup_elem(&tunnels, &key))
		return XDP_DROP;
	if (bpf_xdp_adjust_head(ctx, sizeof(*outer)))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	link = data;
	struct ipv6hdr *inner = (void *)(link + 1);

	if ((void *)(inner + 1) > end || inner->hop_limit <= 1)
		return XDP_DROP;
	inner->hop_limit--;
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++) {
		link->h_dest[i] = destination[i];
		link->h_source[i] = source[i];
	}
	link->h_proto = bpf_htons(ETH_P_IPV6);
	return bpf_redirect(egress, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
