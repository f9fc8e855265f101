//! The daemon as its operator meets it: exit codes, one-line errors, reload, metrics, mutual TLS.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustix::process::{Pid, Signal, kill_process};
use sixferry_client::control::{ControlClient, api};
use sixferry_client::{Options, Target, TlsFiles};

const PATIENCE: Duration = Duration::from_secs(30);
const OPTIONS: Options = Options {
    timeout: Duration::from_secs(5),
};

struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts it and waits until it answers.
    fn start(home: &Path) -> Self {
        let log = home.join("log");
        let child = command(home)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut daemon = Self { child, log };
        daemon.until("it answers", || {
            let runtime = runtime();
            let target = Target::Unix(home.join("control.sock"));
            runtime.block_on(users(&target)).is_ok()
        });
        daemon
    }

    fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}\n{}", self.log());
            assert!(Instant::now() < end, "not: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

async fn users(target: &Target) -> Result<u64, sixferry_client::Error> {
    let client = ControlClient::connect(target, &OPTIONS).await?;
    let listed = client.list_users(api::ListUsersRequest::default()).await?;
    Ok(listed.total_count)
}

fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sixferry-control"));
    command.arg("--config").arg(home.join("control.toml"));
    command
}

/// A port of this host that nothing uses now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A configuration with the lines of `more` after those of `[control]`.
fn write(home: &Path, more: &str) {
    let at = |name: &str| home.join(name).display().to_string();
    let text = format!(
        "[control]\nstate_dir = \"{}\"\nunix_socket = \"{}\"\n{more}\n\
         [[dataplane]]\nname = \"nobody\"\naddress = \"unix:{}\"\n",
        at("state"),
        at("control.sock"),
        at("nobody.sock"),
    );
    fs::write(home.join("control.toml"), text).unwrap();
}

fn no_metrics(more: &str) -> String {
    format!("[metrics]\nlisten = \"\"\n{more}")
}

fn text(output: &Output) -> String {
    let out = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(out).unwrap()
}

#[test]
fn check_says_fine_or_names_every_line_and_exits_with_2() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &no_metrics("[dtcp]"));
    let good = command(dir.path()).arg("--check").output().unwrap();
    assert!(good.status.success(), "{}", text(&good));
    assert!(text(&good).contains("fine (lifecycle with 1 dataplane(s), dtcp)"));
    assert!(!dir.path().join("state").exists(), "a check makes nothing");

    write(
        dir.path(),
        &no_metrics("[lifecycle]\ngrace_seconds = 100000\n[dtcp]\nmtu = 20"),
    );
    let bad = command(dir.path()).arg("--check").output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
    let said = text(&bad);
    for place in ["control.toml:7:17:", "control.toml:9:7:"] {
        assert!(said.contains(place), "{place}: {said}");
    }
    write(dir.path(), "no_such_key = 1");
    let bad = command(dir.path()).output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
    let said = text(&bad);
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(
        said.contains("control.toml:4:") && said.contains("no_such_key"),
        "{said}"
    );
}

fn greeting(port: u16) -> Option<String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line)
}

#[test]
fn hangup_applies_a_good_file_and_keeps_the_old_one_on_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let section = |keys: &str| {
        no_metrics(&format!(
            "[dtcp]\nlisten = [\"127.0.0.1\"]\nport = {port}\n{keys}"
        ))
    };
    write(dir.path(), &section("banner = \"one\""));
    let mut daemon = Daemon::start(dir.path());
    let greets = |with: &str| greeting(port).is_some_and(|line| line.trim_end().ends_with(with));
    daemon.until("the first greeting", || greets(" one"));
    write(dir.path(), &section("banner = \"two\""));
    daemon.signal(Signal::HUP);
    daemon.until("the second greeting", || greets(" two"));

    write(dir.path(), &section("banner = \"three\"\nmtu = 20"));
    daemon.signal(Signal::HUP);
    let log = daemon.log.clone();
    daemon.until("a refusal", || {
        fs::read_to_string(&log).unwrap().contains("reload refused")
    });
    assert!(
        daemon.log().contains("control.toml:10:"),
        "{}",
        daemon.log()
    );
    assert!(greets(" two"));

    daemon.signal(Signal::TERM);
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = daemon.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}\n{}", daemon.log());
    assert!(!dir.path().join("control.sock").exists());
    assert!(greeting(port).is_none());
}

