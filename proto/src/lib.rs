//! gRPC messages and services of Sixferry, generated from the .proto files; no logic.
