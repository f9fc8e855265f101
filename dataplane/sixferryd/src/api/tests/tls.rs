//! TCP: mutual TLS and deadlines.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::system_service_client::SystemServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};

use super::{Daemon, said, serve};
use crate::api::serve::LISTENER;
use sixferry_service::{TcpTls, bind_tcp, tls};

/// A certificate authority and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signs"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let cert = params.signed_by(&key, &self.0).expect("signs");
        (cert.pem(), key.serialize_pem())
    }
}

async fn channel(
    port: u16,
    server_ca: &Authority,
    client: Option<(String, String)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(server_ca.pem()))
        .domain_name("relay.test");
    if let Some((cert, key)) = client {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).expect("a uri");
    endpoint.tls_config(tls)?.connect().await
}

#[tokio::test]
async fn tcp_needs_a_certificate_of_ours_and_a_deadline() {
    let daemon = Daemon::start().await;
    let (ours, theirs) = (Authority::new(), Authority::new());
    let dir = daemon.dir.path();
    let (cert, key) = ours.sign("relay.test");
    let file = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).expect("writes");
        dir.join(name)
    };
    let config = TcpTls {
        listen: "127.0.0.1:0".parse().expect("an address"),
        cert: file("cert.pem", &cert),
        key: file("key.pem", &key),
        client_ca: file("ca.pem", &ours.pem()),
    };
    let swapped = TcpTls {
        cert: config.key.clone(),
        ..config.clone()
    };
    let refused = tls(LISTENER, &swapped).expect_err("a key is no certificate");
    let text = refused.to_string();
    assert!(
        text.starts_with("api.tcp: ") && text.ends_with("; check cert, key and client_ca"),
        "{text}"
    );
    let listener = bind_tcp(LISTENER, &config).await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let tls = tls(LISTENER, &config).expect("reads");
    tokio::spawn(serve::serve_tcp(
        daemon.api.clone(),
        listener,
        tls,
        std::future::pending(),
    ));

    let good = channel(port, &ours, Some(ours.sign("client")))
        .await
        .expect("connects");
    let mut client = SystemServiceClient::new(good);
    let endless = client
        .get_info(pb::GetInfoRequest {})
        .await
        .expect_err("no deadline");
    let text = "a call over TCP needs a deadline (grpc-timeout)";
    assert_eq!(
        said(&endless),
        (
            Code::InvalidArgument,
            "DEADLINE_REQUIRED".into(),
            text.into()
        )
    );
    let mut request = Request::new(pb::GetInfoRequest {});
    request.set_timeout(Duration::from_secs(10));
    client.get_info(request).await.expect("answers");

    // TLS 1.3 tells a client that its certificate was refused only at its first call.
    for (who, identity) in [("none", None), ("foreign", Some(theirs.sign("client")))] {
        let Ok(channel) = channel(port, &ours, identity).await else {
            continue;
        };
        let mut request = Request::new(pb::GetInfoRequest {});
        request.set_timeout(Duration::from_secs(10));
        let refused = SystemServiceClient::new(channel).get_info(request).await;
        assert!(refused.is_err(), "{who}");
    }
}
