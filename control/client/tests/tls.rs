//! Mutual TLS over TCP: the right files connect, the wrong ones say what is wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use sixferry_client::{Client, Code, Error, Options, Target, TlsFiles};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        std::fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
        Self {
            issuer,
            dir: dir.to_owned(),
        }
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    fn client_files(&self) -> TlsFiles {
        let (cert, key) = self.issue(ExtendedKeyUsagePurpose::ClientAuth);
        std::fs::write(self.dir.join("cert.pem"), cert).unwrap();
        std::fs::write(self.dir.join("key.pem"), key).unwrap();
        TlsFiles {
            ca: self.dir.join("ca.pem"),
            cert: self.dir.join("cert.pem"),
            key: self.dir.join("key.pem"),
            server_name: None,
        }
    }
}

/// A server without any service: that it says so proves the connection.
async fn serve(authority: &Authority) -> String {
    let (cert, key) = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(authority.issuer.pem()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_routes(tonic::service::Routes::default());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

async fn ask(address: &str, tls: TlsFiles) -> Error {
    let target = Target::Tcp {
        address: address.to_owned(),
        tls,
    };
    let options = Options {
        timeout: Duration::from_secs(5),
    };
    match Client::connect(&target, &options).await {
        Ok(client) => client.info().await.unwrap_err(),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_right_certificates_connect() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("a"));
    let address = serve(&authority).await;
    let error = ask(&address, authority.client_files()).await;
    assert_eq!(error.code(), Some(Code::Unimplemented), "{error}");
}

#[tokio::test]
async fn another_authority_is_refused_on_either_side() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("a"));
    let other = Authority::new(&dir.path().join("b"));
    let address = serve(&authority).await;

    let error = ask(&address, other.client_files()).await;
    assert!(matches!(&error, Error::Connect { .. }), "{error}");
    assert!(error.to_string().contains("localhost"), "{error}");

    let foreign = other.client_files();
    let mut mixed = authority.client_files();
    (mixed.cert, mixed.key) = (foreign.cert, foreign.key);
    let error = ask(&address, mixed).await;
    assert_ne!(error.code(), Some(Code::Unimplemented), "{error}");
    // The server's alert, not merely that the time is over.
    assert!(error.to_string().contains("alert"), "{error}");
}

#[tokio::test]
async fn a_key_that_is_none_never_reaches_the_message() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("a"));
    let files = authority.client_files();
    std::fs::write(&files.key, "SECRET-NONSENSE").unwrap();
    let error = ask("localhost:1", files).await;
    assert!(
        matches!(error, Error::Tls(_) | Error::Connect { .. }),
        "{error}"
    );
    assert!(
        !format!("{error} {error:?}").contains("SECRET"),
        "{error:?}"
    );
}
