//! What the control plane tells, followed across broken connections.

use std::collections::VecDeque;

use serde_json::json;
use sixferry_client::control::{ControlClient, api, stream_error};
use sixferry_client::{Backoff, Error};
use tonic::Streaming;

use crate::error::CliError;
use crate::json::control::Transition;

/// One of its lines.
#[derive(Debug)]
pub(super) enum Told {
    Transition(Transition),
    Lost(u64),
    Disconnected(String),
}

impl Told {
    pub(super) fn show(&self, as_json: bool) -> String {
        match (self, as_json) {
            (Self::Transition(transition), true) => {
                let Transition { time, user, .. } = transition;
                let what = json!({
                    "tunnelId": transition.tunnel_id,
                    "from": transition.from,
                    "to": transition.to,
                    "cause": transition.cause,
                    "revision": transition.revision,
                });
                json!({ "time": time, "user": user, "tunnelState": what }).to_string()
            }
            (Self::Transition(transition), false) => {
                let Transition {
                    tunnel_id,
                    user,
                    from,
                    to,
                    cause,
                    ..
                } = transition;
                let what =
                    format!("tunnel-state  {tunnel_id}: {to}, was {from} ({cause}, user {user})");
                match &transition.time {
                    Some(time) => format!("{time}  {what}"),
                    None => what,
                }
            }
            (Self::Lost(lost), true) => json!({ "lagged": { "lost": lost } }).to_string(),
            (Self::Lost(lost), false) => format!("! {lost} events were lost here"),
            (Self::Disconnected(cause), true) => {
                json!({ "disconnected": { "cause": cause } }).to_string()
            }
            (Self::Disconnected(cause), false) => format!("! disconnected, trying again: {cause}"),
        }
    }
}

/// A watch that reconnects.
#[derive(Debug)]
pub(super) struct Transitions {
    client: ControlClient,
    user: String,
    stream: Option<Streaming<api::WatchTransitionsResponse>>,
    queue: VecDeque<Told>,
    attempt: u32,
}

impl Transitions {
    pub(super) fn new(client: ControlClient, user: String) -> Self {
        Self {
            client,
            user,
            stream: None,
            queue: VecDeque::new(),
            attempt: 0,
        }
    }

    /// The next one. Waits as long as it takes; an error ends the watch.
    pub(super) async fn next(&mut self) -> Result<Told, CliError> {
        loop {
            if let Some(told) = self.queue.pop_front() {
                return Ok(told);
            }
            let broken = match &mut self.stream {
                None => match self.client.watch_transitions(&self.user).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) => error,
                },
                Some(stream) => match stream.message().await {
                    Ok(Some(message)) => {
                        self.take(message);
                        continue;
                    }
                    Ok(None) => {
                        let ended =
                            tonic::Status::unavailable("the control plane ended the stream");
                        stream_error("WatchTransitions", &ended)
                    }
                    Err(status) => stream_error("WatchTransitions", &status),
                },
            };
            if let Some(told) = self.broken(broken).await? {
                return Ok(told);
            }
        }
    }

    fn take(&mut self, message: api::WatchTransitionsResponse) {
        self.attempt = 0;
        if message.lost > 0 {
            self.queue.push_back(Told::Lost(message.lost));
        }
        let transitions = message.transitions.into_iter();
        self.queue
            .extend(transitions.map(|t| Told::Transition(t.into())));
    }

    /// Told once; the waits come before the later attempts.
    async fn broken(&mut self, error: Error) -> Result<Option<Told>, CliError> {
        if !error.is_transient() {
            return Err(error.into());
        }
        let was_open = self.stream.take().is_some();
        let tell = was_open || self.attempt == 0;
        self.attempt = self.attempt.saturating_add(1);
        if tell {
            return Ok(Some(Told::Disconnected(error.to_string())));
        }
        let backoff = Backoff {
            attempts: u32::MAX,
            ..Backoff::default()
        };
        let wait = backoff.delay(self.attempt).unwrap_or(backoff.longest);
        tokio::time::sleep(wait).await;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Told {
        let mut proto = api::Transition {
            tunnel_id: "t7".into(),
            user: "alice".into(),
            time: Some(prost_types::Timestamp {
                seconds: 951_827_696,
                nanos: 0,
            }),
            revision: 12,
            ..api::Transition::default()
        };
        proto.set_from(api::TunnelState::Active);
        proto.set_to(api::TunnelState::Releasing);
        proto.set_cause(api::Cause::ConnectionLost);
        Told::Transition(proto.into())
    }

    #[test]
    fn transitions_are_one_line_each() {
        assert_eq!(
            told().show(false),
            "2000-02-29T12:34:56Z  tunnel-state  t7: releasing, was active (connection-lost, user \
             alice)"
        );
        assert_eq!(Told::Lost(7).show(false), "! 7 events were lost here");
    }

    #[test]
    fn the_shape_of_a_transition_is_stable() {
        assert_eq!(
            told().show(true),
            r#"{"time":"2000-02-29T12:34:56Z","tunnelState":{"cause":"connection-lost","#
                .to_owned()
                + r#""from":"active","revision":12,"to":"releasing","tunnelId":"t7"},"#
                + r#""user":"alice"}"#
        );
    }
}
