//! The tunnel of a grant on this host: device, addresses, routes, addresses of the links behind, script.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::Ipv6Net;
use sixferry_dtcp_wire::client::Grant;
use tokio::task::JoinHandle;

use super::delegation::Link;
use super::run::Site;
use super::script::{Call, Scripts};
use crate::Error;
use crate::netlink::{Netlink, Plan, link_local};
use crate::tunnel::peers::Peers;
use crate::tunnel::{Config, Encap, Keepalive, Tunnel};

const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// What the user wants of this host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Server as named; for the script.
    pub server: String,
    /// User; for the script.
    pub user: String,
    /// Type asked for.
    pub kind: &'static str,
    /// Name of the device.
    pub device: Option<String>,
    /// Inner MTU.
    pub mtu: u16,
    /// UDP: our port.
    pub udp_port: u16,
    /// What goes into the tunnel.
    pub routes: Vec<Ipv6Net>,
    /// Address and routes come by router advertisement.
    pub solicit: bool,
    /// Links that get a part of the delegated prefix.
    pub links: Vec<Link>,
    /// Holds the device's name while the tunnel is up.
    pub ready_file: Option<PathBuf>,
    /// Counters as JSON.
    pub json: bool,
}

/// Packets being carried, until something breaks.
type Carrying = JoinHandle<Result<std::convert::Infallible, Error>>;

fn carry(tunnel: &Arc<Tunnel>) -> Carrying {
    let tunnel = Arc::clone(tunnel);
    tokio::spawn(async move { tunnel.run().await })
}

/// A tunnel at work.
struct Standing {
    tunnel: Arc<Tunnel>,
    task: Carrying,
    grant: Grant,
    local: Ipv4Addr,
    config: Config,
    plan: Plan,
}

/// This host.
pub struct RealSite {
    settings: Settings,
    netlink: Netlink,
    scripts: Option<Scripts>,
    standing: Option<Standing>,
}

impl std::fmt::Debug for RealSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RealSite")
            .field("settings", &self.settings)
            .field("up", &self.standing.is_some())
            .finish_non_exhaustive()
    }
}

