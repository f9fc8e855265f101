//! A PostgreSQL cluster of its own for a test: in a temporary directory, reached by a unix socket in
//! it and by nothing else, writing durably. Root runs it as `postgres` or `nobody`, because initdb
//! refuses root; anybody else as himself.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long starting and stopping may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster. It ends with this value, and with the thread that started it however that ends.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    programs: PathBuf,
    user: Option<(u32, u32)>,
    server: Option<Child>,
}

impl Cluster {
    /// Makes a cluster and starts it.
    pub fn start() -> io::Result<Cluster> {
        let programs = programs()?;
        let user = rustix::process::geteuid().is_root().then(unprivileged);
        let user = user.transpose()?;
        let dir = tempfile::Builder::new().prefix("sixferry-pg-").tempdir()?;
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        let mut cluster = Cluster {
            dir,
            programs,
            user,
            server: None,
        };
        let data = cluster.data();
        let mut initdb = cluster.program("initdb");
        initdb
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync", "--pgdata"])
            .arg(&data);
        succeed(&mut initdb)?;
        cluster.resume()?;
        Ok(cluster)
    }

    /// URL of a database as its superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let dir = self.dir.path().display();
        format!("postgres:///{database}?host={dir}&user=postgres&sslmode=disable")
    }

    /// Its first process, unless it was killed or stopped.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Makes a schema of its own in the database `postgres`, which is quicker than a database, and
    /// gives the URL that leads there.
    pub fn create_schema(&self, name: &str) -> io::Result<String> {
        self.psql("postgres", &format!("CREATE SCHEMA {name}"))?;
        Ok(self.url("postgres") + "&options[search_path]=" + name)
    }

    /// Executes SQL in a database, for fixtures; gives what psql prints of the rows.
    pub fn psql(&self, database: &str, sql: &str) -> io::Result<String> {
        let mut psql = self.client("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set=ON_ERROR_STOP=1", "--single-transaction"])
            .args(["--dbname", database, "--command", sql]);
        let output = succeed(&mut psql)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Kills it as a power cut would: all its processes, at once.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut server) = self.server.take() {
            // Stopped, it starts no more of them while they are counted.
            let pid = signal(&server, Signal::STOP)?;
            let pid = pid.as_raw_nonzero();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            server.kill()?;
            for child in children.split_whitespace() {
                let child = child.parse().ok().and_then(Pid::from_raw);
                // One may have ended by itself.
                let _ = child.map(|child| kill_process(child, Signal::KILL));
            }
            server.wait()?;
        }
        Ok(())
    }

    /// Stops it in order, with clients connected.
    pub fn stop(&mut self) -> io::Result<()> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        // SIGINT: a fast shutdown.
        signal(&server, Signal::INT)?;
        let deadline = Instant::now() + PATIENCE;
        while server.try_wait()?.is_none() {
            if Instant::now() > deadline {
                server.kill()?;
            }
            pause();
        }
        Ok(())
    }

    /// Starts it again after [`Cluster::kill`] or [`Cluster::stop`].
    pub fn resume(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.server.is_none() {
            let mut server = self.spawn()?;
            loop {
                if self.is_ready(&server) {
                    self.server = Some(server);
                    break;
                }
                // It refuses to start while a process of a killed one is still there.
                if server.try_wait()?.is_some() {
                    if Instant::now() > deadline {
                        return Err(self.log());
                    }
                    pause();
                    break;
                }
                if Instant::now() > deadline {
                    server.kill()?;
                    server.wait()?;
                    return Err(self.log());
                }
                pause();
            }
        }
        Ok(())
    }

    fn spawn(&self) -> io::Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let dir = self.dir.path().display();
        // setpriv: the server must not outlive a test that was killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]);
        if let Some((uid, gid)) = self.user {
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.arg("--clear-groups");
        }
        command
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-c", &format!("unix_socket_directories={dir}")])
            .args(["-c", "listen_addresses=", "-c", "max_connections=40"])
            .args(["-c", "fsync=on", "-c", "shared_buffers=32MB"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
    }

    /// Its pid file says so, and is its own and not the one of a server that was killed.
    fn is_ready(&self, server: &Child) -> bool {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines();
        lines.next() == Some(server.id().to_string().as_str())
            && lines.any(|line| line.trim() == "ready")
    }

    fn client(&self, name: &str) -> Command {
        let mut command = self.program(name);
        command.arg("--username=postgres").arg("--host");
        command.arg(self.dir.path());
        command
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.dir.path());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn log(&self) -> io::Error {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        io::Error::other(format!("PostgreSQL does not start:\n{log}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("PostgreSQL of a test: {error}");
        }
    }
}

fn signal(server: &Child, signal: Signal) -> io::Result<Pid> {
    let pid = i32::try_from(server.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the server has no process id"))?;
    kill_process(pid, signal)?;
    Ok(pid)
}

fn pause() {
    thread::sleep(Duration::from_millis(10));
}

/// Debian keeps each version's programs in a directory of its own; the newest is taken.
fn programs() -> io::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/usr/lib/postgresql").into_iter().flatten() {
        let entry = entry?;
        let version = entry.file_name().to_string_lossy().parse();
        let programs = entry.path().join("bin");
        if let (Ok(version), true) = (version, programs.join("initdb").exists()) {
            found.push((version, programs));
        }
    }
    let newest = found.into_iter().max().map(|(_, programs)| programs);
    newest.ok_or_else(|| io::Error::other("no PostgreSQL server here: install postgresql"))
}

/// User and group of somebody who may run it.
fn unprivileged() -> io::Result<(u32, u32)> {
    let users = fs::read_to_string(Path::new("/etc/passwd"))?;
    let ids = |wanted: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields[..] {
                [name, _, uid, gid, ..] if name == wanted => {
                    Some((uid.parse().ok()?, gid.parse().ok()?))
                }
                _ => None,
            }
        })
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .ok_or_else(|| io::Error::other("neither a user postgres nor nobody"))
}

fn succeed(command: &mut Command) -> io::Result<Output> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {text}")))
}
