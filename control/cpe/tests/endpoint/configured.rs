//! Tunnels whose ends are known beforehand.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sendto, socket_with};
use rustix::process::Signal;

use crate::support::{Cpe, LEFT, RIGHT, Wire, ip_ok, udp, within};

const LEFT_V6: &str = "2001:db8:a::1";
const RIGHT_V6: &str = "2001:db8:b::1";

/// Protocol 41 from an address of the sender's choice that it owns.
fn send_proto41(namespace: &str, payload: &[u8]) {
    let socket = within(namespace, || {
        let kind = SocketType::RAW;
        socket_with(
            AddressFamily::INET,
            kind,
            SocketFlags::CLOEXEC,
            Some(ipproto::IPV6),
        )
    })
    .expect("a raw socket");
    let to = std::net::SocketAddrV4::new(LEFT.parse::<Ipv4Addr>().expect("address"), 0);
    sendto(&socket, payload, rustix::net::SendFlags::empty(), &to).expect("sent");
}

#[test]
#[ignore = "needs root"]
fn carries_packets_counts_drops_and_leaves_nothing_behind() {
    let wire = Wire::new("flow");
    let left = Cpe::start(
        &wire,
        &wire.left,
        &format!(
            "6in4 --local {LEFT} --remote {RIGHT} --address {LEFT_V6}/64 --route default \
             --delegated 2001:db8:a::/48 --dev left6 --json"
        ),
    );
    let right = Cpe::start(
        &wire,
        &wire.right,
        &format!(
            "6in4 --local {RIGHT} --remote {LEFT} --address {RIGHT_V6}/64 \
             --route 2001:db8:a::/48 --json"
        ),
    );
    let (a, b) = (udp(&wire.left, LEFT_V6), udp(&wire.right, RIGHT_V6));
    let full = vec![0x5a; 1280 - 48];
    let mut buffer = [0; 2048];
    a.send_to(&full, (RIGHT_V6, 9000)).expect("sent");
    let (len, from) = b.recv_from(&mut buffer).expect("it arrives");
    assert_eq!(
        (&buffer[..len], from.ip().to_string()),
        (&full[..], LEFT_V6.to_owned())
    );
    b.send_to(b"back", from).expect("sent");
    assert_eq!(a.recv(&mut buffer).expect("it arrives"), 4);

    // Garbage from the right address, and anything at all from a wrong one.
    send_proto41(&wire.right, b"not IPv6");
    ip_ok(&format!("-n {} addr del {RIGHT}/24 dev wire", wire.right));
    ip_ok(&format!("-n {} addr add 192.0.2.3/24 dev wire", wire.right));
    send_proto41(&wire.right, &[0x60; 60]);
    let counters = left.counters(|c| c["drops"]["NO_TUNNEL"] == 1);
    assert_eq!(counters["drops"]["INNER_TRUNCATED"], 1, "{counters}");
    assert!(counters["encap_packets"].as_u64() >= Some(1), "{counters}");
    assert!(counters["decap_packets"].as_u64() >= Some(1), "{counters}");

    let routes = format!("-n {} -6 route show", wire.left);
    assert!(ip_ok(&routes).contains("unreachable 2001:db8:a::/48"));
    left.stop(Signal::TERM);
    right.stop(Signal::INT);
    let routes = ip_ok(&routes);
    assert!(!routes.contains("2001:db8:a::"), "left behind: {routes}");
    let links = ip_ok(&format!("-n {} link show", wire.left));
    assert!(!links.contains("left6"), "left behind: {links}");
}

