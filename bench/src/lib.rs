//! Benches of the forwarding core and the pcap replay tool.
