//! The forwarding core: a batch of packets in, one verdict each out.
