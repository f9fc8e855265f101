//! The configuration, and the command line of the original as a source of it.

use std::time::Duration;

use sixferry_dtcp::options::{Error, parse};
use sixferry_dtcp::{Config, Server};

use crate::bed::config;
use crate::fake::Fake;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    dtcp: Config,
}

fn read(text: &str) -> Result<Config, String> {
    toml::from_str::<File>(text)
        .map(|file| file.dtcp)
        .map_err(|error| error.to_string())
}

#[test]
fn empty_section_is_the_default_and_good() {
    let config = read("[dtcp]").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.check(), Vec::<String>::new());
    assert_eq!(
        (config.port, config.mtu, config.udp.first_port),
        (20200, 1280, 4028)
    );
    assert_eq!(config.rules().up_idle, Duration::from_secs(300));
}

#[test]
fn keys_are_read() {
    let config = read(
        "[dtcp]\nhost_prefix = '2001:db8:ffff::'\ninterfaces = 'gif10'\nannounce = '203.0.113.1'\n\
         [dtcp.timeouts]\nup = 1.5\ngreeted = 30\n[dtcp.udp]\nenabled = true\n",
    )
    .unwrap();
    assert_eq!(
        config.host_prefix,
        Some("2001:db8:ffff::/64".parse().unwrap())
    );
    assert_eq!(config.timeouts.up, Duration::from_millis(1500));
    assert_eq!(config.timeouts.greeted, Duration::from_secs(30));
    assert!(config.rules().host && config.rules().udp && !config.rules().network);
}

#[test]
fn unknown_keys_and_bad_values_are_named() {
    for (text, named) in [
        ("[dtcp]\nprot = 1", "prot"),
        ("[dtcp.limits]\nsesions = 1", "sesions"),
        ("[dtcp.timeouts]\nup = -1", "seconds"),
        ("[dtcp]\nhost_prefix = '2001:db8::1/64'", "bits set"),
        ("[dtcp]\nhost_prefix = '2001:db8'", "prefix"),
        ("[dtcp]\nhost_prefix = '2001:dbG::'", "prefix"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
    for (text, named) in [
        ("[dtcp]\nmtu = 1279", "mtu"),
        ("[dtcp]\nlisten = []", "listen"),
        ("[dtcp]\nbanner = \"a\\nb\"", "banner"),
        ("[dtcp]\ninterfaces = 'gif['", "interfaces"),
        ("[dtcp]\nexisting = ['gif']", "existing"),
        ("[dtcp]\nannounce = '0.0.0.0'", "announce"),
        (
            "[dtcp.udp]\nenabled = true\nfirst_port = 0",
            "udp.first_port",
        ),
        ("[dtcp.limits]\nsessions = 0", "limits.sessions"),
        (
            "[dtcp.limits]\ngreeted_percent = 101",
            "limits.greeted_percent",
        ),
        ("[dtcp.timeouts]\nup = 0", "timeouts.up"),
    ] {
        let problems = read(text).unwrap().check();
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].starts_with(named), "{problems:?}");
    }
}

#[test]
fn original_command_lines_become_sections_that_say_the_same() {
    for (line, expected) in [
        ("", "[dtcp]\nroutetable = \"/usr/local/etc/routetable\"\n"),
        (
            "-D -i gif10 -o 2001:db8:ffff::",
            "[dtcp]\ninterfaces = \"gif10\"\nkeep = true\nhost_prefix = \"2001:db8:ffff::/64\"\n\
             routetable = \"/usr/local/etc/routetable\"\n",
        ),
        (
            "-cdU -b4100 -g 203.0.113.1 -I ng5 -igif1[0-9] -p 2000 -F 3",
            "[dtcp]\nport = 2000\ninterfaces = \"gif1[0-9]\"\ncloning = false\n\
             announce = \"203.0.113.1\"\nroutetable = \"/usr/local/etc/routetable\"\n\n\
             [dtcp.udp]\nenabled = true\nfirst_port = 4100\n",
        ),
        (
            "-U -b 30000 -i gif\\d+",
            "[dtcp]\ninterfaces = \"gif\\\\d+\"\nroutetable = \"/usr/local/etc/routetable\"\n\n\
             [dtcp.udp]\nenabled = true\nfirst_port = 30000\nlast_port = 65535\n",
        ),
    ] {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let import = parse(&arguments).unwrap();
        let text = import.to_toml();
        let section = text.lines().skip_while(|line| line.starts_with('#'));
        let section = section.collect::<Vec<_>>().join("\n") + "\n";
        assert_eq!(section, expected, "{line}");
        assert_eq!(read(&text).unwrap(), import.config, "{text}");
        assert_eq!(import.config.check(), Vec::<String>::new());
    }
}

