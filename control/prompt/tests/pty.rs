//! The prompt at a terminal, with a shell around it as operators have one: what is left of the
//! terminal when the program is gone is what the shell goes on with.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

const PROMPT: &str = "Secret: ";

/// Runs the program, says how it ended, and what the next line at its terminal is.
const SHELL: &str = r#"
    trap : HUP INT QUIT TERM TSTP
    "$0" asks_at_its_terminal --exact --ignored --nocapture
    echo "status $?"
    read -r line
    echo "next [$line]"
"#;

/// Not a test: what the others run at a terminal of its own.
#[test]
#[ignore = "run by the other tests, at a terminal"]
fn asks_at_its_terminal() {
    println!("\npid {}", std::process::id());
    let handled: Vec<i32> = std::env::var("HANDLED")
        .map(|text| text.split(',').map(|n| n.parse().unwrap()).collect())
        .unwrap_or_default();
    match sixferry_prompt::ask(PROMPT, 20, &handled) {
        Ok(line) => println!("\ntyped {:?}", String::from_utf8_lossy(&line)),
        Err(error) => println!("\nerror {error}"),
    }
    if std::env::var_os("STAYS").is_some() {
        loop {
            std::thread::park();
        }
    }
}

struct Session {
    terminal: OwnedFd,
    shell: Child,
    lines: Receiver<String>,
    screen: String,
}

impl Session {
    fn new(environment: &[(&str, &str)]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let end = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let mut shell = Command::new("setsid")
            .args(["--ctty", "sh", "-c", SHELL])
            .arg(std::env::current_exe().unwrap())
            .envs(environment.iter().copied())
            .stdin(end.try_clone().unwrap())
            .stdout(Stdio::piped())
            .stderr(end)
            .spawn()
            .unwrap();
        let lines = lines(shell.stdout.take().unwrap());
        Self {
            terminal,
            shell,
            lines,
            screen: String::new(),
        }
    }

    /// Waits until the program asks, for the n-th time.
    fn asked(environment: &[(&str, &str)]) -> (Self, Pid) {
        let mut session = Self::new(environment);
        let pid = session.says("pid ").parse().unwrap();
        session.prompts(1);
        assert!(!session.echoes());
        (session, Pid::from_raw(pid).unwrap())
    }

    fn prompts(&mut self, times: usize) {
        let until = Instant::now() + PATIENCE;
        while self.screen.matches(PROMPT).count() < times {
            assert!(Instant::now() < until, "no prompt: {:?}", self.screen);
            let mut ready = [PollFd::new(&self.terminal, PollFlags::IN)];
            let second = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            if poll(&mut ready, Some(&second)).unwrap() > 0 {
                self.look();
            }
        }
    }

    /// Reads what is on the screen by now, which must be something.
    fn look(&mut self) {
        let mut bytes = [0; 1024];
        let len = rustix::io::read(&self.terminal, &mut bytes).unwrap();
        self.screen += &String::from_utf8_lossy(&bytes[..len]);
    }

    fn types(&self, keys: &str) {
        let mut terminal = File::from(self.terminal.as_fd().try_clone_to_owned().unwrap());
        terminal.write_all(keys.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.terminal)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
    }

    /// The rest of the next line of the output that begins like this.
    fn says(&self, what: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("never said: {what}"));
            if let Some(rest) = line.strip_prefix(what) {
                return rest.to_owned();
            }
        }
    }

    /// The program is gone with this status, the terminal as it was, and what was typed too.
    fn over(self, status: i32) {
        assert_eq!(self.says("status "), status.to_string());
        assert!(self.echoes(), "the shell is left without echo");
        self.types("ls\n");
        assert_eq!(self.says("next "), "[ls]");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // With what it runs, which may be stopped: both are in one group.
        let _ = kill_process_group(Pid::from_child(&self.shell), Signal::KILL);
        let _ = self.shell.wait();
    }
}

fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The letter of a process's state.
fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn until(what: &str, so: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < until, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_is_typed_is_read_and_not_shown() {
    let (mut session, _) = Session::asked(&[]);
    session.types("open sesame\n");
    assert_eq!(session.says("typed "), r#""open sesame""#);
    // The line end that was typed is all that is shown of it.
    session.look();
    assert_eq!(session.screen, format!("{PROMPT}\r\n"));
    session.over(0);
}

#[test]
fn end_of_input_and_too_long_a_line_are_errors() {
    for (keys, error) in [
        ("\x04", "nothing was typed"),
        ("123456789012345678901\n", "longer than 20 bytes"),
    ] {
        let (session, _) = Session::asked(&[]);
        session.types(keys);
        assert_eq!(session.says("error "), error);
        session.over(0);
    }
    let (session, _) = Session::asked(&[]);
    session.types("\n");
    assert_eq!(session.says("typed "), r#""""#);
    session.over(0);
}

#[test]
fn ctrl_c_and_ctrl_backslash_leave_the_terminal_as_it_was() {
    for (key, signal) in [("\x03", Signal::INT), ("\x1c", Signal::QUIT)] {
        let (session, _) = Session::asked(&[]);
        session.types("half a sec");
        session.types(key);
        session.over(128 + signal.as_raw());
    }
}

#[test]
fn signals_from_elsewhere_leave_the_terminal_as_it_was() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let (session, pid) = Session::asked(&[]);
        session.types("half a sec");
        kill_process(pid, signal).unwrap();
        session.over(128 + signal.as_raw());
    }
}

#[test]
fn a_stop_gives_the_terminal_back_and_asks_again_afterwards() {
    let (mut session, pid) = Session::asked(&[]);
    session.types("half a sec\x1a");
    until("it is stopped", || state(pid) == Some('T'));
    assert!(session.echoes());
    kill_process(pid, Signal::CONT).unwrap();
    session.prompts(2);
    assert!(!session.echoes());
    session.types("open sesame\n");
    assert_eq!(session.says("typed "), r#""open sesame""#);
    session.over(0);
}

#[test]
fn afterwards_signals_do_what_they_did() {
    let (session, pid) = Session::asked(&[("STAYS", "1")]);
    session.types("x\n");
    session.says("typed ");
    kill_process(pid, Signal::TERM).unwrap();
    session.over(128 + Signal::TERM.as_raw());
}

#[test]
fn what_the_caller_handles_is_left_to_it() {
    let handled = Signal::TERM.as_raw().to_string();
    let (session, pid) = Session::asked(&[("STAYS", "1"), ("HANDLED", &handled)]);
    session.types("x\n");
    session.says("typed ");
    // This program has no handler, so nothing happens; the next one is none of its business.
    kill_process(pid, Signal::TERM).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    session.over(128 + Signal::INT.as_raw());
}

#[test]
fn without_a_terminal_nothing_is_asked() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "asks_at_its_terminal",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("error standard input is no terminal"),
        "{text}"
    );
    assert!(output.stderr.is_empty());
}
