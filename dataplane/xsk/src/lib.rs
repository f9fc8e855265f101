//! AF_XDP sockets, umem and the XDP steering program; the only crate with unsafe code.