#[test]
#[ignore = "needs root"]
fn udp_carries_packets_and_believes_one_endpoint() {
    let wire = Wire::new("udp");
    let end = |namespace: &str, own: (&str, u16, &str), other: (&str, u16), more: &str| {
        let args = format!(
            "udp --local {} --local-port {} --remote {}:{} --address {}/64 --route default \
             --json {more}",
            own.0, own.1, other.0, other.1, own.2
        );
        Cpe::start(&wire, namespace, &args)
    };
    let (left_end, right_end) = ((LEFT, 4028), (RIGHT, 40_000));
    let quiet = "--no-keepalive";
    let left = end(&wire.left, (LEFT, 4028, LEFT_V6), right_end, quiet);
    let right = end(&wire.right, (RIGHT, 40_000, RIGHT_V6), left_end, "");
    let (a, b) = (udp(&wire.left, LEFT_V6), udp(&wire.right, RIGHT_V6));
    let full = vec![0x5a; 1280 - 48];
    let mut buffer = [0; 2048];
    a.send_to(&full, (RIGHT_V6, 9000)).expect("sent");
    let (len, from) = b.recv_from(&mut buffer).expect("it arrives");
    assert_eq!(&buffer[..len], &full[..]);
    b.send_to(b"back", from).expect("sent");
    assert_eq!(a.recv(&mut buffer).expect("it arrives"), 4);

    // A stranger, and garbage from the right endpoint's host but another port.
    let stranger = within(&wire.right, || UdpSocket::bind((RIGHT, 0))).expect("bound");
    stranger.send_to(&[0x60; 60], left_end).expect("sent");
    let counters = left.counters(|c| c["drops"]["UDP_REMOTE_MISMATCH"] == 1);
    assert_eq!(counters["keepalives_sent"], 0, "{counters}");
    assert_eq!(
        counters["keepalives_received"], 1,
        "the first comes at once: {counters}"
    );
    right.stop(Signal::TERM);
    left.stop(Signal::TERM);
}

#[test]
#[ignore = "needs root"]
fn automatic_ends_find_each_other_by_their_addresses() {
    let wire = Wire::new("auto");
    // Both in a 6rd domain whose border relay is nobody: they speak directly.
    let start = |namespace: &str, local: &str| {
        let args = format!(
            "6rd --local {local} --remote 192.0.2.254 --prefix 2001:db8:4000::/40 \
             --v4-common 192.0.2.0/24 --route 2001:db8:4000::/40 --json"
        );
        Cpe::start(&wire, namespace, &args)
    };
    let (left, right) = (start(&wire.left, LEFT), start(&wire.right, RIGHT));
    let a = udp(&wire.left, "2001:db8:4001::1");
    let b = udp(&wire.right, "2001:db8:4002::1");
    let mut buffer = [0; 64];
    a.send_to(b"there", ("2001:db8:4002::1", 9000))
        .expect("sent");
    let (len, from) = b.recv_from(&mut buffer).expect("it arrives");
    assert_eq!(
        (&buffer[..len], from.ip().to_string()),
        (&b"there"[..], "2001:db8:4001::1".into())
    );
    right.stop(Signal::TERM);
    left.stop(Signal::TERM);
}

#[test]
#[ignore = "needs root"]
fn errors_are_one_line_and_exit_code_2() {
    let wire = Wire::new("err");
    let refused = |args: &str| {
        let output = Command::new("ip")
            .args([
                "netns",
                "exec",
                &wire.left,
                env!("CARGO_BIN_EXE_sixferry-cpe"),
            ])
            .args(args.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    let tail = format!("--remote {RIGHT} --address {LEFT_V6}/64");
    let text = refused(&format!("6in4 --local 203.0.113.9 {tail}"));
    assert!(
        text.contains("203.0.113.9 is not an address of this host"),
        "{text}"
    );
    let text = refused(&format!("6in4 --local {LEFT} {tail} --mtu 1279"));
    assert!(text.contains("1280"), "{text}");
    let text = refused(&format!("6in4 --local {LEFT} {tail} --dev wire"));
    assert!(text.contains("cannot create TUN device wire"), "{text}");
    let text = refused(&format!(
        "6in4 --local {LEFT} --remote {LEFT} --address {LEFT_V6}/64"
    ));
    assert!(text.contains("loop"), "{text}");
    let text = refused(&format!(
        "6in4 --local {LEFT} {tail} --route 2001:db8::/32 --route 2001:db8::/32"
    ));
    assert!(text.contains("add route 2001:db8::/32"), "{text}");
    let text = refused(&format!("6in4 --local {LEFT} --remote {RIGHT}"));
    assert!(text.contains("--address is missing"), "{text}");
    let domain = format!("6rd --local {LEFT} --remote {RIGHT} --prefix 2001:db8::/32");
    let text = refused(&format!("{domain} --v4-common 10.0.0.0/8"));
    assert!(text.contains("is not in the domain"), "{text}");
    let text = refused(&format!(
        "6rd --local {LEFT} --remote {RIGHT} --prefix 2001:db8::/48"
    ));
    assert!(text.contains("make no 6rd domain"), "{text}");
    let links = ip_ok(&format!("-n {} link show type tun", wire.left));
    assert_eq!(links.trim(), "", "a device was left behind");
}
