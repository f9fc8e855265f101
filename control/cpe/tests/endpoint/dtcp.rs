//! DTCP logins at a server that is a script of the test, with a real tunnel to a real end.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use crate::support::{Cpe, LEFT, LIMIT, RIGHT, Wire, ip_ok, udp, until, within};

const GREETING: &str = "+OK 3D5F0C8A9E7B4126F0D1C2B3A4958677 KAME tunnel server";
const DIGEST: &str = "A7EAC42C3A53955E885769A055E9AC17";
const OWN: &str = "2001:db8:ffff::6";
const PEER: &str = "2001:db8:ffff::5";

/// A server: a listening socket in the right namespace.
struct Server {
    listener: TcpListener,
}

/// One session, seen from the server.
struct Session {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Server {
    fn start(wire: &Wire) -> Self {
        let listener = within(&wire.right, || TcpListener::bind((RIGHT, 20200)));
        let listener = listener.expect("bound");
        listener.set_nonblocking(true).expect("set");
        Self { listener }
    }

    /// The next client, greeted; `login` is what it has to say.
    fn log_in(&self, login: &str, reply: &str) -> Session {
        let stream = until("a client", || self.listener.accept().ok()).0;
        stream.set_nonblocking(false).expect("set");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        let lines = BufReader::new(stream.try_clone().expect("a copy"));
        let mut session = Session { stream, lines };
        session.say(GREETING);
        session.hear(login);
        session.say(reply);
        session
    }
}

impl Session {
    fn say(&mut self, line: &str) {
        self.stream
            .write_all(format!("{line}\r\n").as_bytes())
            .expect("sent");
    }

    fn hear(&mut self, wanted: &str) {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        assert_eq!(line, format!("{wanted}\r\n"));
    }
}

fn login(what: &str) -> String {
    format!("tunnel alice {DIGEST} {what}")
}

/// A password that only we can read.
fn password(wire: &Wire) -> PathBuf {
    let path = wire.file("password");
    fs::write(&path, "s3cret\n").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    path
}

fn dtcp(wire: &Wire, more: &str) -> Cpe {
    let args = arguments(wire, more);
    Cpe::start(wire, &wire.left, &args)
}

fn arguments(wire: &Wire, more: &str) -> String {
    let password = password(wire);
    format!(
        "dtcp -u alice --password-file {} --json -i dtcp0 {more} {RIGHT}",
        password.display()
    )
}

/// Runs the client to its end.
fn output(wire: &Wire, args: &str) -> Output {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &wire.left]);
    command
        .arg(env!("CARGO_BIN_EXE_sixferry-cpe"))
        .args(args.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

fn passes(from: &UdpSocket, to: &UdpSocket) {
    let address = to.local_addr().expect("an address");
    from.send_to(b"through", address).expect("sent");
    let mut buffer = [0; 64];
    assert_eq!(to.recv(&mut buffer).expect("it arrives"), 7);
}

fn nothing_is_left(wire: &Wire) {
    let links = ip_ok(&format!("-n {} link show", wire.left));
    assert!(!links.contains("dtcp0"), "left behind: {links}");
    let routes = ip_ok(&format!("-n {} -6 route show table all", wire.left));
    assert!(!routes.contains("2001:db8:"), "left behind: {routes}");
    let addresses = ip_ok(&format!("-n {} -6 addr show", wire.left));
    assert!(!addresses.contains("2001:db8:"), "left behind: {addresses}");
}

#[test]
#[ignore = "needs root"]
fn a_host_logs_in_and_out_and_packets_flow_in_between() {
    let wire = Wire::new("host");
    let server = Server::start(&wire);
    let end = Cpe::start(
        &wire,
        &wire.right,
        &format!("6in4 --local {RIGHT} --remote {LEFT} --address {PEER}/128 --route {OWN}/128"),
    );
    let reply = format!("+OK {LEFT} {RIGHT} {OWN} {PEER}");
    let script = wire.file("script");
    let log = wire.file("script.log");
    let text = format!(
        "#!/bin/sh\necho \"$1 $SIXFERRY_DEVICE $SIXFERRY_LOCAL6 $SIXFERRY_REMOTE4\" >>{}\n",
        log.display()
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
    let pid = wire.file("pid");
    let more = format!("-t host -s {} -f {}", script.display(), pid.display());
    let (mut session, client) = std::thread::scope(|scope| {
        let client = scope.spawn(|| dtcp(&wire, &more));
        let session = server.log_in(&login("host"), &reply);
        (session, client.join().expect("up"))
    });
    let addresses = ip_ok(&format!("-n {} -6 addr show dev dtcp0", wire.left));
    assert!(
        addresses.contains(&format!("{OWN} peer {PEER}/128")),
        "{addresses}"
    );
    let routes = ip_ok(&format!("-n {} -6 route show default", wire.left));
    assert!(routes.contains("dev dtcp0"), "{routes}");
    assert!(pid.exists());
    let (a, b) = (udp(&wire.left, OWN), udp(&wire.right, PEER));
    passes(&a, &b);
    passes(&b, &a);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            session.hear("quit");
            session.say("+OK see you soon.");
            drop(session);
        });
        client.stop(Signal::TERM);
    });
    assert!(!pid.exists());
    let told = fs::read_to_string(log).expect("the script ran");
    let wanted = format!("up dtcp0 {OWN} {RIGHT}\ndown dtcp0 {OWN} {RIGHT}\n");
    assert_eq!(told, wanted);
    nothing_is_left(&wire);
    end.stop(Signal::TERM);
}

