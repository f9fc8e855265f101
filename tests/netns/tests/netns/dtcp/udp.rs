//! Tunnels over UDP: what is on the wire, and where it goes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use sixferry_netns_tests::login::Login;
use sixferry_netns_tests::raw::{Tap, echo_reply, echo_request, send_ipv6};

use super::*;

/// The first port of the server.
const FIRST_PORT: u16 = 4028;
const SHORT: Duration = Duration::from_millis(200);

/// A user's end without a client: the session, and a socket for his packets.
struct Bare<'n> {
    net: &'n Net,
    outer: Ipv4Addr,
    _session: Login,
    /// The server's port.
    port: u16,
    /// His address inside.
    inner: Ipv6Addr,
}

impl<'n> Bare<'n> {
    fn log_in(customer: &'n Customer, account: Account, words: &str) -> Self {
        let (net, outer) = (&customer.net, customer.outer);
        let mut session = Login::connect(net, outer);
        let reply = session.tunnel(account.0, &secret(account.0), words);
        let tokens: Vec<&str> = reply.split(' ').collect();
        let ["+OK", c4, s4, c6, _, "udp", port] = tokens[..] else {
            panic!("{reply}");
        };
        assert_eq!(c4, outer.to_string());
        assert_eq!(s4, RELAY_V4.to_string());
        Self {
            net,
            outer,
            _session: session,
            port: port.parse().expect("a port"),
            inner: c6.parse().expect("an address"),
        }
    }

    fn socket(&self, port: u16) -> UdpSocket {
        let socket = self.net.enter(|| UdpSocket::bind((self.outer, port)));
        let socket = socket.expect("a socket");
        socket.set_read_timeout(Some(SHORT)).expect("a timeout");
        socket
    }

    /// Sends an echo request to the native host.
    fn send(&self, socket: &UdpSocket) {
        let request = echo_request(self.inner, HOST_V6, 64);
        let to = SocketAddrV4::new(RELAY_V4, self.port);
        socket.send_to(&request, to).expect("sent");
    }

    /// Whether the host's answer to one comes back, and nothing but the bare packet.
    fn echoes(&self, socket: &UdpSocket) -> bool {
        self.send(socket);
        let Some(mut answer) = self.received(socket) else {
            return false;
        };
        let expected = echo_reply(&echo_request(self.inner, HOST_V6, 64));
        // The host chooses a flow label.
        answer[1..4].fill(0);
        // One hop less.
        assert_eq!(answer[7], expected[7] - 1);
        answer[7] = expected[7];
        assert_eq!(answer, expected, "bare IPv6");
        true
    }

    /// The next datagram from the server's port.
    fn received(&self, socket: &UdpSocket) -> Option<Vec<u8>> {
        let mut bytes = [0; 2048];
        let (len, from) = socket.recv_from(&mut bytes).ok()?;
        assert_eq!(from, SocketAddrV4::new(RELAY_V4, self.port).into());
        Some(bytes[..len].to_vec())
    }

    /// The native host sends to the user.
    fn downlink(&self, service: &Service) {
        let packet = echo_request(HOST_V6, self.inner, 64);
        send_ipv6(&service.lab.host, self.inner, &packet);
    }
}

fn udp_to(packets: &[Vec<u8>], to: Ipv4Addr) -> usize {
    let is_it = |packet: &&Vec<u8>| packet[9] == 17 && packet[16..20] == to.octets();
    packets.iter().filter(is_it).count()
}

#[test]
#[ignore = "needs root"]
fn udp_nat_mode_learns_and_follows_a_rebind() {
    let service = Service::start(&[BOB, DAVE]);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let dave = Customer::direct(&service.lab, DAVE.0, 14);
    let wire = Tap::ipv4(&dave.net);
    let user = Bare::log_in(&dave, DAVE, "host udp");
    // Nothing is sent before the user has sent.
    let ping = format!("ping -n -c 3 -i 0.2 -W 2 {}", user.inner);
    let told = service.lab.host.try_run(&ping);
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.contains("Address unreachable"), "{told}");
    let seen = wire.drain();
    assert_eq!(udp_to(&seen, user.outer), 0, "{seen:02x?}");

    // Then to where it came from.
    let first = user.socket(61_000);
    wait_until("the user's first packet", SOON, || user.echoes(&first));
    user.downlink(&service);
    assert!(user.received(&first).is_some());

    // Another address is not his, whatever it sends.
    let refused = service.dropped("UDP_REMOTE_MISMATCH");
    let stranger = bob.net.enter(|| UdpSocket::bind((bob.outer, 61_000)));
    user.send(&stranger.expect("a socket"));
    wait_until("a stranger's packet", SOON, || {
        service.dropped("UDP_REMOTE_MISMATCH") > refused
    });

    // His NAT gives him another port; the old one gets nothing more.
    let second = user.socket(61_001);
    wait_until("the user at another port", SOON, || user.echoes(&second));
    user.downlink(&service);
    assert!(user.received(&second).is_some());
    assert!(user.received(&first).is_none());
}

#[test]
#[ignore = "needs root"]
fn udp_direct_mode_sends_at_once_and_each_tunnel_has_its_port() {
    let service = Service::start(&[BOB, DAVE]);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let dave = Customer::direct(&service.lab, DAVE.0, 14);
    let one = Bare::log_in(&dave, DAVE, "host udp 5000");
    let other = Bare::log_in(&bob, BOB, "host udp 4028");
    assert_eq!([one.port, other.port], [FIRST_PORT, FIRST_PORT + 1]);
    for (user, port) in [(&one, 5000), (&other, 4028)] {
        let socket = user.socket(port);
        user.downlink(&service);
        let packet = user.received(&socket).expect("at once");
        assert_eq!(packet[0] >> 4, 6, "bare IPv6: {packet:02x?}");
        assert_eq!(packet[24..40], user.inner.octets());
        assert!(user.echoes(&socket));
        // From another port it is not he.
        let refused = service.dropped("UDP_REMOTE_MISMATCH");
        user.send(&user.socket(port + 1));
        wait_until("a packet from another port", SOON, || {
            service.dropped("UDP_REMOTE_MISMATCH") == refused + 1
        });
    }
}

/// A user who has nothing but the link-local address of his end is found behind his NAT, and found
/// again.
#[test]
#[ignore = "needs root"]
fn udp_tunnelonly_is_found_behind_a_nat_by_its_link_local_address() {
    let service = Service::start(&[DAVE]);
    let dave = Customer::natted(&service.lab, DAVE.0, 14, 50_000);
    let client = dave.log_in("-t tunnelonly -U");
    // fe80:: and the relay's IPv4 address.
    let relay = "fe80::c633:6401%dtcp0";
    let ping = format!("ping -n -c 1 -W 1 {relay}");
    let answered = || dave.net.try_run(&ping).status.success();
    wait_until("an answer over the link", PATIENCE, answered);
    dave.rebind(51_000);
    wait_until("an answer at another port", PATIENCE, answered);
    client.log_out();
    service.nothing_is_left();
}