impl RealSite {
    /// A host without the tunnel.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn new(settings: Settings, script: Option<PathBuf>) -> Result<Self, Error> {
        Ok(Self {
            settings,
            netlink: Netlink::connect()?,
            scripts: Some(Scripts::new(script)),
            standing: None,
        })
    }

    /// Waits for the scripts.
    pub async fn finish(&mut self) {
        if let Some(scripts) = self.scripts.take() {
            scripts.finish().await;
        }
    }

    /// Addresses and routes of a grant.
    async fn plan(&self, grant: &Grant) -> Result<Plan, Error> {
        let mut lan = Vec::new();
        match grant.prefixes.first() {
            Some(prefix) => {
                for link in &self.settings.links {
                    let (index, mac) = self.netlink.interface(&link.interface).await?;
                    let address = link.address(*prefix, mac).map_err(Error::Config)?;
                    lan.push((index, address));
                }
            }
            None if !self.settings.links.is_empty() => {
                tracing::warn!("-P: the server delegated no prefix");
            }
            None => {}
        }
        Ok(Plan {
            addresses: Vec::new(),
            peers: grant.pair.into_iter().collect(),
            routes: self.settings.routes.clone(),
            delegated: grant.prefixes.clone(),
            lan,
        })
    }

    fn config(&self, grant: &Grant, local: Ipv4Addr, plan: &Plan) -> Config {
        let encap = match grant.udp_port {
            None => Encap::Proto41(Peers::Relay(grant.server4)),
            Some(port) => Encap::Udp {
                local_port: self.settings.udp_port,
                relay: SocketAddrV4::new(grant.server4, port),
                keepalive: keepalive(grant, local, plan),
            },
        };
        let lan = plan.lan.iter().map(|(_, net)| net.addr());
        let pair = grant.pair.map(|(own, _)| own);
        Config {
            encap,
            local,
            mtu: self.settings.mtu,
            dont_fragment: false,
            device: self.settings.device.clone(),
            own: lan.chain(pair).chain([link_local(local)]).collect(),
        }
    }

    async fn fresh(&self, config: &Config, plan: &Plan) -> Result<Tunnel, Error> {
        let tunnel = Tunnel::open(config.clone())?;
        advertisements(tunnel.device(), self.settings.solicit)?;
        let (index, local) = (tunnel.device_index(), config.local);
        if let Err(error) = self.netlink.apply(index, local, plan).await {
            // The device goes by itself; the error to show is the first one.
            let _ = self.netlink.withdraw(plan).await;
            return Err(error);
        }
        Ok(tunnel)
    }

    /// Turns a tunnel into another one. If that fails, what is left of it is to be torn down.
    async fn changed(
        &self,
        standing: &mut Standing,
        config: &Config,
        plan: &Plan,
    ) -> Result<(), Error> {
        standing.task.abort();
        // Its end frees the tunnel; that it was aborted is no news.
        let _ = (&mut standing.task).await;
        let in_use = || Error::Config("the tunnel is still in use".to_owned());
        let tunnel = Arc::get_mut(&mut standing.tunnel).ok_or_else(in_use)?;
        tunnel.relink(config.clone())?;
        let (old, new) = ((standing.local, &standing.plan), (config.local, plan));
        let changed = self.netlink.change(tunnel.device_index(), old, new).await;
        if changed.is_err() {
            // The error to show is the first one; the old plan goes with the tunnel.
            let _ = self.netlink.withdraw(plan).await;
        }
        changed
    }

    fn stand(&mut self, tunnel: Tunnel, grant: Grant, config: Config, plan: Plan) {
        let tunnel = Arc::new(tunnel);
        self.standing = Some(Standing {
            task: carry(&tunnel),
            tunnel,
            grant,
            local: config.local,
            config,
            plan,
        });
    }

    fn announce(&self, event: &'static str) -> Result<(), Error> {
        let Some(standing) = &self.standing else {
            return Ok(());
        };
        tracing::info!(
            event,
            device = standing.tunnel.device(),
            local = %standing.local,
            grant = %describe(&standing.grant),
            mtu = standing.config.mtu,
            "tunnel"
        );
        if let Some(scripts) = &self.scripts {
            scripts.call(Call {
                event,
                variables: variables(&self.settings, standing, event, ""),
            });
        }
        match &self.settings.ready_file {
            Some(path) => write(path, standing.tunnel.device()),
            None => Ok(()),
        }
    }

    fn print_counters(&self, standing: &Standing) {
        let snapshot = standing.tunnel.snapshot();
        let line = if self.settings.json {
            serde_json::to_string(&snapshot).unwrap_or_default()
        } else {
            snapshot.to_string()
        };
        // Nobody may be listening any more; that is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

impl Site for RealSite {
    async fn set_up(&mut self, grant: &Grant, local: Ipv4Addr) -> Result<(), Error> {
        let plan = self.plan(grant).await?;
        let config = self.config(grant, local, &plan);
        match self.standing.take() {
            None => {
                let tunnel = self.fresh(&config, &plan).await?;
                self.stand(tunnel, grant.clone(), config, plan);
                self.announce("up")
            }
            Some(standing) if standing.config == config && standing.plan == plan => {
                tracing::info!(device = standing.tunnel.device(), "tunnel as before");
                standing.tunnel.hurry();
                self.standing = Some(standing);
                Ok(())
            }
            Some(mut standing) => {
                let changed = self.changed(&mut standing, &config, &plan).await;
                if changed.is_ok() {
                    standing.task = carry(&standing.tunnel);
                    standing.grant = grant.clone();
                    standing.local = local;
                    standing.config = config;
                    standing.plan = plan;
                }
                self.standing = Some(standing);
                changed?;
                self.announce("change")
            }
        }
    }

    async fn tear_down(&mut self, reason: &str) {
        let Some(standing) = self.standing.take() else {
            return;
        };
        tracing::info!(device = standing.tunnel.device(), reason, "tunnel goes");
        standing.task.abort();
        self.print_counters(&standing);
        if let Some(path) = &self.settings.ready_file {
            let _ = fs::remove_file(path);
        }
        if let Some(scripts) = &self.scripts {
            scripts.call(Call {
                event: "down",
                variables: variables(&self.settings, &standing, "down", reason),
            });
        }
        if let Err(error) = self.netlink.withdraw(&standing.plan).await {
            tracing::warn!(%error, "something is left behind");
        }
    }

    async fn broken(&mut self) -> String {
        match &mut self.standing {
            Some(standing) => match (&mut standing.task).await {
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(never)) => match never {},
                Err(error) => error.to_string(),
            },
            None => std::future::pending().await,
        }
    }

    fn report(&self) {
        if let Some(standing) = &self.standing {
            self.print_counters(standing);
        }
    }
}

