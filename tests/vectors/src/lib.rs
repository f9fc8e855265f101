//! Runs packet vectors through the forwarding core and the XDP steering program.
