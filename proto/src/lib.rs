//! gRPC messages and services of Sixferry, generated from the .proto files; no logic.
//!
//! The conventions shared by all services of an API stand at the head of its `types.proto`.
#![forbid(unsafe_code)]

/// The dataplane's API.
pub mod dataplane {
    /// The descriptors of this API, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/dataplane_descriptor.bin"));

    /// `domain` of every `google.rpc.ErrorInfo` the dataplane sends.
    pub const ERROR_DOMAIN: &str = "sixferry.dataplane";

    /// `sixferry.dataplane.v1`.
    #[expect(
        clippy::allow_attributes_without_reason,
        clippy::large_enum_variant,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("sixferry.dataplane.v1");
    }
}

/// The control plane's API.
pub mod control {
    /// The descriptors of this API, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/control_descriptor.bin"));

    /// `domain` of every `google.rpc.ErrorInfo` the control plane sends.
    pub const ERROR_DOMAIN: &str = "sixferry.control";

    /// `sixferry.control.v1`.
    #[expect(clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("sixferry.control.v1");
    }
}

/// Largest gRPC message either side sends or accepts, in bytes.
pub const MAX_MESSAGE_LEN: usize = 4 * 1024 * 1024;

/// Most entries in one Program message.
pub const MAX_UPDATES: usize = 512;

/// Most objects in one page of a listing.
pub const MAX_PAGE_SIZE: u32 = 1000;
