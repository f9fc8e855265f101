//! The program as a shell sees it, without a dataplane: exit codes, closed pipes, completion.

use std::io::Read;
use std::process::{Command, Output, Stdio};

fn sixferry(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sixferry"))
        .args(args)
        .env_remove("SIXFERRY_SOCKET")
        .env_remove("SIXFERRY_TCP")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn wrong_usage_is_2_and_names_the_argument() {
    for (args, expected) in [
        (&["tunnel", "frobnicate"][..], "frobnicate"),
        (
            &[
                "tunnel",
                "add",
                "t",
                "--local",
                "x",
                "--remote",
                "192.0.2.1",
            ],
            "--local",
        ),
        (&["tunnel", "set", "t"], "nothing to set"),
        (&["tunnel", "lookup", "192.0.2.1"], "needs both"),
        (
            &["tunnel", "load", "/nonexistent/tunnels.csv"],
            "/nonexistent/tunnels.csv",
        ),
        (
            &["check-config", "/nonexistent/d.toml"],
            "/nonexistent/d.toml",
        ),
        (&["--tcp", "localhost:1", "status"], "--tls-ca"),
    ] {
        let output = sixferry(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).contains(expected),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn no_dataplane_is_2_for_every_command_that_needs_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    for command in [
        &["status"][..],
        &["tunnel", "list"],
        &["tunnel", "delete", "t"],
        &["tunnel", "watch"],
        &["route", "list"],
        &["port", "list"],
        &["drops"],
        &["top"],
        &["reload"],
    ] {
        let output = sixferry(&[&["--socket", socket], command].concat());
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        let text = stderr(&output);
        assert!(
            text.contains("none.sock") && text.contains("sixferryd"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn errors_are_json_on_request() {
    let output = sixferry(&["--json", "--socket", "/nonexistent/x.sock", "status"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("/nonexistent/x.sock"), "{message}");
}

#[test]
fn a_closed_pipe_is_a_clean_end() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sixferry"))
        .args(["completion", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Gone before the first byte: whatever is written meets a closed pipe.
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut text = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!((status.code(), text.as_str()), (Some(0), ""));
}

/// What the shell shows after this line and a tab.
fn complete(words: &[&str]) -> String {
    let index = (words.len() - 1).to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_sixferry"))
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", index)
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "false")
        .env("_CLAP_IFS", "\n")
        .arg("--")
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn words_are_completed_by_the_program_itself() {
    let words = complete(&["sixferry", "tun"]);
    assert_eq!(words.trim(), "tunnel");
    let words = complete(&["sixferry", "domain", "add", "d", "--kind", ""]);
    assert_eq!(
        words.split_whitespace().collect::<Vec<_>>(),
        ["6to4", "6rd"]
    );
    // Names of a daemon that does not run: none, and no complaint.
    let words = complete(&[
        "sixferry",
        "--socket",
        "/nonexistent/x",
        "tunnel",
        "show",
        "a",
    ]);
    assert_eq!(words, "");
}

#[test]
fn completion_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = sixferry(&["completion", shell]);
        assert!(output.status.success(), "{shell}");
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("COMPLETE"), "{shell}: {script}");
    }
}

#[test]
fn doctor_works_without_a_daemon() {
    let output = sixferry(&[
        "doctor",
        "--json",
        "--socket",
        "/nonexistent/x.sock",
        "no-such-if",
    ]);
    // The interface does not exist, so there is a failure whatever this host is like.
    assert_eq!(output.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["status"], "FAIL");
    let checks = value["checks"].as_array().unwrap();
    let find = |name: &str| checks.iter().find(|c| c["name"] == name).unwrap();
    assert_eq!(find("interface")["interface"], "no-such-if");
    assert_eq!(find("daemon")["status"], "WARN");
    assert!(find("kernel")["detail"].as_str().unwrap().contains("Linux"));
    for check in checks {
        let bad = check["status"] != "OK";
        assert_eq!(
            bad,
            check["fix"].is_string(),
            "a fix for all that is not OK: {check}"
        );
    }
}