#[test]
#[ignore = "needs root"]
fn a_reconnect_keeps_the_device_and_changes_only_what_changed() {
    let wire = Wire::new("again");
    let server = Server::start(&wire);
    ip_ok(&format!(
        "-n {} link add lan type veth peer name far",
        wire.left
    ));
    for end in ["lan", "far"] {
        ip_ok(&format!("-n {} link set {end} up", wire.left));
    }
    let login = login("network");
    let reply = |prefix: &str| format!("+OK {LEFT} {RIGHT} {prefix}");
    let more = "-t network -l --retry-max 1 -P lan/0x2/1 -R 2001:db8:b::/48";
    let (session, client) = std::thread::scope(|scope| {
        let client = scope.spawn(|| dtcp(&wire, more));
        let session = server.log_in(&login, &reply("2001:db8:100::/48"));
        (session, client.join().expect("up"))
    });
    let show = |what: &str| ip_ok(&format!("-n {} -6 {what}", wire.left));
    let device = || ip_ok(&format!("-n {} -o link show dtcp0", wire.left));
    let index = device().split(':').next().map(str::to_owned);
    assert!(show("addr show dev lan").contains("2001:db8:100:2::1/64"));
    assert!(show("route show").contains("unreachable 2001:db8:100::/48"));
    assert!(show("route show").contains("2001:db8:b::/48 dev dtcp0"));

    // The server dies and comes back, with the same, then with another prefix.
    drop(session);
    let session = server.log_in(&login, &reply("2001:db8:100::/48"));
    drop(session);
    let session = server.log_in(&login, &reply("2001:db8:200::/48"));
    until("the other prefix", || {
        let addresses = show("addr show dev lan");
        (addresses.contains("2001:db8:200:2::1/64") && !addresses.contains("2001:db8:100:"))
            .then_some(())
    });
    until("the other routes", || {
        let routes = show("route show");
        let new = routes.contains("unreachable 2001:db8:200::/48");
        (new && !routes.contains("2001:db8:100:")).then_some(())
    });
    assert!(show("route show").contains("2001:db8:b::/48 dev dtcp0"));
    assert_eq!(
        device().split(':').next().map(str::to_owned),
        index,
        "the same device"
    );
    drop(session);
    client.stop(Signal::INT);
    nothing_is_left(&wire);
}