#[test]
fn options_without_a_meaning_here_are_noted() {
    let import = parse(&["-dD", "-I", "ng5", "-F", "3"]).unwrap();
    for option in ["-d:", "-D:", "-I:", "-F:"] {
        assert!(
            import.notes.iter().any(|note| note.starts_with(option)),
            "{option}"
        );
    }
}

#[test]
fn wrong_command_lines_are_refused() {
    assert_eq!(parse(&["-x"]), Err(Error::Unknown('x')));
    assert_eq!(parse(&["-p"]), Err(Error::Value('p')));
    assert!(matches!(
        parse(&["-p", "0"]),
        Err(Error::Bad { option: 'p', .. })
    ));
    assert!(matches!(
        parse(&["-g", "example"]),
        Err(Error::Bad { option: 'g', .. })
    ));
    assert!(matches!(parse(&["2001:db8"]), Err(Error::Prefix(_))));
    assert_eq!(parse(&["2001:db8::", "x"]), Err(Error::Arguments(2)));
}

#[tokio::test]
async fn server_does_not_start_on_mistakes() {
    let start = |config| Server::start(config, std::sync::Arc::new(Fake::new(&[])));
    let bad = start(Config {
        mtu: 100,
        ..config()
    })
    .unwrap_err();
    assert!(bad.to_string().contains("mtu"), "{bad}");
    let missing = start(Config {
        routetable: Some("/nonexistent".into()),
        ..config()
    })
    .unwrap_err();
    assert!(missing.to_string().contains("/nonexistent"), "{missing}");
    let first = start(config()).unwrap();
    let port = first.addresses()[0].port();
    let taken = start(Config { port, ..config() }).unwrap_err();
    assert!(taken.to_string().contains(&port.to_string()), "{taken}");
}

#[tokio::test]
async fn reload_moves_the_listener_and_keeps_sessions() {
    let bed = crate::bed::Bed::new(config());
    let mut old = bed.logged_in(1, "alice", "host").await;
    let listen = vec!["127.0.0.3".parse().unwrap()];
    bed.server
        .reload(Config {
            listen,
            banner: "other".into(),
            ..config()
        })
        .await
        .unwrap();
    let at = bed.server.addresses()[0];
    assert_eq!(at.ip().to_string(), "127.0.0.3");
    let mut new = crate::client::Client::raw(at, crate::bed::from(2)).await;
    assert!(new.line().await.unwrap().ends_with(" other"));
    old.pings().await;
    // What cannot be listened on changes nothing.
    let listen = vec!["192.0.2.77".parse().unwrap()];
    assert!(
        bed.server
            .reload(Config { listen, ..config() })
            .await
            .is_err()
    );
    assert_eq!(bed.server.addresses(), [at]);
    old.pings().await;
}

/// A port that was free a moment ago, at every address.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    socket.local_addr().unwrap().port()
}

fn listening_at(ip: &str, port: u16) -> Config {
    Config {
        listen: vec![ip.parse().unwrap()],
        port,
        ..config()
    }
}

#[tokio::test]
async fn reload_moves_between_all_addresses_and_one_on_the_same_port() {
    let port = free_port();
    let bed = crate::bed::Bed::new(listening_at("127.0.0.1", port));
    let other = std::net::SocketAddr::from(([127, 0, 0, 9], port));
    let mut old = bed.logged_in(1, "alice", "host").await;
    for round in 0..3 {
        bed.server
            .reload(listening_at("0.0.0.0", port))
            .await
            .unwrap();
        assert_eq!(bed.server.addresses(), [([0, 0, 0, 0], port).into()]);
        let mut new = crate::client::Client::connect(other, crate::bed::from(2 + round)).await;
        new.pings().await;
        bed.server
            .reload(listening_at("127.0.0.1", port))
            .await
            .unwrap();
        assert_eq!(bed.server.addresses(), [([127, 0, 0, 1], port).into()]);
        bed.until("nobody listens elsewhere", |_| {
            std::net::TcpStream::connect(other).is_err()
        })
        .await;
        new.pings().await;
        bed.client(40 + round).await.pings().await;
    }
    old.pings().await;
}

