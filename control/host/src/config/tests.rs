use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use sixferry_client::Target;

use super::*;

/// A directory with nothing in it, and a file's head that keeps everything inside.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, rest: &str) -> String {
        format!("[control]\nstate_dir = {:?}\n{rest}", self.path("state"))
    }

    fn check_only(&self, rest: &str, only: Option<Only>) -> Checked {
        check_text(&self.text(rest), Path::new("c.toml"), only)
    }

    fn check(&self, rest: &str) -> Checked {
        self.check_only(rest, None)
    }

    fn config(&self, rest: &str) -> Config {
        let checked = self.check(rest);
        let findings: Vec<_> = checked.findings.iter().map(ToString::to_string).collect();
        checked.config.unwrap_or_else(|| panic!("{findings:?}"))
    }

    fn only_error(&self, rest: &str) -> String {
        let checked = self.check(rest);
        assert!(checked.config.is_none());
        let lines: Vec<_> = checked.errors().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    }
}

#[test]
fn an_empty_file_has_the_defaults_of_the_design() {
    let checked = check_text("", Path::new("c.toml"), Some(Only::Dtcp));
    assert!(checked.config.is_none(), "--only dtcp wants its section");
    let host = Host::new();
    let config = host.config("");
    assert_eq!(
        config.unix_socket,
        Some("/run/sixferry/control.sock".into())
    );
    assert_eq!(config.metrics, Some("127.0.0.1:9465".parse().unwrap()));
    assert_eq!(config.tcp, None);
    let database = host.path("state/control.db");
    assert_eq!(config.store.file(), Some(database.as_path()));
    assert_eq!(config.store.key_file, host.path("state/control.key"));
    assert_eq!(config.lifecycle.grace, Duration::from_secs(90));
    let [dataplane] = &config.lifecycle.dataplanes[..] else {
        panic!("one dataplane");
    };
    assert_eq!(
        dataplane.target,
        Target::Unix("/run/sixferry/dataplane.sock".into())
    );
    assert!(config.runs_lifecycle() && config.runs_dtcp().is_none());
}

#[test]
fn each_mistake_is_one_line_with_its_place() {
    let host = Host::new();
    for (rest, expected) in [
        (
            "nonsense = 1\n",
            "c.toml:3:1: [control]: unknown key `nonsense`; known here:",
        ),
        (
            "[dtcp]\nport = 1\nbanana = 2\n",
            "c.toml:5:1: [dtcp]: unknown key `banana`",
        ),
        (
            "[dataplanes]\n",
            "c.toml:3:2: [dataplanes]: unknown key `dataplanes`",
        ),
        (
            "[lifecycle]\ngrace_seconds = 90000\n",
            "c.toml:4:17: lifecycle.grace_seconds: 90000 is outside 0..86400",
        ),
        (
            "[lifecycle]\nmax_tunnels = 0\n",
            "c.toml:4:15: lifecycle.max_tunnels: 0 is outside 1..",
        ),
        (
            "[log]\nformat = \"xml\"\n",
            "c.toml:4:10: log.format: \"xml\" is unknown; text or json",
        ),
        (
            "[log]\nlevel = \"lo=ud=x\"\n",
            "c.toml:4:9: log.level: \"lo=ud=x\" is no level",
        ),
        (
            "[metrics]\nlisten = \"here\"\n",
            "c.toml:4:10: metrics.listen: \"here\" is no address and port",
        ),
        (
            "[store]\nurl = \"mysql://u:geheim@h/d\"\n",
            "c.toml:4:7: store.url: begins neither with sqlite:/",
        ),
        (
            "[store]\nurl = \"sqlite:/nonexistent/deeper/x.db\"\n",
            "c.toml:4:7: store.url: /nonexistent",
        ),
        (
            "tcp = { listen = \"[::]:5843\" }\n",
            "c.toml:3:7: control.tcp.",
        ),
        ("[dtcp]\nmtu = 1200\n", "c.toml:4:7: dtcp.mtu: 1280 to 1480"),
        (
            "[dtcp.udp]\nenabled = true\nfirst_port = 9\nlast_port = 8\n",
            "c.toml:5:14: dtcp.udp.first_port: 1 or more",
        ),
        (
            "[dtcp.timeouts]\ntraffic = 30\n",
            "c.toml:4:11: dtcp.timeouts.traffic: this daemon does not count packets",
        ),
        (
            "[dtcp]\nport = 9465\n",
            "c.toml:4:8: dtcp.port: port 9465 is also that of metrics.listen",
        ),
        (
            "unix_socket = \"\"\n",
            "c.toml:3:15: control: neither unix_socket nor tcp",
        ),
        (
            "[[dataplane]]\nname = \"a b\"\n",
            "c.toml:4:8: dataplane[0].name: \"a b\" is no name",
        ),
        (
            "[[dataplane]]\naddress = \"relay\"\n",
            "c.toml:4:11: dataplane[0].address: \"relay\" is neither unix:PATH nor HOST:PORT",
        ),
        (
            "[[dataplane]]\nname = \"a\"\n[[dataplane]]\nname = \"a\"\naddress = \"unix:/x\"\n",
            "c.toml:5:1: dataplane[1].name: \"a\" is also that of the dataplane of line 3",
        ),
        (
            "[[dataplane]]\nname = \"a\"\n[[dataplane]]\nname = \"b\"\n",
            "c.toml:5:1: dataplane[1].address: \"/run/sixferry/dataplane.sock\" is also that of",
        ),
    ] {
        let checked = host.check(rest);
        let lines: Vec<_> = checked.errors().map(ToString::to_string).collect();
        assert!(
            lines.iter().any(|line| line.starts_with(expected)),
            "{rest}: {lines:?}"
        );
        assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
        assert!(
            lines.iter().all(|line| !line.contains("geheim")),
            "{lines:?}"
        );
    }
}

