//! What a scraper reads.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use sixferry_fwd::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use sixferry_service::http::{bind, serve};

use super::Metrics;
use crate::control::Control;
use crate::control::shared::Shared;
use crate::runtime::Runtime;

fn metrics() -> Metrics {
    let instance: Arc<str> = "test".into();
    let control = Control::new(Settings::default(), 1, Arc::clone(&instance));
    Metrics {
        shared: Arc::new(Shared::new(control, instance)),
        runtime: Arc::new(Runtime::default()),
        mirror: None,
        live: Arc::new(crate::live::Idle::default()),
        saved: None,
    }
}

#[test]
fn every_drop_reason_is_there_from_the_start() {
    let mut text = String::new();
    encode(&mut text, &metrics().registry()).expect("encodes");
    for reason in sixferry_fwd::DropReason::ALL {
        let line = format!(
            "sixferry_drop_packets_total{{reason=\"{}\"}} 0",
            reason.label()
        );
        assert!(text.lines().any(|l| l == line), "{line}");
    }
    assert!(text.contains("sixferry_tunnels{owner=\"static\"} 0"));
    assert!(text.ends_with("# EOF\n"));
    let names: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len(), "one family, one name");
}

#[tokio::test]
async fn http_answers_get_metrics_and_nothing_else() {
    let listener = bind("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(serve(listener, Arc::new(metrics().registry())));
    let ask = async |request: &str| {
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connects");
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    };
    let good = ask("GET /metrics").await;
    assert!(good.starts_with("HTTP/1.1 200 OK"), "{good}");
    assert!(good.contains("sixferry_build_info{version="));
    assert!(ask("GET /").await.starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics").await.starts_with("HTTP/1.1 405"));
    assert!(ask("nonsense").await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_port_in_use_is_told() {
    let first = bind("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("binds");
    let address = first.local_addr().expect("bound");
    let error = bind(address).await.expect_err("in use");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {address}: Address already in use (os error 98); stop what uses it, \
             or set another metrics.listen"
        )
    );
}