fn metrics_page(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[test]
fn metrics_page_has_the_names_of_every_part() {
    let dir = tempfile::tempdir().unwrap();
    let (metrics, port) = (free_port(), free_port());
    let more = format!(
        "[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n\
         [dtcp]\nlisten = [\"127.0.0.1\"]\nport = {port}"
    );
    write(dir.path(), &more);
    let mut daemon = Daemon::start(dir.path());
    daemon.until("a greeting", || greeting(port).is_some());
    let mut page = String::new();
    // a part greets a moment before it is said to be up
    daemon.until("the part is up", || {
        page = metrics_page(metrics);
        page.contains("\nsixferry_control_part_up{part=\"dtcp\"} 1")
    });
    for name in [
        "sixferry_control_build_info{",
        "sixferry_control_part_up{part=\"lifecycle\"} 1",
        "sixferry_control_users 0",
        "sixferry_control_tunnels{state=\"active\"} 0",
        "sixferry_control_dataplane_up{dataplane=\"nobody\"} 0",
        "sixferry_control_logins_total 0",
        "sixferry_dtcp_sessions ",
        "sixferry_dtcp_accepted_total ",
    ] {
        assert!(page.contains(&format!("\n{name}")), "{name}: {page}");
    }
}

#[test]
fn second_daemon_on_the_same_store_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &no_metrics(""));
    let mut first = Daemon::start(dir.path());
    let again = command(dir.path()).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    let said = text(&again);
    assert!(said.contains("another sixferry-control serves"), "{said}");

    let other = tempfile::tempdir().unwrap();
    let url = format!(
        "url = \"sqlite:{}\"",
        dir.path().join("state/control.db").display()
    );
    let key = format!(
        "key_file = \"{}\"",
        dir.path().join("state/control.key").display()
    );
    write(other.path(), &no_metrics(&format!("[store]\n{url}\n{key}")));
    let second = command(other.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(2), "{}", text(&second));
    let said = text(&second);
    let line = said
        .lines()
        .filter(|line| line.starts_with("sixferry-control: "));
    let line: Vec<&str> = line.collect();
    assert!(
        matches!(line[..], [line] if line.contains("another process uses this store")),
        "{said}"
    );
    first.until("it still runs", || true);
}

fn issue(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    usage: ExtendedKeyUsagePurpose,
    dir: &Path,
    name: &str,
) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
    fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
}

fn authority(dir: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(dir.join(format!("{name}.pem")), issuer.pem()).unwrap();
    issuer
}

#[test]
fn tcp_needs_a_certificate_of_the_right_authority() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (ours, theirs) = (
        authority(dir.path(), "ca"),
        authority(dir.path(), "other-ca"),
    );
    issue(
        &ours,
        ExtendedKeyUsagePurpose::ServerAuth,
        dir.path(),
        "server",
    );
    issue(
        &ours,
        ExtendedKeyUsagePurpose::ClientAuth,
        dir.path(),
        "client",
    );
    issue(
        &theirs,
        ExtendedKeyUsagePurpose::ClientAuth,
        dir.path(),
        "stranger",
    );
    let port = free_port();
    let more = format!(
        "[control.tcp]\nlisten = \"127.0.0.1:{port}\"\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}",
        at("server.pem"),
        at("server-key.pem"),
        at("ca.pem"),
    );
    write(dir.path(), &no_metrics(&more));
    let _daemon = Daemon::start(dir.path());
    let target = |name: &str| Target::Tcp {
        address: format!("localhost:{port}"),
        tls: TlsFiles {
            ca: at("ca.pem"),
            cert: at(&format!("{name}.pem")),
            key: at(&format!("{name}-key.pem")),
            server_name: None,
        },
    };
    let runtime = runtime();
    assert_eq!(runtime.block_on(users(&target("client"))).unwrap(), 0);
    assert!(runtime.block_on(users(&target("stranger"))).is_err());
    // Without any certificate the connection brings nothing.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    assert!(
        !answer.starts_with(&[0, 0]),
        "no HTTP/2 frame: {answer:02x?}"
    );
}
