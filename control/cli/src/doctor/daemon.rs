//! Whether the daemon answers, and what it says about its ports.

use crate::args::Global;
use crate::json::port::Port;
use crate::json::system::Info;

use super::{Check, Status};

/// What is known of the daemon.
pub(super) struct Daemon {
    /// It answers.
    pub(super) info: Option<Info>,
    /// Ports it is bound to.
    pub(super) ports: Vec<Port>,
    /// Why it does not answer.
    problem: String,
    target: String,
    /// There is something at the socket, but not for us.
    forbidden: bool,
}

impl Daemon {
    pub(super) async fn ask(global: &Global) -> Self {
        let mut daemon = Self {
            info: None,
            ports: Vec::new(),
            problem: String::new(),
            target: global
                .target()
                .map_or_else(|e| e.to_string(), |t| t.to_string()),
            forbidden: false,
        };
        let outcome = async {
            let client = global.connect().await?;
            let info = client.info().await?;
            Ok::<_, crate::error::CliError>((info, client.ports().await?))
        };
        match outcome.await {
            Ok((info, ports)) => {
                daemon.info = Some(info.into());
                daemon.ports = ports.into_iter().map(Into::into).collect();
            }
            Err(error) => {
                daemon.problem = error.to_string();
                daemon.forbidden = daemon.problem.contains("Permission denied");
            }
        }
        daemon
    }

    /// The port of that name, if the daemon has it.
    pub(super) fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|p| p.name == name)
    }

    pub(super) fn check(&self) -> Check {
        let Some(info) = &self.info else {
            let fix = if self.forbidden {
                "run as root, or join the group of the socket"
            } else {
                "systemctl start sixferryd; name its socket with --socket"
            };
            let status = if self.forbidden {
                Status::Fail
            } else {
                Status::Warn
            };
            return Check {
                status,
                ..Check::warn("daemon", self.problem.clone(), fix)
            };
        };
        let detail = format!(
            "sixferryd {} answers at {}, {} ports, {} tunnels",
            info.version, self.target, info.port_count, info.tunnel_count
        );
        if info.version == env!("CARGO_PKG_VERSION") {
            Check::ok("daemon", detail)
        } else {
            let ours = env!("CARGO_PKG_VERSION");
            Check::warn(
                "daemon",
                format!("{detail}; this program is {ours}"),
                "install the same version of both",
            )
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn absent() -> Daemon {
        Daemon {
            info: None,
            ports: Vec::new(),
            problem: "cannot connect".into(),
            target: "/run/x.sock".into(),
            forbidden: false,
        }
    }

    pub(crate) fn present(ports: Vec<Port>) -> Daemon {
        Daemon {
            info: Some(Info {
                version: env!("CARGO_PKG_VERSION").into(),
                ..Info::default()
            }),
            ports,
            ..absent()
        }
    }

    #[test]
    fn an_absent_daemon_is_a_warning_a_forbidden_one_a_failure() {
        assert_eq!(absent().check().status, Status::Warn);
        let forbidden = Daemon {
            forbidden: true,
            ..absent()
        };
        assert_eq!(forbidden.check().status, Status::Fail);
        assert_eq!(present(Vec::new()).check().status, Status::Ok);
    }

    #[test]
    fn versions_are_compared() {
        let mut daemon = present(Vec::new());
        if let Some(info) = &mut daemon.info {
            info.version = "9.9.9".into();
        }
        let check = daemon.check();
        assert_eq!(check.status, Status::Warn);
        assert!(check.detail.contains("9.9.9"), "{}", check.detail);
    }
}
