//! `sixferry-pktgen` between the two ends of a veth pair.

#![cfg(feature = "e2e")]

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sixferry-pktgen");
const MAC: &str = "02:00:00:00:00:01";

/// Two interfaces that are each other's peer, in a namespace that goes when this does.
struct Wire(String);

impl Wire {
    fn new(name: &str) -> Self {
        let namespace = format!("sfg-{}-{name}", std::process::id());
        run(&["ip", "netns", "add", &namespace]);
        let wire = Self(namespace);
        wire.inside(&[
            "ip", "link", "add", "a0", "type", "veth", "peer", "name", "b0",
        ]);
        for end in ["a0", "b0"] {
            // frames redirected into a veth need its peer to poll, which GRO switches on
            wire.inside(&["ethtool", "-K", end, "gro", "on"]);
            wire.inside(&["ip", "link", "set", end, "up"]);
        }
        wire
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]).args(args);
        command.stdin(Stdio::null());
        command
    }

    fn inside(&self, words: &[&str]) {
        let output = self.command(words[0], &words[1..]).output().expect("ip");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// A sink that takes frames.
    fn sink(&self, args: &[&str]) -> Child {
        let args = [&["sink", "b0", "--json"], args].concat();
        let mut command = self.command(PROGRAM, &args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut sink = command.spawn().expect("the sink");
        let mut line = String::new();
        let said = sink.stderr.take().expect("a pipe");
        let mut said = BufReader::new(said);
        said.read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "b0: native XDP");
        // what it says later must not meet a closed pipe
        std::thread::spawn(move || said.lines().for_each(drop));
        sink
    }

    fn send(&self, args: &[&str]) -> Output {
        let fixed = ["send", "a0", "--to-mac", MAC, "--json", "--quiet"];
        let args = [&fixed, args].concat();
        self.command(PROGRAM, &args)
            .output()
            .expect("the generator")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status();
    assert!(status.expect("a program").success(), "{words:?}");
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
#[ignore = "needs root"]
fn every_frame_is_counted_once_and_timed() {
    let wire = Wire::new("count");
    for (encap, mode) in [
        ("6in4", "xdp"),
        ("native", "auto"),
        ("6to4", "packet"),
        ("udp", "xdp"),
        ("teredo", "packet"),
    ] {
        let sink = wire.sink(&["--count", "20000", "--duration", "60"]);
        let sent = wire.send(&[
            "--encap",
            encap,
            "--mode",
            mode,
            "--count",
            "20000",
            "--rate",
            "40k",
            "--flows",
            "300",
            "--size",
            "imix",
            "--tag-every",
            "10",
        ]);
        let arrived = sink.wait_with_output().expect("the sink");
        assert!(arrived.status.success(), "{encap}: {arrived:?}");
        let (sent, arrived) = (json(&sent), json(&arrived));
        assert_eq!(sent["sent"], 20000, "{encap}");
        assert_eq!(arrived["received"], 20000, "{encap}");
        assert_eq!(arrived["bytes"], sent["bytes"], "{encap}");
        assert_eq!(sent["tagged"], arrived["tagged"], "{encap}");
        for wrong in ["duplicates", "reordered", "skewed"] {
            assert_eq!(arrived[wrong], 0, "{encap}: {wrong}");
        }
        let delays = &arrived["delay_nanoseconds"];
        assert_eq!(delays["count"], arrived["tagged"], "{encap}");
        assert!(delays["min"].as_f64() <= delays["p50"].as_f64(), "{encap}");
    }
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_refuses_live_frames_gets_others() {
    let wire = Wire::new("refuse");
    wire.inside(&["ethtool", "-K", "b0", "gro", "off"]);
    let sent = wire.send(&["--count", "1000"]);
    assert!(sent.status.success(), "{sent:?}");
    let sent = json(&sent);
    let mode = sent["mode"].as_str().unwrap_or_default();
    assert!(mode.starts_with("packet socket; not XDP: "), "{mode}");
    assert_eq!(sent["sent"], 1000);
}

#[test]
#[ignore = "needs root"]
fn measure_tells_rates_and_delays_of_a_wire() {
    let wire = Wire::new("measure");
    let args = ["measure", "a0", "b0", "--to-mac", MAC, "--json", "--quiet"];
    let more = [
        "--trial", "0.1", "--rounds", "1", "--rate", "100k", "--loss", "0.5",
    ];
    let args = [&args[..], &more].concat();
    let output = wire.command(PROGRAM, &args).output().expect("a run");
    assert!(output.status.success(), "{output:?}");
    let measured = json(&output);
    assert_eq!(measured["flat_out_mpps"]["rounds"], 1);
    assert!(measured["loss_free_mpps"]["median"].as_f64() > Some(0.0));
    assert!(measured["rounds"][0]["delays"]["count"].as_u64() > Some(0));
    let nothing = ["measure", "b0", "b0", "--to-mac", MAC, "--rounds", "1"];
    let failed = wire.command(PROGRAM, &nothing).output().expect("a run");
    assert_eq!(failed.status.code(), Some(2));
    let why = String::from_utf8_lossy(&failed.stderr);
    assert!(why.contains("none arrived at b0"), "{why}");
}

#[test]
fn nonsense_is_refused_with_a_reason() {
    let refused = |args: &[&str]| {
        let output = Command::new(PROGRAM).args(args).output().expect("a run");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let send = |more: &[&str]| {
        let fixed = ["send", "no-such", "--to-mac", MAC, "--from-mac", MAC];
        refused(&[&fixed[..], more].concat())
    };
    assert!(send(&[]).contains("interface no-such"));
    assert!(send(&["--size", "60"]).contains("need 82"));
    assert!(send(&["--rate", "0"]).contains("frames a second"));
    assert!(send(&["--encap", "gre"]).contains("6in4"));
    assert!(refused(&["send", "lo", "--to-mac", "02:00"]).contains("six bytes"));
    assert!(refused(&["sink", "no-such"]).contains("interface no-such"));
}
