/* What the steering program and its loader must agree on. `src/steer.rs` repeats these values
 * and a test there compares the two. */
#ifndef SIXFERRY_STEER_H
#define SIXFERRY_STEER_H

/* One counter per outcome; the order is the index in the counter map. */
enum steer_outcome {
	XSK_PROTO41,      /* protocol 41 to a tunnel address */
	XSK_UDP,          /* UDP to a tunnel address and a configured port */
	XSK_UDP_FRAGMENT, /* later fragment to a dedicated tunnel address */
	XSK_ICMP4,        /* ICMPv4 error about one of our packets */
	XSK_IPV6,         /* IPv6 to a covering prefix */
	PASS_TRUNCATED,   /* too short to read the addresses, ports or quoted header */
	PASS_L2,          /* link-layer multicast, broadcast or another station's MAC */
	PASS_VLAN,        /* VLAN not configured, or a second tag */
	PASS_ARP,         /* ARP */
	PASS_ETHERTYPE,   /* neither IPv4, IPv6 nor ARP */
	PASS_IPV4,        /* IPv4 that is not ours */
	PASS_ICMP4,       /* ICMPv4 to a tunnel address that is not about our packets */
	PASS_UDP,         /* UDP to a tunnel address, not to a configured port */
	PASS_IPV6,        /* IPv6 to no covering prefix */
	PASS_IPV6_SCOPE,  /* IPv6 multicast or link-local destination: ND, RA, MLD */
	PASS_IPV6_HOST,   /* IPv6 to an address of this host */
	PASS_NO_SOCKET,   /* ours, but no socket serves this queue */
	STEER_OUTCOMES,
};

/* Flags of a tunnel address. */
#define ADDR_PROTO41 1   /* it is the end of protocol-41 tunnels */
#define ADDR_DEDICATED 2 /* only tunnels use it: fragments without ports are ours too */
#define ADDR_PRESENT 4   /* in a near slot: the slot is in use */

/* A near slot of a covering prefix, as a number: its first 56 bits on top, then these. */
#define NEAR_HOSTS 0x80  /* addresses of this host lie inside: ask for them */
#define NEAR_LEN 0x7f    /* length of the prefix, 1 to 56; 0: the slot is empty */

/* Map sizes. The loader allows half as many of the entries it replaces (new ones are added
 * before old ones go): 1024 covering prefixes, for instance. */
#define MAX_QUEUES 64
#define MAX_ADDRS 8192
#define MAX_UDP_PORTS 131072
#define MAX_HOST_ADDRS 8192
#define MAX_COVERING 2048
#define VLAN_IDS 4096
#define NEAR_SLOTS 4

/* A near slot of a tunnel address. */
struct near_addr {
	__u8 addr[4];
	__u32 flags;
};

/* Key of a UDP tunnel end; both fields in network order. */
struct udp_key {
	__u8 addr[4];
	__u8 port[2];
	__u8 zero[2];
};

/* Key of the covering prefixes. */
struct prefix_key {
	__u32 prefix_len;
	__u8 addr[16];
};

/* The port's own MAC address. */
struct port_mac {
	__u8 mac[6];
	__u8 zero[2];
};

#endif
