//! Liveness probes: what the tunnels' counters say, and frames sent by a worker.

use std::net::Ipv6Addr;
use std::sync::Arc;

use parking_lot::Mutex;
use sixferry_engine::{InjectKind, Injector, Publisher, monotonic};
use sixferry_fwd::{
    FRAME_LEN, IpId, Local, LocalConfig, NoProbe, Probe, Ticks, TunnelId, TunnelLink, probe,
};

use crate::control::liveness::{Liveness, LivenessMode};
use crate::live::LifeState;
use crate::liveness::driver::Peers;
use crate::liveness::{Mode, Watch};
use crate::surroundings::Neighbourhood;

/// What building a probe needs.
struct Workshop {
    local: Local,
    frame: Box<[u8; FRAME_LEN]>,
}

/// See the module.
pub(crate) struct Prober {
    around: Arc<Neighbourhood>,
    publisher: Arc<Mutex<Publisher>>,
    injector: Injector,
    workshop: Mutex<Workshop>,
    /// Tells our echo requests from those of other programs at the peer.
    identifier: u16,
}

impl Prober {
    pub(crate) fn new(
        around: Arc<Neighbourhood>,
        publisher: Arc<Mutex<Publisher>>,
        injector: Injector,
        seed: u64,
    ) -> Self {
        // A dry one: probes are no traffic of the tunnel.
        let local = Local::new(LocalConfig {
            worker: 0,
            workers: 1,
            seed,
            ip_id: IpId::Counter,
            shared: Arc::default(),
            dry_run: true,
        });
        Self {
            around,
            publisher,
            injector,
            workshop: Mutex::new(Workshop {
                local,
                frame: Box::new([0; FRAME_LEN]),
            }),
            identifier: (seed >> 48) as u16,
        }
    }
}

impl Peers for Prober {
    fn rewatched(&self, most: usize) -> Vec<(TunnelId, Option<Watch>)> {
        let shared = self.around.shared();
        let rewatched = shared.with(|control| control.take_rewatched(most));
        let watch = |(tunnel, how): (TunnelId, Option<Liveness>)| (tunnel, how.and_then(watch));
        rewatched.into_iter().map(watch).collect()
    }

    fn heard(&self, tunnels: &[TunnelId]) -> Vec<Option<u64>> {
        if tunnels.is_empty() {
            return Vec::new();
        }
        self.around.shared().with(|control| {
            let heard = |id: &TunnelId| Some(control.builder().tunnel_counters(*id)?.in_packets);
            tunnels.iter().map(heard).collect()
        })
    }

    fn probe(&self, tunnel: TunnelId, mode: Mode, sequence: u16) {
        let what = match mode {
            Mode::Passive => return,
            Mode::Nud => Some(Probe::Nud),
            Mode::Echo => self.around.shared().with(|control| {
                let link = control.builder().tunnel(tunnel)?.link?;
                Some(Probe::Echo {
                    from: link.address,
                    to: far_address(&link),
                    identifier: self.identifier,
                    sequence,
                })
            }),
        };
        let Some(what) = what else { return };
        let tables = self.publisher.lock().current();
        let mut workshop = self.workshop.lock();
        let Workshop { local, frame } = &mut *workshop;
        match probe(&tables, local, monotonic(), tunnel, what, frame) {
            Ok((port, at)) => {
                let worker = tunnel.index() % self.injector.workers().max(1);
                let bytes = frame.get(at).unwrap_or_default();
                // A full ring makes it one loss: three in a row tell.
                let _sent = self
                    .injector
                    .inject(worker, bytes, InjectKind::Transmit { port });
            }
            Err(NoProbe::Unresolved(info)) => self.around.resolve(&info),
            Err(NoProbe::NoTunnel | NoProbe::Closed(_)) => {}
        }
    }

    fn changed(&self, tunnel: TunnelId, from: LifeState, to: LifeState) {
        self.around.tell_life(tunnel, from, to);
    }
}

fn watch(how: Liveness) -> Option<Watch> {
    let mode = match how.mode() {
        LivenessMode::Off => return None,
        LivenessMode::Passive => Mode::Passive,
        LivenessMode::Nud => Mode::Nud,
        LivenessMode::Echo => Mode::Echo,
    };
    Some(Watch {
        mode,
        interval: how
            .interval()
            .as_secs()
            .max(1)
            .saturating_mul(Ticks::PER_SECOND),
    })
}

/// The peer's address on the link: the other one of a /127 (RFC 6164), else ::1 or ::2, whichever is
/// not ours, as tunnel brokers number their links.
fn far_address(link: &TunnelLink) -> Ipv6Addr {
    let own = link.address.to_bits();
    let network = link.prefix.address().to_bits();
    Ipv6Addr::from_bits(match own ^ network {
        _ if link.prefix.len() >= 127 => own ^ 1,
        1 => network | 2,
        _ => network | 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_the_other_one_on_the_link() {
        let far = |prefix: &str, own: &str| {
            let link = TunnelLink {
                prefix: prefix.parse().expect("prefix"),
                address: own.parse().expect("address"),
            };
            far_address(&link).to_string()
        };
        assert_eq!(far("2001:db8:1::/64", "2001:db8:1::1"), "2001:db8:1::2");
        assert_eq!(far("2001:db8:1::/64", "2001:db8:1::2"), "2001:db8:1::1");
        assert_eq!(far("2001:db8:1::/64", "2001:db8:1::99"), "2001:db8:1::1");
        assert_eq!(far("2001:db8:1::4/127", "2001:db8:1::4"), "2001:db8:1::5");
        assert_eq!(far("2001:db8:1::4/127", "2001:db8:1::5"), "2001:db8:1::4");
    }
}