#[tokio::test]
async fn reload_to_addresses_that_are_taken_leaves_the_listener_as_it_was() {
    let port = free_port();
    let bed = crate::bed::Bed::new(listening_at("127.0.0.1", port));
    let at = bed.server.addresses();
    let _stranger = std::net::TcpListener::bind(("127.0.0.77", port)).unwrap();
    let mut partly = listening_at("0.0.0.0", port);
    partly.listen.push("192.0.2.77".parse().unwrap());
    for bad in [listening_at("0.0.0.0", port), partly] {
        let error = bed.server.reload(bad).await.unwrap_err().to_string();
        assert!(error.contains("0.0.0.0"), "{error}");
        assert_eq!(bed.server.addresses(), at);
        bed.client(1).await.pings().await;
    }
    // Nobody else can have the port since.
    let thief = tokio::net::TcpSocket::new_v4().unwrap();
    thief.set_reuseaddr(true).unwrap();
    thief.set_reuseport(true).unwrap();
    let error = thief.bind(at[0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    // Two that overlap cannot both be had.
    let mut both = listening_at("127.0.0.1", port);
    both.listen.push("0.0.0.0".parse().unwrap());
    assert!(bed.server.reload(both).await.is_err());
    assert_eq!(bed.server.addresses(), at);
}

#[tokio::test]
async fn address_of_a_reload_is_bound_as_the_new_configuration_says() {
    let bed = crate::bed::Bed::new(config());
    let other = crate::bed::from(0);
    let mut shared = config();
    shared.listen.push(other);
    shared.share_port = true;
    bed.server.reload(shared.clone()).await.unwrap();
    let bound = bed.server.addresses();
    let new = bound.iter().find(|address| address.ip() == other).unwrap();
    // Another process may share it.
    shared.listen = vec![other];
    shared.port = new.port();
    let fake = std::sync::Arc::new(Fake::new(&[]));
    let second = Server::start(shared, fake).unwrap();
    assert_eq!(second.addresses(), [*new]);
}

#[tokio::test(start_paused = true)]
async fn traffic_timeout_needs_a_source_and_ends_quiet_tunnels() {
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Counting(AtomicU64);
    impl sixferry_dtcp::TrafficSource for Counting {
        fn packets<'a>(
            &'a self,
            tunnels: &'a [sixferry_lifecycle::TunnelId],
        ) -> futures::future::BoxFuture<'a, Vec<Option<u64>>> {
            // For the first 100 looks something arrives each time.
            let look = self.0.fetch_add(1, Ordering::Relaxed).min(100);
            let seen = vec![Some(look); tunnels.len()];
            Box::pin(async move { seen })
        }
    }

    let mut config = config();
    config.timeouts.traffic = Duration::from_secs(30);
    let fake = std::sync::Arc::new(Fake::new(&crate::bed::ACCOUNTS));
    assert!(Server::start(config.clone(), fake.clone()).is_err());
    let source = std::sync::Arc::new(Counting(AtomicU64::new(0)));
    let server = Server::start_with(config, fake.clone(), Some(source)).unwrap();
    let mut client =
        crate::client::Client::connect(server.addresses()[0], crate::bed::from(1)).await;
    assert!(
        client
            .login("alice", "s3cret", "host")
            .await
            .starts_with("+OK ")
    );
    let start = tokio::time::Instant::now();
    let line = client.line().await;
    assert_eq!(
        line.as_deref(),
        Some("-ERR connection timed out, disconnecting")
    );
    let elapsed = start.elapsed().as_secs();
    // 100 looks 2 s apart, then 30 s of nothing: before the idle limit of 300 s.
    assert!((225..=235).contains(&elapsed), "{elapsed}");
}
