/* Counts the bench's frames and drops all: the measuring end. Neighbour discovery and the like, which
 * the kernel sends too, would hide as many lost ones. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} arrived SEC(".maps");

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
	return link->h_proto == bpf_htons(ETH_P_IP) && outer->protocol == IPPROTO_IPV6;
}

SEC("xdp")
int sixferry_sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (!is_ours(data, end))
		return XDP_DROP;
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&arrived, &zero);

	if (count)
		(*count)++;
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