#[test]
#[ignore = "needs root"]
fn udp_speaks_first_with_a_packet_of_the_granted_address() {
    let wire = Wire::new("dudp");
    let server = Server::start(&wire);
    let relay = within(&wire.right, || UdpSocket::bind((RIGHT, 4028))).expect("bound");
    relay.set_read_timeout(Some(LIMIT)).expect("set");
    let reply = format!("+OK 203.0.113.7 {RIGHT} {OWN} {PEER} udp 4028");
    let more = "-t host -U -b 5028 -l --retry-max 1";
    let (session, client) = std::thread::scope(|scope| {
        let client = scope.spawn(|| dtcp(&wire, more));
        let session = server.log_in(&login("host udp"), &reply);
        (session, client.join().expect("up"))
    });
    let mut buffer = [0; 2048];
    let echo = |buffer: &mut [u8]| {
        // The kernel has things of its own to say on a new device.
        let (len, from) = until("an echo request", || {
            let (len, from) = relay.recv_from(buffer).expect("a packet");
            (buffer[6] == 58 && buffer[40] == 128).then_some((len, from))
        });
        assert_eq!(from.to_string(), format!("{LEFT}:5028"));
        assert_eq!((len, buffer[0] >> 4), (48, 6));
        let source: std::net::Ipv6Addr = OWN.parse().expect("address");
        assert_eq!(buffer[8..24], source.octets());
    };
    echo(&mut buffer);
    // Back in a new session it speaks at once again: the server may have forgotten.
    drop(session);
    let session = server.log_in(&login("host udp"), &reply);
    echo(&mut buffer);
    drop(session);
    client.stop(Signal::TERM);
    nothing_is_left(&wire);
}

#[test]
#[ignore = "needs root"]
fn solicit_asks_for_a_router_in_the_tunnel() {
    let wire = Wire::new("rs");
    let server = Server::start(&wire);
    let relay = within(&wire.right, || UdpSocket::bind((RIGHT, 4028))).expect("bound");
    relay.set_read_timeout(Some(LIMIT)).expect("set");
    let reply = format!("+OK {LEFT} {RIGHT} udp 4028");
    let (session, client) = std::thread::scope(|scope| {
        let client = scope.spawn(|| dtcp(&wire, "-U -r solicit"));
        let session = server.log_in(&login("tunnelonly udp"), &reply);
        (session, client.join().expect("up"))
    });
    let mut buffer = [0; 2048];
    until("a router solicitation", || {
        relay.recv(&mut buffer).ok()?;
        (buffer[6] == 58 && buffer[40] == 133).then_some(())
    });
    drop(session);
    assert_eq!(client.code(), Some(0), "the server ended it");
    nothing_is_left(&wire);
}

#[test]
#[ignore = "needs root"]
fn exit_codes_tell_what_went_wrong() {
    let wire = Wire::new("exit");
    let server = Server::start(&wire);
    let text = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let answered = |more: &str, login: &str, reply: &str| {
        let args = arguments(&wire, more);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| output(&wire, &args));
            let mut session = server.log_in(login, reply);
            session.hear("quit");
            drop(session);
            client.join().expect("it ran")
        })
    };
    let refused = answered(
        "-t network",
        &login("network"),
        "-ERR authentication failed.",
    );
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("authentication failed."));
    let natted = answered(
        "",
        &login("tunnelonly"),
        &format!("+OK 203.0.113.7 {RIGHT}"),
    );
    assert_eq!(natted.status.code(), Some(1), "{}", text(&natted));
    assert!(text(&natted).contains("behind a NAT"), "{}", text(&natted));
    // The name of the device is taken.
    ip_ok(&format!(
        "-n {} link add dtcp0 type veth peer name far",
        wire.left
    ));
    let reply = format!("+OK {LEFT} {RIGHT}");
    let taken = answered("-l", &login("tunnelonly"), &reply);
    assert_eq!(taken.status.code(), Some(2), "{}", text(&taken));
    ip_ok(&format!("-n {} link del dtcp0", wire.left));

    drop(server);
    let unreached = output(&wire, &arguments(&wire, ""));
    assert_eq!(unreached.status.code(), Some(1), "{}", text(&unreached));
    let path = password(&wire);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
    let open = output(
        &wire,
        &format!("dtcp -u alice --password-file {} {RIGHT}", path.display()),
    );
    assert_eq!(open.status.code(), Some(2), "{}", text(&open));
    let none = output(&wire, &format!("dtcp -u alice {RIGHT}"));
    assert_eq!(none.status.code(), Some(2), "{}", text(&none));
    assert!(text(&none).contains("--password-file"), "{}", text(&none));
    for output in [&refused, &natted, &taken, &unreached, &open, &none] {
        assert!(!text(output).contains("s3cret"), "a secret was printed");
    }
    nothing_is_left(&wire);
}
