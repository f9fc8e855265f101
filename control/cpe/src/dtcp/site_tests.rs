use super::*;

fn grant(text: &str) -> Grant {
    Grant::parse(text).expect("a grant")
}

fn echo(grant: &Grant, plan: &Plan) -> (String, String) {
    match keepalive(grant, Ipv4Addr::new(192, 0, 2, 10), plan) {
        Keepalive::Echo {
            source,
            destination,
        } => (source.to_string(), destination.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_keepalive_comes_from_an_address_the_server_gave() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let host = grant("192.0.2.10 198.51.100.1 2001:db8:ffff::6 2001:db8:ffff::5 udp 4028");
    assert_eq!(
        echo(&host, &Plan::default()),
        pair("2001:db8:ffff::6", "2001:db8:ffff::5")
    );
    let network = grant("192.0.2.10 198.51.100.1 2001:db8:100::/48 udp 4028");
    assert_eq!(
        echo(&network, &Plan::default()),
        pair("2001:db8:100::1", "ff02::2")
    );
    let delegated = Plan {
        lan: vec![(3, "2001:db8:100:5::7/64".parse().expect("address"))],
        ..Plan::default()
    };
    assert_eq!(
        echo(&network, &delegated),
        pair("2001:db8:100:5::7", "ff02::2")
    );
    let bare = grant("192.0.2.10 198.51.100.1 udp 4028");
    assert_eq!(
        echo(&bare, &Plan::default()),
        pair("fe80::c000:20a", "ff02::2")
    );
}

#[test]
fn a_pid_file_goes_with_its_owner() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pid");
    let file = PidFile::write(&path).expect("written");
    let text = fs::read_to_string(&path).expect("there");
    assert_eq!(text, format!("{}\n", std::process::id()));
    drop(file);
    assert!(!path.exists());
    assert!(PidFile::write(Path::new("/nonexistent/pid")).is_err());
}
