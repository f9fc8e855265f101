//! The commands against a real `sixferryd` that has no ports. It needs no root, but it is another
//! package's binary: build it first (`cargo build -p sixferryd`).

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn daemon_binary() -> PathBuf {
    let dir = match std::env::var_os("SIXFERRY_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_BIN_EXE_sixferry"))
            .parent()
            .unwrap()
            .to_owned(),
    };
    let binary = dir.join("sixferryd");
    assert!(
        binary.exists(),
        "{} is missing: cargo build -p sixferryd",
        binary.display()
    );
    binary
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let config = format!(
            "state_dir = \"{}\"\n[api]\nunix_socket = \"{}\"\n[metrics]\nlisten = \"\"\n\
             [router]\naddress = \"2001:db8:ffff::1\"\n\
             [[tunnel]]\nid = \"configured\"\nlocal = \"198.51.100.1\"\nremote = \"192.0.2.200\"\n\
             prefixes = [\"2001:db8:900::/48\"]\n",
            at("state"),
            at("d.sock")
        );
        std::fs::write(dir.path().join("d.toml"), config).unwrap();
        let child = Command::new(daemon_binary())
            .args(["--config", &at("d.toml")])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let daemon = Self { child, dir };
        daemon.wait_until("answers", || daemon.run(&["status"]).status.success());
        daemon
    }

    fn wait_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < end, "not: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sixferry"));
        command
            .args(args)
            .env("SIXFERRY_SOCKET", self.dir.path().join("d.sock"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed and gives its output.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    /// Runs a command that must fail with exit code 1 and gives its error.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

const ADD: &[&str] = &[
    "tunnel",
    "add",
    "user-1",
    "--local",
    "198.51.100.1",
    "--remote",
    "192.0.2.10",
    "--prefix",
    "2001:db8:100::/48",
];

#[test]
#[ignore = "needs sixferryd"]
fn the_life_of_a_tunnel() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ok(ADD), "created\n");
    let tunnel = daemon.json(&["tunnel", "show", "user-1"]);
    assert_eq!(tunnel["prefixes"][0], "2001:db8:100::/48");
    assert_eq!(
        (&tunnel["owner"], &tunnel["mtu"]),
        (&"cli".into(), &1280.into())
    );

    daemon.ok(&[
        "tunnel", "set", "user-1", "--mtu", "1480", "--ttl", "inherit", "--down",
    ]);
    let tunnel = daemon.json(&["tunnel", "show", "user-1"]);
    assert_eq!(tunnel["mtu"], 1480);
    assert_eq!(tunnel["ttlInherit"], true);
    assert_eq!(tunnel["adminUp"], false);
    // What was not named stays.
    assert_eq!(tunnel["prefixes"][0], "2001:db8:100::/48");
    assert_eq!(tunnel["remote"], "192.0.2.10");

    let found = daemon.json(&["tunnel", "lookup", "2001:db8:100::5"]);
    assert_eq!(found["matchedPrefix"], "2001:db8:100::/48");
    let found = daemon.json(&["tunnel", "lookup", "198.51.100.1", "192.0.2.10"]);
    assert_eq!(found["tunnel"]["id"], "user-1");

    let list = daemon.json(&["tunnel", "list"]);
    assert_eq!(list["totalCount"], 2);
    assert_eq!(list["tunnels"].as_array().unwrap().len(), 2);
    assert_eq!(
        daemon.json(&["tunnel", "list", "--owner", "cli"])["tunnels"][0]["id"],
        "user-1"
    );

    assert_eq!(daemon.ok(&["tunnel", "delete", "user-1"]), "deleted\n");
    let error = daemon.refused(&["tunnel", "show", "user-1"]);
    assert!(error.contains("TUNNEL_NOT_FOUND"), "{error}");
}

