//! TCP only: a call without a deadline is refused, for a client that hangs would hold its
//! resources here for ever. The unix socket is for programs of this host and needs none.

use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::control::error::Error;

/// Refuses calls without `grpc-timeout`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequireDeadline(pub(super) bool);

impl Interceptor for RequireDeadline {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.0 && !request.metadata().contains_key("grpc-timeout") {
            return Err(Error::DeadlineRequired.into());
        }
        Ok(request)
    }
}
