//! The two daemons as an operator runs them: configuration file, log file, API on a unix socket.

use super::lab::{self, Lab, Place};
use super::usage::Usage;
use super::{RELAY, User};
use crate::e2e::lab::weigh;
use crate::e2e::{Context, Error};
use sixferry_client::control::{ControlClient, MAX_ENTRIES, api, entry_error, stream_error};
use sixferry_client::{Client, Options, Target};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Ahead of whatever else the machine does.
pub const NICE: i32 = -10;
/// Opening queues, migrating a store and reading it all.
const START: Duration = Duration::from_secs(60);
/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Programs and store of a stand.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `sixferryd`.
    pub dataplane: PathBuf,
    /// `sixferry-control`.
    pub control: PathBuf,
    /// Connections that may wait until the daemon accepts them.
    pub somaxconn: u32,
    /// URL of the store; `None`: a file.
    pub store: Option<String>,
}

/// A daemon; killed on drop.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
    home: TempDir,
}

impl Process {
    fn start(
        lab: &Lab,
        program: &Path,
        name: &'static str,
        text: impl FnOnce(&Path) -> String,
    ) -> Result<Self, Error> {
        let home = lab::directory()?;
        fs::create_dir(home.path().join("state")).during("a state directory")?;
        let config = home.path().join("config.toml");
        fs::write(&config, text(home.path())).during("a configuration")?;
        let log = File::create(home.path().join("log")).during("a log")?;
        let copy = log.try_clone().during("a log")?;
        let child = lab
            .command(Place::Relay, program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .spawn()
            .during(name)?;
        Ok(Self { name, child, home })
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("api.sock")
    }

    /// Waits for `ready`; an error has the end of the log.
    async fn wait(&mut self, ready: impl AsyncFn() -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        while !ready().await {
            let ended = self.child.try_wait().during(self.name)?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                let action = ended.map_or("is not ready".to_owned(), |status| status.to_string());
                return Err(last.join(" | ")).during(format!("{}: {action}", self.name));
            }
            tokio::time::sleep(LOOK).await;
        }
        // not before: on its way it became a session of its own
        weigh(self.child.id(), NICE);
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// `sixferryd` and `sixferry-control`, the one following the other, with users.
#[derive(Debug)]
pub struct Daemons {
    control: Process,
    dataplane: Process,
    client: ControlClient,
    relay: Client,
}

impl Daemons {
    /// Starts both and waits until the control plane is in step with the dataplane.
    ///
    /// # Errors
    /// When one does not start; the error has the end of its log.
    pub async fn start(lab: &Lab, setup: &Setup) -> Result<Self, Error> {
        let mut dataplane = Process::start(lab, &setup.dataplane, "sixferryd", dataplane_config)?;
        let at = Target::Unix(dataplane.socket());
        let options = Options::default();
        dataplane
            .wait(async || Client::connect(&at, &options).await.is_ok())
            .await?;
        let relay = Client::connect(&at, &options).await.during("sixferryd")?;
        let socket = dataplane.socket();
        let mut control = Process::start(lab, &setup.control, "sixferry-control", |home| {
            control_config(home, &socket, setup.store.as_deref())
        })?;
        let at = Target::Unix(control.socket());
        control.wait(async || in_step(&at).await).await?;
        let client = ControlClient::connect(&at, &options).await;
        Ok(Self {
            client: client.during("sixferry-control")?,
            control,
            dataplane,
            relay,
        })
    }

    /// Adds the first users by number.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn import(&self, users: u32) -> Result<(), Error> {
        const CALL: &str = "ImportUsers";
        let all: Vec<User> = (0..users).map(User).collect();
        let messages = all
            .chunks(MAX_ENTRIES)
            .map(|users| api::ImportUsersRequest {
                entries: users.iter().copied().map(entry).collect(),
                create_only: true,
            });
        let answers = self.client.import_users(messages.collect()).await;
        let mut answers = answers.during(CALL)?;
        let mut created = 0;
        while let Some(answer) = answers.message().await.transpose() {
            let answer = answer.map_err(|status| stream_error(CALL, &status));
            let answer = answer.during(CALL)?;
            created += answer.created;
            if let Some(failure) = answer.failures.first() {
                let status = failure.status.clone().unwrap_or_default();
                return Err(entry_error(CALL, &status)).during(CALL);
            }
        }
        if created == users {
            Ok(())
        } else {
            Err(format!("{created} of {users} users")).during(CALL)
        }
    }

    /// The control plane's figures.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn figures(&self) -> Result<Figures, Error> {
        let request = api::GetStatusRequest::default();
        let status = self.client.get_status(request).await.during("GetStatus")?;
        let figures = status.figures.into_iter();
        Ok(Figures(figures.map(|f| (f.name, f.value)).collect()))
    }

