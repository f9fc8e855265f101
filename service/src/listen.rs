//! Listening: the unix socket (mode 0660, the default) and TCP with mutual TLS.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::chain;
use crate::grpc::server;

/// Whose listener it is, for messages.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// The program, e.g. `sixferryd`.
    pub program: &'static str,
    /// The section of its configuration, e.g. `api`: has `unix_socket` and `tcp`.
    pub section: &'static str,
}

/// TCP is served with mutual TLS only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTls {
    /// Where to listen.
    pub listen: std::net::SocketAddr,
    /// PEM file of our certificate.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the authority that signs clients' certificates.
    pub client_ca: PathBuf,
}

/// Why the API cannot be served: cause and fix in one line.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody answers on the unix socket.
    #[error("another {} serves {}; stop it, or set another {}.unix_socket",
        listener.program, path.display(), listener.section)]
    SocketInUse {
        /// Whose.
        listener: Listener,
        /// The socket.
        path: PathBuf,
    },
    /// The path of the unix socket is something else.
    #[error("{} exists and is no socket; remove it, or set another {}.unix_socket",
        path.display(), listener.section)]
    NotASocket {
        /// Whose.
        listener: Listener,
        /// The file.
        path: PathBuf,
    },
    /// The unix socket cannot be made.
    #[error("cannot listen on {}: {source}; check the directory and its permissions",
        path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The TCP socket cannot be made.
    #[error("cannot listen on {listen}: {source}; stop what uses it, or set another {key}")]
    Tcp {
        /// The key of the configuration.
        key: String,
        /// The address.
        listen: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS files do not serve.
    #[error("{section}.tcp: {problem}; check cert, key and client_ca")]
    Tls {
        /// The section of the configuration.
        section: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// The unix socket's file goes when the daemon does, also when it fails to start.
#[derive(Debug)]
pub struct SocketFile(pub PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _removed = std::fs::remove_file(&self.0);
    }
}

/// Binds the unix socket. A file left by a daemon that is gone is replaced; one that answers is not.
pub async fn bind_unix(listener: Listener, path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Unix {
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent()
        && !dir.exists()
    {
        std::fs::create_dir(dir).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            let path = path.to_owned();
            return Err(ServeError::NotASocket { listener, path });
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => {
                let path = path.to_owned();
                return Err(ServeError::SocketInUse { listener, path });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // By umask, not chmod: at no moment may others connect.
    let before = rustix::process::umask(Mode::from_raw_mode(0o117));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound.map_err(failed)
}

/// Binds the TCP socket of the API.
pub async fn bind_tcp(listener: Listener, config: &TcpTls) -> Result<TcpListener, ServeError> {
    let listen = config.listen;
    TcpListener::bind(listen)
        .await
        .map_err(|source| ServeError::Tcp {
            key: format!("{}.tcp.listen", listener.section),
            listen,
            source,
        })
}

/// The server's half of mutual TLS.
pub fn tls(listener: Listener, config: &TcpTls) -> Result<ServerTlsConfig, ServeError> {
    let failed = |problem| ServeError::Tls {
        section: listener.section,
        problem,
    };
    let read =
        |path: &Path| std::fs::read(path).map_err(|e| failed(format!("{}: {e}", path.display())));
    let identity = Identity::from_pem(read(&config.cert)?, read(&config.key)?);
    let clients = Certificate::from_pem(read(&config.client_ca)?);
    let tls = ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(clients);
    // Tried here, where a mistake still stops the start.
    server()
        .tls_config(tls.clone())
        .map_err(|error| failed(chain(&error)))?;
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OURS: Listener = Listener {
        program: "sixferry-x",
        section: "x",
    };

    #[tokio::test]
    async fn a_socket_left_over_is_replaced_and_one_that_answers_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/x.sock");
        drop(bind_unix(OURS, &path).await.unwrap());
        let _live = bind_unix(OURS, &path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = bind_unix(OURS, &path).await.unwrap_err().to_string();
        assert!(error.starts_with("another sixferry-x serves"), "{error}");
        assert!(error.ends_with("another x.unix_socket"), "{error}");
    }

    #[tokio::test]
    async fn another_kind_of_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        let error = bind_unix(OURS, &path).await.unwrap_err().to_string();
        assert!(error.contains("is no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
    }
}
