//! The gRPC server before its services.

use std::time::Duration;

use tonic::transport::Server;
use tonic_reflection::server::{Builder, v1, v1alpha};

/// Longest a unary call may take; streams last as long as both sides like.
const MAX_CALL: Duration = Duration::from_secs(120);
/// Connections per listener.
pub const MAX_CONNECTIONS: usize = 256;
/// Calls in flight per connection.
const MAX_STREAMS: u32 = 128;
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A server with our limits.
pub fn server() -> Server {
    Server::builder()
        .timeout(MAX_CALL)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// The two versions of the reflection service, each to be added with `add_optional_service`.
#[derive(Debug)]
pub struct Reflection<A, B> {
    /// `grpc.reflection.v1`.
    pub v1: Option<A>,
    /// `grpc.reflection.v1alpha`, which most tools still ask for.
    pub v1alpha: Option<B>,
}

/// Reflection of an API and of the health service.
///
/// The descriptors are compiled in: tests prove that they can be read.
pub fn reflection(
    descriptors: &'static [u8],
) -> Reflection<
    v1::ServerReflectionServer<impl v1::ServerReflection>,
    v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>,
> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Reflection {
        v1: builder().build_v1().ok(),
        v1alpha: builder().build_v1alpha().ok(),
    }
}
