//! The control plane's daemon under test, from its configuration text to its exit code; and its API.
//!
//! Its directory outlives the process: a test kills the daemon and starts it again on the same store.

use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sixferry_proto::control::v1::dtcp_admin_service_client::DtcpAdminServiceClient;
use sixferry_proto::control::v1::tunnel_admin_service_client::TunnelAdminServiceClient;
use sixferry_proto::control::v1::user_service_client::UserServiceClient;
use sixferry_proto::control::v1::{
    CreateUserRequest, DtcpSession, ListSessionsRequest, ListTunnelsRequest, Prefix, Tunnel, User,
    UserStatus,
};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::daemon::{Daemon, program};
use crate::net::{Net, scratch};
use crate::process::Guarded;
use crate::wait::wait_for;

const READY: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(20);
/// The metrics page, in the daemon's namespace.
const METRICS_PORT: u16 = 9465;
/// Pages of lists.
const PAGE: u32 = 1000;

/// A control daemon with its directory; killed on drop.
#[derive(Debug)]
pub struct Control {
    /// `None` between [`Control::kill`] and [`Control::start_again`].
    process: Option<Guarded>,
    home: TempDir,
    config: ControlConfig,
    runs: u32,
    runtime: Runtime,
}

/// Its configuration in the making.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    control: String,
    lifecycle: String,
    dtcp: Option<String>,
    store: Option<String>,
    only: Option<&'static str>,
    metrics_port: u16,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            control: String::new(),
            lifecycle: "grace_seconds = 30\ntunnels_per_user = 0".to_owned(),
            dtcp: Some(String::new()),
            store: None,
            only: None,
            metrics_port: METRICS_PORT,
        }
    }
}

impl ControlConfig {
    /// Lines of `[lifecycle]`, in place of a grace time of 30 s.
    #[must_use]
    pub fn lifecycle(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.lifecycle);
        self
    }

    /// Lines of `[dtcp]`.
    #[must_use]
    pub fn dtcp(mut self, keys: &str) -> Self {
        self.dtcp = Some(keys.to_owned());
        self
    }

    /// The lifecycle alone, for the DTCP server of another process.
    #[must_use]
    pub fn only_lifecycle(mut self) -> Self {
        self.only = Some("lifecycle");
        self
    }

    /// The DTCP server alone, with the lifecycle behind `socket`.
    #[must_use]
    pub fn only_dtcp(mut self, socket: &Path) -> Self {
        self.only = Some("dtcp");
        self.control = format!("lifecycle = \"unix:{}\"\n", socket.display());
        self.metrics_port = METRICS_PORT + 1;
        self
    }

    /// Another store than an SQLite file.
    #[must_use]
    pub fn store(mut self, url: &str) -> Self {
        self.store = Some(url.to_owned());
        self
    }

    fn text(&self, dir: &Path, dataplane: &Path) -> String {
        let (dir, dataplane) = (dir.display(), dataplane.display());
        let mut text = format!(
            "[control]\nstate_dir = \"{dir}/state\"\nunix_socket = \"{dir}/control.sock\"\n{}\
             [metrics]\nlisten = \"127.0.0.1:{}\"\n\
             [lifecycle]\n{}\n\
             [[dataplane]]\nname = \"relay\"\naddress = \"unix:{dataplane}\"\n",
            self.control, self.metrics_port, self.lifecycle
        );
        if let Some(url) = &self.store {
            let _ = writeln!(text, "[store]\nurl = \"{url}\"");
        }
        if let Some(dtcp) = &self.dtcp {
            let _ = writeln!(text, "[dtcp]\n{dtcp}");
        }
        text
    }
}

impl Control {
    /// Starts a daemon in `net` that programs `dataplane`, and waits until its API answers.
    ///
    /// # Panics
    /// When it ends or is not ready in time; with its log.
    #[must_use]
    pub fn start(net: &Net, dataplane: &Daemon, config: &ControlConfig) -> Self {
        let home = scratch("control");
        fs::create_dir(home.path().join("state")).expect("the state directory");
        let text = config.text(home.path(), &dataplane.socket());
        fs::write(home.path().join("control.toml"), text).expect("the configuration file");
        let mut control = Self {
            process: None,
            home,
            config: config.clone(),
            runs: 0,
            // as the API's client: with a thread of its own, to answer pings at any time
            runtime: Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime"),
        };
        control.start_again(net);
        control
    }

    /// Starts it after [`Control::kill`], on the same store.
    ///
    /// # Panics
    /// As [`Control::start`].
    pub fn start_again(&mut self, net: &Net) {
        self.launch(net);
        self.wait_ready();
    }

