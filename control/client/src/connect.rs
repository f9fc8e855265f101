//! Where the dataplane is and how to get there.

use std::error::Error as _;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tower::{Service, service_fn};

use crate::Error;

/// Where `sixferryd` listens unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sixferry/dataplane.sock";

/// Where the dataplane listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A unix socket.
    Unix(PathBuf),
    /// TCP; always with mutual TLS.
    Tcp {
        /// `host:port`.
        address: String,
        /// Who we are and whom we trust.
        tls: TlsFiles,
    },
}

/// PEM files of a mutual TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authority that signed the server's.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Name in the server's certificate; `None`: the host of the address.
    pub server_name: Option<String>,
}

impl Default for Target {
    fn default() -> Self {
        Self::Unix(PathBuf::from(DEFAULT_SOCKET))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { address, .. } => f.write_str(address),
        }
    }
}

/// Limits of a connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// Deadline of every call, and of the connection itself.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
        }
    }
}

pub(crate) async fn open(target: &Target, options: &Options) -> Result<Channel, Error> {
    let attempt = async {
        match target {
            Target::Unix(path) => {
                let endpoint = unix_endpoint(options);
                let connected = endpoint.connect_with_connector(unix(path)).await;
                connected.map_err(|e| connect_error(target, &e))
            }
            Target::Tcp { address, tls } => {
                let endpoint = tcp_endpoint(address, tls, options)?;
                let connected = endpoint.connect().await;
                connected.map_err(|e| connect_error(target, &e))
            }
        }
    };
    match tokio::time::timeout(options.timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Error::Connect {
            target: target.to_string(),
            cause: format!("no answer within {} s", options.timeout.as_secs_f64()),
            hint: "",
        }),
    }
}

/// A connection that is made when it is needed: the far end may start later than we do.
pub fn open_lazy(target: &Target, options: &Options) -> Result<Channel, Error> {
    match target {
        Target::Unix(path) => Ok(unix_endpoint(options).connect_with_connector_lazy(unix(path))),
        Target::Tcp { address, tls } => Ok(tcp_endpoint(address, tls, options)?.connect_lazy()),
    }
}

fn unix_endpoint(options: &Options) -> Endpoint {
    // Some HTTP/2 servers refuse a socket path as the authority, so a fixed name stands in.
    keepalive(Endpoint::from_static("http://localhost"), options)
}

fn unix(
    path: &Path,
) -> impl Service<
    Uri,
    Response = TokioIo<UnixStream>,
    Error = std::io::Error,
    Future = impl Future<Output = std::io::Result<TokioIo<UnixStream>>> + Send,
> + Send
+ 'static {
    let path = path.to_owned();
    service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    })
}

fn tcp_endpoint(address: &str, tls: &TlsFiles, options: &Options) -> Result<Endpoint, Error> {
    let mut config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read_pem(&tls.ca)?))
        .identity(Identity::from_pem(
            read_pem(&tls.cert)?,
            read_pem(&tls.key)?,
        ));
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name);
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .and_then(|e| e.tls_config(config))
        .map_err(|e| Error::Tls(format!("{address}: {}", innermost(&e))))?;
    Ok(keepalive(endpoint, options))
}

/// A peer that vanished without a word is noticed, also while only a watch is open.
fn keepalive(endpoint: Endpoint, options: &Options) -> Endpoint {
    endpoint
        .connect_timeout(options.timeout)
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
}

fn read_pem(path: &Path) -> Result<Vec<u8>, Error> {
    // The content may be a key: only the path may reach the message.
    std::fs::read(path).map_err(|e| Error::Tls(format!("{}: {e}", path.display())))
}

fn connect_error(target: &Target, error: &tonic::transport::Error) -> Error {
    let hint = match (target, io_kind(error)) {
        (Target::Unix(_), Some(std::io::ErrorKind::NotFound)) => {
            " (is sixferryd running? systemctl status sixferryd)"
        }
        (Target::Unix(_), Some(std::io::ErrorKind::ConnectionRefused)) => {
            " (the socket is left over: sixferryd does not run)"
        }
        (Target::Unix(_), Some(std::io::ErrorKind::PermissionDenied)) => {
            " (run as root or join the group of the socket)"
        }
        _ => "",
    };
    Error::Connect {
        target: target.to_string(),
        cause: innermost(error),
        hint,
    }
}

fn io_kind(error: &tonic::transport::Error) -> Option<std::io::ErrorKind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = cause.source();
    }
    None
}

/// The last link of the chain: the one that says what happened.
fn innermost(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn failure(target: &Target) -> String {
        let options = Options::default();
        open(target, &options).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_missing_socket_is_named_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::Unix(dir.path().join("no.sock"));
        let text = failure(&target).await;
        assert!(text.contains("no.sock"), "{text}");
        assert!(text.contains("No such file"), "{text}");
        assert!(text.contains("is sixferryd running?"), "{text}");
    }

    #[tokio::test]
    async fn a_left_over_socket_is_told_from_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let text = failure(&Target::Unix(path)).await;
        assert!(text.contains("left over"), "{text}");
    }

    #[tokio::test]
    async fn a_missing_tls_file_is_named() {
        let tls = TlsFiles {
            ca: "/nonexistent/ca.pem".into(),
            cert: "/nonexistent/cert.pem".into(),
            key: "/nonexistent/key.pem".into(),
            server_name: None,
        };
        let target = Target::Tcp {
            address: "127.0.0.1:1".into(),
            tls,
        };
        let text = failure(&target).await;
        assert!(text.contains("/nonexistent/ca.pem"), "{text}");
    }
}
