//! The keeper's hands: what it decided, asked of the kernel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::super::decode::{self, OUR_PROTOCOL};
use super::super::mirror;
use super::super::socket::RouteSocket;
use super::super::types::{Care, Neighbour, NeighbourState};
use super::{Action, Event, Keeper, KeeperStats, Key, TICK, others};

/// Carries out what the [`Keeper`] decides.
pub(in crate::netlink) struct NeighbourTask {
    pub(in crate::netlink) socket: RouteSocket,
    pub(in crate::netlink) keeper: Keeper,
    pub(in crate::netlink) events: mpsc::Receiver<Event>,
    pub(in crate::netlink) stop: watch::Receiver<bool>,
    pub(in crate::netlink) stats: Arc<KeeperStats>,
}

impl NeighbourTask {
    /// Runs until told to stop; then gives the entries back.
    pub(in crate::netlink) async fn run(mut self) {
        let mut actions = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => event,
                    None => break,
                },
                _ = ticks.tick() => Event::Tick,
                () = mirror::stopped(&mut self.stop) => break,
            };
            self.keeper.handle(event, Instant::now(), &mut actions);
            for action in std::mem::take(&mut actions) {
                self.perform(action).await;
            }
            let (kept, pending) = self.keeper.counts();
            self.stats.kept.store(kept as u64, Ordering::Relaxed);
            self.stats.pending.store(pending as u64, Ordering::Relaxed);
            self.stats
                .refused
                .store(self.keeper.refused, Ordering::Relaxed);
        }
        for key in self.keeper.kept() {
            self.perform(Action::Release(key)).await;
        }
    }

    async fn perform(&mut self, action: Action) {
        let done = match action {
            Action::Manage(key) => self.manage(key).await,
            Action::Probe(key) => self.probe(key).await,
            Action::Release(key) => self.release(key).await,
        };
        if let Err(error) = done {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(?action, %error, "the kernel refuses a neighbour request");
            if let Action::Manage(key) = action {
                self.keeper.refused_by_kernel(key);
            }
        }
    }

    async fn manage(&mut self, key: Key) -> io::Result<()> {
        match self.get(key).await? {
            // The kernel would turn a permanent entry into one that it resolves.
            Some(n) if others(&n) => {
                self.keeper.left_alone(key);
                return Ok(());
            }
            Some(n) if n.care == Care::Ours => {
                self.keeper.managed_works = true;
                return Ok(());
            }
            _ => self.set(key, true).await?,
        }
        if self.keeper.managed_works || self.keeper.refresh_by_use {
            return Ok(());
        }
        match self.get(key).await? {
            Some(n) if n.care == Care::Ours => self.keeper.managed_works = true,
            Some(_) => {
                tracing::info!("this kernel has no managed neighbours: refreshing them ourselves");
                self.keeper.refresh_by_use = true;
            }
            // Deleted by somebody in between: that says nothing about the kernel.
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    async fn probe(&mut self, key: Key) -> io::Result<()> {
        match self.get(key).await? {
            Some(n) if others(&n) => Ok(()),
            before => {
                self.set(key, before.is_some_and(|n| n.care == Care::Ours))
                    .await
            }
        }
    }

    async fn release(&mut self, key: Key) -> io::Result<()> {
        match self.get(key).await? {
            Some(n) if n.care != Care::Ours => Ok(()),
            Some(n) if n.state == NeighbourState::Unresolved => {
                let request = RouteNetlinkMessage::DelNeighbour(message(key));
                self.socket.request(request, 0).await.map(drop)
            }
            Some(_) => self.set(key, false).await,
            None => Ok(()),
        }
    }

    async fn get(&mut self, key: Key) -> io::Result<Option<Neighbour>> {
        let request = RouteNetlinkMessage::GetNeighbour(message(key));
        match self.socket.request(request, 0).await {
            Ok(replies) => Ok(replies.iter().find_map(|reply| match reply {
                RouteNetlinkMessage::NewNeighbour(m) => decode::neighbour(m),
                _ => None,
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Has the kernel use an entry, which starts a resolution where one is due, and makes it
    /// managed or ordinary. Kernels before 5.16 overlook the latter.
    async fn set(&mut self, key: Key, managed: bool) -> io::Result<()> {
        let mut message = message(key);
        message.header.flags = NeighbourFlags::Use;
        if managed {
            let flags = NeighbourExtFlags::Managed;
            message.attributes.push(NeighbourAttribute::ExtFlags(flags));
            message
                .attributes
                .push(NeighbourAttribute::Protocol(OUR_PROTOCOL));
        }
        let request = RouteNetlinkMessage::NewNeighbour(message);
        self.socket
            .request(request, NLM_F_CREATE | NLM_F_REPLACE)
            .await
            .map(drop)
    }
}

fn message((ifindex, addr): Key) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(addr.into()));
    message
}