    /// The same without waiting for it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn launch(&mut self, net: &Net) {
        let program = program("sixferry-control");
        let file = self.home.path().join("control.toml");
        let mut words = vec![
            program.to_str().expect("a plain path"),
            "--config",
            file.to_str().expect("a plain path"),
        ];
        if let Some(part) = self.config.only {
            words.extend_from_slice(&["--only", part]);
        }
        self.runs += 1;
        let log = self.home.path().join(format!("log-{}", self.runs));
        let process = Guarded::spawn("sixferry-control", &net.wrapper(), &words, &log);
        self.process = Some(process);
    }

    /// Waits until its API answers.
    ///
    /// # Panics
    /// When it ends or is not ready in time; with its log.
    pub fn wait_ready(&mut self) {
        let ready = wait_for(READY, || {
            let ended = self.process.as_mut().and_then(Guarded::ended);
            (ended.is_some() || self.answers()).then_some(ended)
        });
        if !matches!(ready, Some((None, _))) {
            panic!("sixferry-control is not ready: {ready:?}\n{}", self.log());
        }
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// The process.
    ///
    /// # Panics
    /// When it was killed.
    pub fn process(&mut self) -> &mut Guarded {
        self.process.as_mut().expect("it runs")
    }

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("control.sock")
    }

    /// Its directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// What the last run logged.
    #[must_use]
    pub fn log(&self) -> String {
        let log = self.home.path().join(format!("log-{}", self.runs));
        fs::read_to_string(log).unwrap_or_default()
    }

    /// Adds a user with a secret.
    ///
    /// # Panics
    /// When the daemon refuses.
    pub fn add_user(&self, name: &str, secret: &str, prefixes: &[&str]) {
        let prefixes = prefixes.iter().map(|text| prefix(text));
        let user = User {
            name: name.to_owned(),
            status: UserStatus::Active.into(),
            prefixes: prefixes.collect(),
            ..Default::default()
        };
        let request = CreateUserRequest {
            user: Some(user),
            secret: secret.as_bytes().to_vec(),
        };
        let channel = self.channel().expect("it listens");
        let mut client = UserServiceClient::new(channel);
        let answer = self.call(async move { client.create_user(request).await });
        answer.expect("a user");
    }

    /// All tunnels there are.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[must_use]
    pub fn tunnels(&self) -> Vec<Tunnel> {
        let mut client = TunnelAdminServiceClient::new(self.channel().expect("it listens"));
        let request = ListTunnelsRequest {
            page_size: PAGE,
            ..Default::default()
        };
        let answer = self.call(async move { client.list_tunnels(request).await });
        answer.expect("the tunnels").tunnels
    }

    /// All DTCP sessions. The API answers before the plugin runs: that is waited for.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[must_use]
    pub fn sessions(&self) -> Vec<DtcpSession> {
        let ask = || {
            let mut client = DtcpAdminServiceClient::new(self.channel().expect("it listens"));
            let request = ListSessionsRequest {
                page_size: PAGE,
                ..Default::default()
            };
            self.call(async move { client.list_sessions(request).await })
        };
        let answer = wait_for(READY, || match ask() {
            Err(status) if status.code() == Code::Unavailable => None,
            answer => Some(answer.expect("the sessions").sessions),
        });
        answer.expect("the DTCP plugin runs").0
    }

    /// A figure of the metrics page, the sum over its labels; `None` when there is none.
    ///
    /// # Panics
    /// When there is no page.
    #[must_use]
    pub fn metric(&self, net: &Net, name: &str) -> Option<f64> {
        let page = self.metrics(net);
        let rows = page.lines().filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let is_it = key
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
            is_it.then(|| value.parse::<f64>().ok())?
        });
        let found: Vec<f64> = rows.collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The metrics page.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn metrics(&self, net: &Net) -> String {
        let read = net.enter(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", self.config.metrics_port))?;
            stream.set_read_timeout(Some(CALL))?;
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok::<_, std::io::Error>(page)
        });
        let page = read.unwrap_or_else(|error| panic!("the metrics page: {error}"));
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        page
    }

    fn answers(&self) -> bool {
        let Some(channel) = self.channel() else {
            return false;
        };
        if self.config.only == Some("dtcp") {
            let mut client = DtcpAdminServiceClient::new(channel);
            let request = ListSessionsRequest::default();
            return self
                .call(async move { client.list_sessions(request).await })
                .is_ok();
        }
        let mut client = TunnelAdminServiceClient::new(channel);
        let request = ListTunnelsRequest::default();
        self.call(async move { client.list_tunnels(request).await })
            .is_ok()
    }

    fn channel(&self) -> Option<Channel> {
        let path = self.socket();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(CALL);
        let connecting = endpoint.connect_with_connector(connector);
        self.runtime.block_on(connecting).ok()
    }

    fn call<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Box<Status>> {
        let answer = self.runtime.block_on(call);
        answer.map(tonic::Response::into_inner).map_err(Box::new)
    }
}

impl Drop for Control {
    /// A failing test shows what the daemon logged.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(process) = &self.process
        {
            eprintln!("{}", process.log_tail());
        }
    }
}

fn prefix(text: &str) -> Prefix {
    let prefix = crate::api::ip_prefix(text);
    Prefix {
        address: prefix.address,
        length: prefix.length,
    }
}