/// A packet with a source that the server knows for ours: from no other will it learn where we are.
fn keepalive(grant: &Grant, local: Ipv4Addr, plan: &Plan) -> Keepalive {
    let lan = plan.lan.first().map(|(_, net)| net.addr());
    let first = |net: &Ipv6Net| Ipv6Addr::from(u128::from(net.network()) | 1);
    let inside = lan.or_else(|| grant.prefixes.first().map(first));
    let (source, destination) = match (grant.pair, inside) {
        (Some((own, peer)), _) => (own, peer),
        (None, Some(inside)) => (inside, ALL_ROUTERS),
        (None, None) => (link_local(local), ALL_ROUTERS),
    };
    Keepalive::Echo {
        source,
        destination,
    }
}

/// Whether the kernel takes addresses and routes from a router in the tunnel. It then also solicits
/// one by itself, once the device has its link-local address.
fn advertisements(device: &str, accept: bool) -> Result<(), Error> {
    // 2: also where this host forwards.
    let value = if accept { "2" } else { "0" };
    let path = format!("/proc/sys/net/ipv6/conf/{device}/accept_ra");
    match write(Path::new(&path), value) {
        Err(error) if !accept => {
            tracing::debug!(%error, "advertisements in the tunnel are not switched off");
            Ok(())
        }
        outcome => outcome,
    }
}

fn write(path: &Path, line: &str) -> Result<(), Error> {
    fs::write(path, format!("{line}\n"))
        .map_err(|e| Error::Config(format!("cannot write {}: {e}", path.display())))
}

fn joined(prefixes: &[Ipv6Net]) -> String {
    let texts: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

fn describe(grant: &Grant) -> String {
    let mut text = format!("to {}", grant.server4);
    if let Some(port) = grant.udp_port {
        text += &format!(" UDP port {port}");
    }
    if let Some((own, peer)) = grant.pair {
        text += &format!(", {own} with {peer}");
    }
    if !grant.prefixes.is_empty() {
        text += &format!(", {}", joined(&grant.prefixes));
    }
    text
}

/// What a script may want to know. Every name is always there; what there is not is empty.
fn variables(
    settings: &Settings,
    standing: &Standing,
    event: &str,
    reason: &str,
) -> Vec<(&'static str, String)> {
    let grant = &standing.grant;
    let or_empty = |value: Option<String>| value.unwrap_or_default();
    let local_port = grant.udp_port.and(standing.tunnel.local_endpoint());
    let transport = if grant.udp_port.is_some() {
        "udp"
    } else {
        "6in4"
    };
    vec![
        ("SIXFERRY_EVENT", event.to_owned()),
        ("SIXFERRY_REASON", reason.to_owned()),
        ("SIXFERRY_DEVICE", standing.tunnel.device().to_owned()),
        ("SIXFERRY_MTU", standing.config.mtu.to_string()),
        ("SIXFERRY_SERVER", settings.server.clone()),
        ("SIXFERRY_USER", settings.user.clone()),
        ("SIXFERRY_TYPE", settings.kind.to_owned()),
        ("SIXFERRY_TRANSPORT", transport.to_owned()),
        ("SIXFERRY_LOCAL4", standing.local.to_string()),
        ("SIXFERRY_CLIENT4", grant.client4.clone()),
        ("SIXFERRY_REMOTE4", grant.server4.to_string()),
        (
            "SIXFERRY_LOCAL_PORT",
            or_empty(local_port.map(|end| end.port().to_string())),
        ),
        (
            "SIXFERRY_REMOTE_PORT",
            or_empty(grant.udp_port.map(|port| port.to_string())),
        ),
        (
            "SIXFERRY_LOCAL6",
            or_empty(grant.pair.map(|(own, _)| own.to_string())),
        ),
        (
            "SIXFERRY_REMOTE6",
            or_empty(grant.pair.map(|(_, peer)| peer.to_string())),
        ),
        ("SIXFERRY_PREFIXES", joined(&grant.prefixes)),
    ]
}

/// A file with our process id, gone with us.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(path: &Path) -> Result<Self, Error> {
        write(path, &std::process::id().to_string())?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;
