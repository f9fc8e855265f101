//! The user's end of a tunnel: 6in4 over a TUN device.