#[test]
fn tcp_needs_its_files() {
    let host = Host::new();
    let rest = "[control.tcp]\nlisten = \"127.0.0.1:5843\"\ncert = \"/nonexistent/c.pem\"\n";
    let lines: Vec<_> = host.check(rest).errors().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("/nonexistent/c.pem")),
        "{lines:?}"
    );
    assert!(
        lines.iter().any(|line| line.contains("client_ca: missing")),
        "{lines:?}"
    );
}

#[test]
fn the_key_must_be_there_when_the_store_is_and_be_ours_alone() {
    let host = Host::new();
    std::fs::create_dir(host.path("state")).unwrap();
    host.config("");
    std::fs::write(host.path("state/control.db"), b"SQLite format 3\0rest").unwrap();
    let line = host.only_error("");
    assert!(
        line.contains("store.key_file") && line.contains("put the key back"),
        "{line}"
    );

    let key = host.path("state/control.key");
    std::fs::write(&key, [7_u8; 32]).unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let line = host.only_error("");
    assert!(line.contains("control.key"), "{line}");

    std::fs::write(host.path("state/control.db"), b"plain text, no database").unwrap();
    let lines: Vec<_> = host.check("").errors().map(ToString::to_string).collect();
    assert!(
        lines.iter().any(|line| line.contains("is no SQLite file")),
        "{lines:?}"
    );
}

#[test]
fn a_password_in_a_file_for_everybody_is_a_warning() {
    let host = Host::new();
    let file = host.path("c.toml");
    let text = host.text("[store]\nurl = \"postgres://sixferry:geheim@db/sixferry\"\n");
    std::fs::write(&file, &text).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let (_, checked) = check_file(&file, None);
    let config = checked.config.as_ref().expect("a warning stops nothing");
    assert_eq!(checked.findings.len(), 1);
    let line = checked.findings[0].to_string();
    assert!(
        line.contains("has a password") && !line.contains("geheim"),
        "{line}"
    );
    assert!(!format!("{config:?}").contains("geheim"));
    std::fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(check_file(&file, None).1.findings, []);
}

#[test]
fn a_plugin_alone_has_its_own_socket_and_no_metrics() {
    let host = Host::new();
    let checked = host.check_only("[dtcp]\n", Some(Only::Dtcp));
    let config = checked.config.unwrap();
    assert_eq!(
        config.unix_socket,
        Some("/run/sixferry/control-dtcp.sock".into())
    );
    assert_eq!(config.metrics, None);
    let lifecycle = Target::Unix("/run/sixferry/control.sock".into());
    assert_eq!(config.remote, Some(lifecycle));
    assert!(!config.runs_lifecycle() && config.runs_dtcp().is_some());

    let checked = host.check_only("[dtcp]\n", Some(Only::Lifecycle));
    let config = checked.config.unwrap();
    assert!(config.runs_lifecycle() && config.runs_dtcp().is_none());
}

#[test]
fn a_plan_names_what_changes_and_what_needs_a_restart() {
    let host = Host::new();
    let old = host.config("");
    let new = host.config(
        "unix_socket = \"/run/other.sock\"\n[lifecycle]\ngrace_seconds = 5\n[log]\nlevel = \
         \"debug\"\n[dtcp]\n",
    );
    let plan = Plan::between(&old, &new);
    assert_eq!(
        plan.changes,
        ["log.level: info -> debug", "dtcp: switched on"]
    );
    assert_eq!(plan.restart_required, ["control.unix_socket", "lifecycle"]);
    assert_eq!(Plan::between(&old, &host.config("")), Plan::default());
}

#[test]
fn a_missing_file_says_what_to_do() {
    let (_, checked) = check_file(Path::new("/nonexistent/control.toml"), None);
    assert_eq!(
        checked.findings[0].to_string(),
        "/nonexistent/control.toml: no such file; create it or name another with --config"
    );
}

#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let text = include_str!("../../control.example.toml");
    let host = Host::new();
    let state = host.path("state").display().to_string();
    let text = text.replace("/var/lib/sixferry", &state);
    let checked = check_text(&text, Path::new("control.example.toml"), None);
    let findings: Vec<_> = checked.findings.iter().map(ToString::to_string).collect();
    let example = checked.config.unwrap_or_else(|| panic!("{findings:?}"));
    let defaults = host.config("");
    let plan = Plan::between(&defaults, &example);
    assert_eq!(plan.restart_required, Vec::<String>::new());
}