#[test]
#[ignore = "needs sixferryd"]
fn refusals_name_the_object_and_the_way_out() {
    let daemon = Daemon::start();
    daemon.ok(ADD);
    let with =
        |args: &[&'static str]| [&["tunnel", "add", "x", "--local", "198.51.100.1"], args].concat();
    for (args, expected) in [
        (ADD.to_vec(), "--replace"),
        (with(&["--remote", "192.0.2.10"]), "user-1"),
        (
            with(&["--remote", "192.0.2.9", "--prefix", "2001:db8:100::/48"]),
            "2001:db8:100::/48",
        ),
        (
            with(&["--remote", "192.0.2.9", "--owner", "static"]),
            "OWNER_RESERVED",
        ),
        (vec!["tunnel", "delete", "configured"], "configuration file"),
        (
            vec!["tunnel", "set", "user-1", "--mtu", "1300", "--owner", "me"],
            "--owner",
        ),
        (vec!["tunnel", "set", "nobody", "--mtu", "1300"], "nobody"),
        (
            vec!["route", "add", "2001:db8:5::/48", "--port", "eth9"],
            "eth9",
        ),
        (
            vec!["route", "delete", "2001:db8:5::/48"],
            "ROUTE_NOT_FOUND",
        ),
        (vec!["port", "show", "eth9"], "eth9"),
    ] {
        let error = daemon.refused(&args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    let output = daemon.run(&[ADD, &["--json"]].concat());
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["reason"], "TUNNEL_EXISTS");
    assert_eq!(error["error"]["resource"]["name"], "user-1");
}

#[test]
#[ignore = "needs sixferryd"]
fn load_and_sync_and_back() {
    let daemon = Daemon::start();
    let lines = |count: u32| {
        let line = |n: u32| {
            let remote = format!("10.0.{}.{}", n >> 8, n & 255);
            format!("t{n},198.51.100.1,{remote},2001:db8:1:{n:x}::/64\n")
        };
        (0..count).fold("id,local,remote,prefixes\n".to_owned(), |all, n| {
            all + &line(n)
        })
    };
    let file = daemon.file("t.csv", &lines(1500));
    let checked = daemon.json(&["tunnel", "load", &file, "--validate-only"]);
    assert_eq!(checked["created"], 1500);
    assert_eq!(daemon.json(&["tunnel", "list"])["totalCount"], 1);
    assert_eq!(daemon.json(&["tunnel", "load", &file])["created"], 1500);
    assert_eq!(daemon.json(&["tunnel", "load", &file])["unchanged"], 1500);

    let fewer = daemon.file("fewer.csv", &lines(1490));
    let synced = daemon.json(&["tunnel", "sync", &fewer, "--owner", "cli"]);
    assert_eq!(
        (&synced["unchanged"], &synced["sweptTunnels"]),
        (&1490.into(), &10.into())
    );

    let dump = daemon.ok(&["tunnel", "list", "--owner", "cli", "--jsonl"]);
    let dump = daemon.file("dump.jsonl", &dump);
    assert_eq!(daemon.json(&["tunnel", "load", &dump])["unchanged"], 1490);

    let other = daemon.file(
        "other.csv",
        "id,local,remote\nok,198.51.100.1,192.0.2.1\ntaken,198.51.100.1,10.0.0.5\n",
    );
    let error = daemon.refused(&["tunnel", "load", &other, "--owner", "me"]);
    assert!(
        error.contains("line 3: taken") && error.contains("\"t5\""),
        "{error}"
    );
    // A sync with a refusal removes nothing.
    let error = daemon.refused(&["tunnel", "sync", &other, "--owner", "cli"]);
    assert!(error.contains("taken"), "{error}");
    let list = daemon.json(&["tunnel", "list", "--owner", "cli"]);
    assert_eq!(list["tunnels"].as_array().unwrap().len(), 1490);
}

#[test]
#[ignore = "needs sixferryd"]
fn routes() {
    let daemon = Daemon::start();
    daemon.ok(&["route", "add", "2001:db8:5::/48", "--blackhole"]);
    let route = daemon.json(&["route", "lookup", "2001:db8:5::1"]);
    assert_eq!(route["action"], "blackhole");
    let list = daemon.json(&["route", "list", "--origin", "api"]);
    assert_eq!(list["routes"][0]["destination"], "2001:db8:5::/48");
    let route = daemon.json(&["route", "lookup", "2001:db8:900::1"]);
    assert_eq!(route["tunnelId"], "configured");
    assert_eq!(
        daemon.ok(&["route", "delete", "2001:db8:5::/48"]),
        "deleted\n"
    );
}

#[test]
#[ignore = "needs sixferryd"]
fn watching_ends_cleanly() {
    let daemon = Daemon::start();
    let mut watch = daemon
        .command(&["tunnel", "watch", "--changes-only"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "= 1 tunnels; changes follow");
    daemon.ok(ADD);
    assert!(next().starts_with("+ user-1  198.51.100.1 -> 192.0.2.10  2001:db8:100::/48"));
    daemon.ok(&["tunnel", "delete", "user-1"]);
    assert_eq!(next(), "- user-1  owner cli");
    interrupt(&watch);
    assert_eq!(watch.wait().unwrap().code(), Some(0));

    for command in [
        &["drops", "--watch", "--interval", "100ms"][..],
        &["top", "--json"],
    ] {
        let mut child = daemon
            .command(command)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{command:?}");
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{command:?}");
    }
}

#[test]
#[ignore = "needs sixferryd"]
fn a_watch_whose_reader_leaves_ends_cleanly() {
    let daemon = Daemon::start();
    let mut watch = daemon
        .command(&["drops", "--watch", "--interval", "100ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(watch.stdout.take());
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
#[ignore = "needs sixferryd"]
fn status_ports_drops_top_and_configuration() {
    let daemon = Daemon::start();
    let status = daemon.json(&["status"]);
    assert_eq!(status["info"]["tunnelCount"], 1);
    assert_eq!(status["info"]["pid"], daemon.child.id());
    assert_eq!(status["ports"], serde_json::json!([]));
    assert_eq!(daemon.ok(&["port", "list"]), "no ports\n");
    let drops = daemon.json(&["drops", "--all"]);
    let rows = drops["drops"].as_array().unwrap();
    assert!(rows.len() > 30 && rows.iter().all(|r| r["text"] != ""));
    let top = daemon.json(&["top", "--once", "--interval", "100ms"]);
    assert_eq!(top["topTunnels"], serde_json::json!([]));

    let config = daemon.dir.path().join("d.toml").display().to_string();
    assert_eq!(daemon.json(&["check-config", &config])["valid"], true);
    let bad = daemon.file("bad.toml", "state_dir = \"/x\"\nnonsense = 1\n");
    let output = daemon.run(&["check-config", &bad]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("bad.toml:2") && text.contains("nonsense"),
        "{text}"
    );

    let more = "[[tunnel]]\nid = \"more\"\nlocal = \"198.51.100.1\"\nremote = \"192.0.2.201\"\n";
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&config)
        .unwrap();
    file.write_all(more.as_bytes()).unwrap();
    assert_eq!(daemon.json(&["reload"])["applied"], true);
    assert_eq!(daemon.json(&["tunnel", "show", "more"])["owner"], "static");
}

#[test]
#[ignore = "needs sixferryd"]
fn domains_and_their_routes() {
    let daemon = Daemon::start();
    let ce = [
        "domain",
        "add",
        "ce",
        "--kind",
        "6rd",
        "--role",
        "ce",
        "--local",
        "10.100.0.1",
        "--br",
        "10.0.0.1",
        "--prefix",
        "2001:db8:8000::/33",
        "--v4-common",
        "10.0.0.0/8",
    ];
    assert_eq!(daemon.ok(&ce), "created\n");
    assert!(daemon.refused(&ce).contains("DOMAIN_EXISTS"));
    let domain = daemon.json(&["domain", "show", "ce"]);
    assert_eq!(domain["sixRd"]["br"], "10.0.0.1");
    assert_eq!(domain["dscpCopy"], true);
    assert_eq!(domain["delegatedPrefix"], "2001:db8:b200:80::/57");
    let found = daemon.json(&["domain", "lookup", "10.100.0.1"]);
    assert_eq!(found["delegatedPrefix"], domain["delegatedPrefix"]);
    assert_eq!(found["own"], true);

    daemon.ok(&[
        "domain",
        "set",
        "ce",
        "--br",
        "10.0.0.2",
        "--mtu",
        "1480",
        "--no-input",
    ]);
    let domain = daemon.json(&["domain", "show", "ce"]);
    assert_eq!(domain["sixRd"]["br"], "10.0.0.2");
    assert_eq!(
        domain["sixRd"]["v4MaskLength"], 8,
        "what was not named stays"
    );
    assert_eq!(
        (&domain["mtu"], &domain["input"]),
        (&1480.into(), &false.into())
    );

    daemon.ok(&["route", "add", "2001:db8:f000::/36", "--domain", "ce"]);
    let route = daemon.json(&["route", "lookup", "2001:db8:f000::1"]);
    assert_eq!(
        (&route["action"], &route["domainId"]),
        (&"domain".into(), &"ce".into())
    );
    let error = daemon.refused(&["route", "add", "::/0", "--domain", "nobody"]);
    assert!(error.contains("nobody"), "{error}");
    let error = daemon.refused(&[
        "tunnel", "add", "ce", "--local", "1.2.3.4", "--remote", "1.2.3.5",
    ]);
    assert!(error.contains("ID_IN_USE"), "{error}");

    assert_eq!(daemon.ok(&["domain", "delete", "ce"]), "deleted\n");
    assert_eq!(
        daemon.json(&["domain", "list"])["domains"],
        serde_json::json!([])
    );
    let routes = daemon.json(&["route", "list", "--origin", "api"]);
    assert_eq!(
        routes["routes"],
        serde_json::json!([]),
        "the route went along"
    );
}

#[test]
#[ignore = "needs sixferryd"]
fn what_import_prints_the_daemon_takes() {
    let daemon = Daemon::start();
    let lines = [
        "ifconfig stf0 inet6 2002:905:607::1 prefixlen 24 mtu 1400 link0",
        "route add -inet6 default 2002:909:101::",
    ];
    let text = daemon.ok(&["import", "stf", lines[0], lines[1]]);
    let config = daemon.dir.path().join("d.toml");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(config)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let answer = daemon.json(&["reload"]);
    assert_eq!(answer["applied"], true, "{answer}");
    let of_file = daemon.json(&["domain", "show", "stf0"]);
    assert_eq!(of_file["sixToFour"]["relay"], "9.9.1.1");

    // The commands make the same domain.
    let other = Daemon::start();
    let imported = other.json(&["import", "stf", lines[0], lines[1]]);
    for command in imported["domains"][0]["commands"].as_array().unwrap() {
        let words: Vec<&str> = command.as_str().unwrap().split(' ').skip(1).collect();
        other.ok(&words);
    }
    let mut of_commands = other.json(&["domain", "show", "stf0"]);
    for field in ["owner", "generation", "revision"] {
        of_commands[field] = of_file[field].clone();
    }
    assert_eq!(of_commands, of_file);
}

#[test]
#[ignore = "needs sixferryd"]
fn udp_tunnels_policy_and_a_packet_to_try() {
    let daemon = Daemon::start();
    daemon.ok(&[
        "tunnel",
        "add",
        "u",
        "--local",
        "198.51.100.1",
        "--encap",
        "udp",
        "--local-port",
        "4028",
        "--rebind",
        "inner-source",
        "--mtu-mode",
        "dynamic",
        "--prefix",
        "2001:db8:300::/48",
        "--liveness",
        "passive",
    ]);
    let tunnel = daemon.json(&["tunnel", "show", "u"]);
    assert_eq!(
        (&tunnel["localPort"], &tunnel["rebind"]),
        (&4028.into(), &"inner-source".into())
    );
    assert_eq!(tunnel["state"], "unknown", "nobody was seen yet");
    assert_eq!(tunnel["remote"], Value::Null);
    let found = daemon.json(&["tunnel", "lookup", "198.51.100.1:4028"]);
    assert_eq!(found["tunnel"]["id"], "u");
    daemon.ok(&[
        "tunnel",
        "set",
        "u",
        "--remote",
        "192.0.2.77",
        "--remote-port",
        "40000",
    ]);
    let tunnel = daemon.json(&["tunnel", "show", "u"]);
    assert_eq!(
        tunnel["endpoint"],
        serde_json::json!({ "address": "192.0.2.77", "port": 40_000 })
    );
    let dump = daemon.ok(&["tunnel", "list", "--owner", "cli", "--jsonl"]);
    let dump = daemon.file("dump.jsonl", &dump);
    assert_eq!(daemon.json(&["tunnel", "load", &dump])["unchanged"], 1);
    let error = daemon.refused(&[
        "tunnel",
        "add",
        "v",
        "--local",
        "198.51.100.1",
        "--encap",
        "udp",
        "--local-port",
        "4028",
    ]);
    assert!(error.contains("OUTER_IN_USE"), "{error}");

    let policy = daemon.json(&["policy", "set", "--outer-options", "skip"]);
    assert_eq!(policy["outerOptions"], "skip");
    assert_eq!(policy["overridden"], serde_json::json!(["outer_options"]));
    assert_eq!(
        daemon.json(&["policy", "show"])["icmpErrors"]["perSecond"],
        1000
    );
    assert_eq!(daemon.ok(&["neighbor", "list"]), "no neighbours\n");
}

#[test]
#[ignore = "needs sixferryd"]
fn events_begin_and_end_cleanly() {
    let daemon = Daemon::start();
    let mut child = daemon
        .command(&["events", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "{\"ready\":{}}\n");
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(daemon.ok(&["events", "--for", "100ms"]), "= watching\n");
}

#[test]
#[ignore = "needs sixferryd"]
fn names_of_live_objects_are_completed() {
    let daemon = Daemon::start();
    daemon.ok(ADD);
    let complete = |words: &[&str]| {
        let index = (words.len() - 1).to_string();
        let mut command = daemon.command(&["--"]);
        command.args(words).envs([
            ("COMPLETE", "bash"),
            ("_CLAP_COMPLETE_INDEX", &index),
            ("_CLAP_COMPLETE_COMP_TYPE", "9"),
            ("_CLAP_COMPLETE_SPACE", "false"),
            ("_CLAP_IFS", "\n"),
        ]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(
        complete(&["sixferry", "tunnel", "show", "us"]).trim(),
        "user-1"
    );
    let all = complete(&["sixferry", "tunnel", "delete", ""]);
    assert!(
        all.contains("user-1") && all.contains("configured"),
        "{all}"
    );
}
