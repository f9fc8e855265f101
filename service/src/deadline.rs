//! TCP only: a call without a deadline is refused, for a client that hangs would hold its
//! resources here for ever. The unix socket is for programs of this host and needs none.

use std::collections::HashMap;

use tonic::service::Interceptor;
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Refuses calls without `grpc-timeout`.
#[derive(Clone, Copy, Debug)]
pub struct RequireDeadline {
    /// Whether it does so.
    pub required: bool,
    /// `domain` of the refusal's ErrorInfo.
    pub domain: &'static str,
}

impl Interceptor for RequireDeadline {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.required && !request.metadata().contains_key("grpc-timeout") {
            let mut details = ErrorDetails::new();
            details.set_error_info("DEADLINE_REQUIRED", self.domain, HashMap::new());
            return Err(Status::with_error_details(
                Code::InvalidArgument,
                "a call over TCP needs a deadline (grpc-timeout)",
                details,
            ));
        }
        Ok(request)
    }
}
