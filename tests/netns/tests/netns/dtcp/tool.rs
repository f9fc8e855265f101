//! The operator's tool against the daemons, while users come and go.

use std::fs;
use std::process::Command;

use serde_json::Value;
use sixferry_netns_tests::daemon::program;
use sixferry_netns_tests::login::Login;
use sixferry_netns_tests::process::{Guarded, output, succeed};

use super::*;

/// `sixferry` with both daemons.
struct Tool<'s>(&'s Service);

impl Tool<'_> {
    fn words(&self) -> Vec<String> {
        vec![
            program("sixferry").display().to_string(),
            "--control".to_owned(),
            format!("unix:{}", self.0.control.socket().display()),
            "--socket".to_owned(),
            self.0.daemon.socket().display().to_string(),
        ]
    }

    fn command(&self, words: &str) -> Command {
        let program = self.words();
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).args(words.split(' '));
        command
    }

    fn ok(&self, words: &str) -> String {
        succeed(&mut self.command(words))
    }

    fn json(&self, words: &str) -> Value {
        let text = self.ok(&format!("--json {words}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words}: {error}: {text}"))
    }

    /// A file with the secret of a user.
    fn secret_file(&self, secret: &str) -> String {
        let path = self.0.control.home().join("secret");
        fs::write(&path, format!("{secret}\n")).expect("written");
        path.display().to_string()
    }

    fn add(&self, user: &str) {
        let file = self.secret_file(&secret(user));
        self.ok(&format!("user add {user} --secret-file {file}"));
    }

    /// The session of a user.
    fn session(&self, user: &str) -> Option<u64> {
        let listed = self.json(&format!("session list --user {user}"));
        listed["sessions"][0]["id"].as_u64()
    }
}

#[test]
#[ignore = "needs root"]
fn tool_gives_prefixes_ends_sessions_and_tells_what_happened() {
    let service = Service::start(&[]);
    let tool = Tool(&service);
    tool.add(ALICE.0);
    tool.add(BOB.0);
    tool.ok("pool add homes 2001:db8:1000::/40 --delegate 48");
    tool.ok("pool assign alice homes");
    assert_eq!(tool.json("pool list")["pools"][0]["used"], 1);
    let users = tool.json("user list");
    assert_eq!(users["totalCount"], 2);
    assert_eq!(users["users"][0]["prefixes"][0], "2001:db8:1000::/48");

    let alice = Customer::direct(&service.lab, ALICE.0, 11);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let stays = alice.log_in("-l --retry-max 1 -t network -P lo/1/1");
    both_ways(&service, &alice, inner(&alice, ALICE));
    let tunnel = tool.json("tunnel list --users")["tunnels"][0].clone();
    assert_eq!(
        (&tunnel["user"], &tunnel["state"]),
        (&"alice".into(), &"active".into())
    );
    let id = tunnel["id"].as_str().expect("an id");
    let history = tool.json(&format!("tunnel history {id}"));
    assert_eq!(history["transitions"][0]["cause"], "login", "{history}");

    // A client that is to stay comes back; another one ends.
    let first = tool.session("alice").expect("a session");
    tool.ok(&format!("session disconnect {first}"));
    wait_until("she is back", PATIENCE, || {
        tool.session("alice").is_some_and(|id| id != first)
    });
    let mut leaves = bob.log_in("-t host");
    let id = tool.session("bob").expect("a session");
    tool.ok(&format!("session disconnect {id}"));
    let status = leaves.process().wait(PATIENCE).expect("it ends");
    assert!(
        status.success(),
        "the server closed, as the original's ends: {status}"
    );
    wait_until("his tunnel is gone", SOON, || service.carried() == 1);

    // Logins until the tool, which may have begun only now, has told of one.
    let mut words = tool.words();
    words.extend(
        "--json events --follow --user bob"
            .split(' ')
            .map(str::to_owned),
    );
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let log = service.control.home().join("events");
    let events = Guarded::spawn("sixferry events", &["env"], &words, &log);
    wait_until("a login among the events", PATIENCE, || {
        let mut login = Login::connect(&bob.net, bob.outer);
        assert!(
            login
                .tunnel(BOB.0, &secret(BOB.0), "host")
                .starts_with("+OK ")
        );
        assert!(login.ask("quit").starts_with("+OK "));
        let text = events.log();
        text.contains("\"cause\":\"login\"") && text.contains("\"user\":\"bob\"")
    });
    stays.log_out();
    service.nothing_is_left();
}

#[test]
#[ignore = "needs root"]
fn dtcp_38_what_the_tool_changes_counts_from_the_next_login() {
    let service = Service::start(&[]);
    let tool = Tool(&service);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let log_in = |secret: &str| {
        let mut login = Login::connect(&bob.net, bob.outer);
        let reply = login.tunnel(BOB.0, secret, "tunnelonly");
        (login, reply.starts_with("+OK "))
    };
    assert!(!log_in("first").1, "nobody knows him");
    let file = tool.secret_file("first");
    tool.ok(&format!("user add bob --secret-file {file}"));
    let (mut session, is_in) = log_in("first");
    assert!(is_in);
    let file = tool.secret_file("second");
    tool.ok(&format!("user set bob --secret-file {file}"));
    assert!(session.ask("ping").starts_with("+OK "), "who is in stays");
    assert!(!log_in("first").1);
    assert!(log_in("second").1);
    tool.ok("user set bob --suspend");
    assert!(!log_in("second").1);
    tool.ok("user set bob --resume");
    let (mut session, is_in) = log_in("second");
    assert!(is_in);
    tool.ok("user delete bob");
    assert!(
        session
            .try_line()
            .is_ok_and(|line| line.starts_with("-ERR "))
    );
    assert!(!log_in("second").1);
    assert_eq!(tool.json("user list")["totalCount"], 0);
    let again = output(&mut tool.command("user delete bob"));
    assert_eq!(again.status.code(), Some(1));
    service.nothing_is_left();
}