    /// Tunnels that the dataplane has.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn tunnels(&self) -> Result<u64, Error> {
        Ok(self.relay.info().await.during("GetInfo")?.tunnel_count)
    }

    /// What the control plane and the dataplane have used.
    ///
    /// # Errors
    /// When one has ended.
    pub fn usage(&self) -> Result<(Usage, Usage), Error> {
        let of = |process: &Process| Usage::of(process.child.id()).during(process.name);
        Ok((of(&self.control)?, of(&self.dataplane)?))
    }
}

/// Figures by name.
#[derive(Clone, Debug, Default)]
pub struct Figures(BTreeMap<String, u64>);

impl Figures {
    /// One; 0 where there is none of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// By how much one has grown since.
    #[must_use]
    pub fn since(&self, before: &Self, name: &str) -> u64 {
        self.get(name).saturating_sub(before.get(name))
    }
}

/// Whether every part of the control plane works, the link to the dataplane among them.
async fn in_step(at: &Target) -> bool {
    let Ok(client) = ControlClient::connect(at, &Options::default()).await else {
        return false;
    };
    let status = client.get_status(api::GetStatusRequest::default()).await;
    let parts = status.map(|status| status.parts).unwrap_or_default();
    let up = |name: &str| {
        let mut parts = parts.iter();
        parts.any(|part| part.name.starts_with(name) && part.state() == api::PartState::Up)
    };
    ["lifecycle", "dtcp", "dataplane"].into_iter().all(up)
}

fn entry(user: User) -> api::UserEntry {
    api::UserEntry {
        user: Some(api::User {
            name: user.name(),
            status: api::UserStatus::Active.into(),
            ..Default::default()
        }),
        secret: user.secret().into_bytes(),
    }
}

fn dataplane_config(home: &Path) -> String {
    let home = home.display();
    format!(
        "state_dir = \"{home}/state\"\n\
         [api]\nunix_socket = \"{home}/api.sock\"\n\
         [metrics]\nlisten = \"\"\n\
         [router]\naddress = \"2001:db8:2::1\"\n\
         [worker]\ncount = 1\nidle = \"poll\"\npin = false\n\
         [[port]]\nname = \"r0\"\n\
         [[port]]\nname = \"r1\"\n"
    )
}

fn control_config(home: &Path, dataplane: &Path, store: Option<&str>) -> String {
    let (home, dataplane) = (home.display(), dataplane.display());
    let store = store.map_or_else(|| format!("sqlite:{home}/state/control.db"), str::to_owned);
    format!(
        "[control]\nstate_dir = \"{home}/state\"\nunix_socket = \"{home}/api.sock\"\n\
         [metrics]\nlisten = \"\"\n\
         [store]\nurl = \"{store}\"\n\
         [[dataplane]]\nname = \"relay\"\naddress = \"unix:{dataplane}\"\n\
         [dtcp]\nlisten = [\"{RELAY}\"]\nhost_prefix = \"2001:db8:ffff::\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_are_not_there_are_nought() {
        let figures = |value| Figures([("a".to_owned(), value)].into());
        assert_eq!(figures(7).since(&figures(3), "a"), 4);
        assert_eq!(figures(7).since(&Figures::default(), "a"), 7);
        assert_eq!(figures(7).since(&figures(3), "b"), 0);
    }

    #[test]
    fn the_dtcp_section_is_one_that_the_plugin_takes() {
        let text = control_config(Path::new("/h"), Path::new("/d.sock"), None);
        let table: toml::Table = toml::from_str(&text).unwrap();
        let dtcp: sixferry_dtcp::Config = table["dtcp"].clone().try_into().unwrap();
        assert!(dtcp.check().is_empty(), "{:?}", dtcp.check());
        assert_eq!(
            table["store"]["url"].as_str(),
            Some("sqlite:/h/state/control.db")
        );
    }
}
