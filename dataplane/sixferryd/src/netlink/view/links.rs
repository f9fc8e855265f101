//! Interfaces: which are ports, and by which port and tag a VLAN sub-interface sends.

use hashbrown::HashMap;
use sixferry_fwd::{NextHop, NextHopState, PortConfig, PortId, PortKind};

use super::super::types::{Kind, Link, PortSpec, Via, VlanPolicy};
use super::hops::{Holder, HopIndex, Members};
use super::{Candidate, KernelView, RouteSource, TableSink};

/// The port and tag by which an interface sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Egress {
    port: PortId,
    tag: Option<(u16, bool)>,
    src_mac: [u8; 6],
    mtu: u16,
    usable: bool,
    /// No Ethernet below: nothing to resolve.
    pub(super) raw: bool,
}

impl Egress {
    pub(super) fn class(&self) -> (PortId, Option<(u16, bool)>) {
        (self.port, self.tag)
    }
}

/// The interfaces of the host.
#[derive(Debug)]
pub(super) struct Links {
    all: HashMap<u32, (Link, bool)>,
    ports: Vec<PortSpec>,
    /// What the tables hold.
    announced: HashMap<PortId, PortConfig>,
}

impl Links {
    pub(super) fn new(ports: Vec<PortSpec>) -> Self {
        Self {
            all: HashMap::new(),
            ports,
            announced: HashMap::new(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.all.values().map(|(link, _)| link)
    }

    pub(super) fn not_seen(&self, epoch: bool) -> Vec<u32> {
        let unseen = self.all.iter().filter(|(_, (_, seen))| *seen != epoch);
        unseen.map(|(ifindex, _)| *ifindex).collect()
    }

    pub(super) fn name(&self, ifindex: u32) -> Option<&String> {
        self.get(ifindex).map(|link| &link.name)
    }

    fn get(&self, ifindex: u32) -> Option<&Link> {
        self.all.get(&ifindex).map(|(link, _)| link)
    }

    fn spec(&self, link: &Link) -> Option<&PortSpec> {
        self.ports.iter().find(|port| port.name == link.name)
    }

    /// How an interface sends, if it is a port or a served VLAN of one.
    pub(super) fn egress(&self, ifindex: u32) -> Option<Egress> {
        let link = self.get(ifindex)?;
        let (port, tag, parent_usable) = match self.spec(link) {
            Some(port) => (port, None, true),
            None => {
                let vlan = link.vlan?;
                let parent = self.get(vlan.parent)?;
                let port = self.spec(parent)?;
                if let VlanPolicy::Only(vids) = &port.vlans
                    && !vids.contains(&vlan.vid)
                {
                    return None;
                }
                (port, Some((vlan.vid, vlan.ad)), parent.usable())
            }
        };
        Some(Egress {
            port: port.id,
            tag,
            src_mac: link.mac.unwrap_or_default(),
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            usable: link.usable() && parent_usable,
            raw: link.mac.is_none(),
        })
    }

    /// An interface and the VLANs on it.
    fn family(&self, ifindex: u32) -> Vec<u32> {
        let on_it = |link: &&Link| link.vlan.is_some_and(|vlan| vlan.parent == ifindex);
        let mut family: Vec<u32> = self.iter().filter(on_it).map(|link| link.ifindex).collect();
        family.push(ifindex);
        family
    }

    fn port_config(&self, spec: &PortSpec) -> Option<PortConfig> {
        let link = self.iter().find(|link| link.name == spec.name)?;
        let vlans = match &spec.vlans {
            VlanPolicy::Only(vids) => vids.clone(),
            VlanPolicy::Auto => {
                let vlans = self.iter().filter_map(|l| l.vlan);
                let mut vids: Vec<u16> = vlans
                    .filter(|v| v.parent == link.ifindex)
                    .map(|v| v.vid)
                    .collect();
                vids.sort_unstable();
                vids.dedup();
                vids
            }
        };
        let kind = match link.mac {
            Some(mac) => PortKind::Ethernet { mac },
            None => PortKind::RawIp,
        };
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        Some(PortConfig {
            kind,
            mtu,
            vlans,
            up: link.usable(),
        })
    }

    /// Tells the tables about ports that have changed.
    fn announce(&mut self, sink: &mut dyn TableSink) {
        for spec in &self.ports {
            let Some(config) = self.port_config(spec) else {
                // Down first, for those who watch the state; then its packets have no port.
                if let Some(config) = self.announced.remove(&spec.id) {
                    sink.set_port(
                        spec.id,
                        PortConfig {
                            up: false,
                            ..config
                        },
                    );
                    sink.remove_port(spec.id);
                }
                continue;
            };
            if self.announced.get(&spec.id) != Some(&config) {
                self.announced.insert(spec.id, config.clone());
                sink.set_port(spec.id, config);
            }
        }
    }
}

impl KernelView {
    pub(super) fn set_link(&mut self, link: Link, sink: &mut dyn TableSink) {
        let epoch = self.epoch(Kind::Links);
        let ifindex = link.ifindex;
        let old = self.links.get(ifindex).cloned();
        if old.as_ref() == Some(&link) {
            self.links.all.insert(ifindex, (link, epoch));
            return;
        }
        if old.as_ref().is_some_and(|old| old.up && !link.up) {
            self.went_down(ifindex);
        }
        let ours = self.concerns_ports(&link) || old.is_some_and(|old| self.concerns_ports(&old));
        self.change_link(ifindex, ours, sink, |links| {
            links.all.insert(ifindex, (link, epoch));
        });
    }

    pub(super) fn remove_link(&mut self, ifindex: u32, sink: &mut dyn TableSink) {
        let Some(old) = self.links.get(ifindex).cloned() else {
            return;
        };
        self.went_down(ifindex);
        let ours = self.concerns_ports(&old);
        self.change_link(ifindex, ours, sink, |links| {
            links.all.remove(&ifindex);
        });
    }

    /// IPv4 routes over an interface that goes down vanish unannounced, IPv6 ones may
    /// (`skip_notify_on_dev_down`).
    fn went_down(&mut self, ifindex: u32) {
        if self.hops.uses_link(ifindex) {
            self.hints.stale.extend([Kind::Routes4, Kind::Routes6]);
        }
    }

    fn concerns_ports(&self, link: &Link) -> bool {
        link.vlan.is_some() || self.links.spec(link).is_some()
    }

    fn change_link(
        &mut self,
        changed: u32,
        ours: bool,
        sink: &mut dyn TableSink,
        change: impl FnOnce(&mut Links),
    ) {
        self.hints.links = true;
        if !ours {
            return change(&mut self.links);
        }
        let mut affected = self.links.family(changed);
        let before: HashMap<u32, Option<Egress>> = affected
            .iter()
            .map(|i| (*i, self.links.egress(*i)))
            .collect();
        change(&mut self.links);
        affected.extend(self.links.family(changed));
        affected.sort_unstable();
        affected.dedup();
        let mut reclassified = Vec::new();
        for ifindex in affected {
            let old = before.get(&ifindex).copied().flatten();
            let new = self.links.egress(ifindex);
            if old.map(|e| e.class()) != new.map(|e| e.class()) {
                reclassified.push(ifindex);
            } else if old != new {
                for hop in self.hops.on_link(ifindex) {
                    self.refresh_hop(hop, sink);
                }
            }
        }
        self.links.announce(sink);
        if !reclassified.is_empty() {
            self.reclassify(&reclassified, sink);
        }
    }

    /// Interfaces became ports, or ceased to be: their hops appear or vanish from the tables, and
    /// every route over them changes its meaning.
    fn reclassify(&mut self, links: &[u32], sink: &mut dyn TableSink) {
        let singles: Vec<HopIndex> = links.iter().flat_map(|i| self.hops.on_link(*i)).collect();
        let groups = singles.iter().filter_map(|hop| self.hops.get(*hop));
        let mut hops: Vec<HopIndex> = groups.flat_map(|hop| hop.groups.clone()).collect();
        // Groups copy a member's entry: members first.
        hops.sort_unstable();
        hops.dedup();
        let hops: Vec<HopIndex> = singles.into_iter().chain(hops).collect();
        let mut dying = Vec::new();
        let mut moved: HashMap<HopIndex, bool> = HashMap::new();
        for index in hops {
            let new = self.next_hop(index);
            let Some(hop) = self.hops.get_mut(index) else {
                continue;
            };
            let had_entry = hop.entry.is_some();
            match (hop.entry, new) {
                (Some((id, _)), None) => {
                    hop.entry = None;
                    dying.push(id);
                }
                (_, Some(_)) => self.refresh_hop(index, sink),
                (None, None) => {}
            }
            if had_entry != new.is_some() {
                moved.insert(index, had_entry);
            }
            self.keep_gateway(index);
        }
        self.rewrite_routes(&moved, sink);
        let on_links = self
            .neighbours
            .keys()
            .filter(|(_, ifindex)| links.contains(ifindex));
        let on_links: Vec<_> = on_links.copied().collect();
        for (addr, ifindex) in on_links {
            self.settle_neighbour(addr, ifindex, sink);
        }
        for id in dying {
            sink.remove_next_hop(id);
        }
    }

    /// Writes the routes over hops whose entry came or went anew.
    fn rewrite_routes(&mut self, moved: &HashMap<HopIndex, bool>, sink: &mut dyn TableSink) {
        if moved.is_empty() {
            return;
        }
        let had_entry = |c: &Candidate| c.target.as_hop().and_then(|hop| moved.get(&hop).copied());
        for v6 in [false, true] {
            let over = |list: &[Candidate]| list.first().is_some_and(|c| had_entry(c).is_some());
            for prefix in self.routes.prefixes(v6, over) {
                let Some(best) = self.routes.best(prefix) else {
                    continue;
                };
                sink.set_route(prefix, RouteSource::Kernel, self.meaning(best));
                match had_entry(&best) {
                    Some(true) => self.without_port += 1,
                    _ => self.without_port -= 1,
                }
            }
        }
    }

    /// What the tables should hold for a hop; `None` if no port leads there.
    pub(super) fn next_hop(&self, index: HopIndex) -> Option<NextHop> {
        match &self.hops.get(index)?.members {
            Members::One(via) => self.next_hop_via(*via),
            Members::Group(_) => {
                let vias = self.hops.vias(index);
                let mut ways = vias.iter().filter_map(|via| self.next_hop_via(*via));
                let first = ways.next()?;
                if first.state != NextHopState::Down {
                    return Some(first);
                }
                Some(
                    ways.find(|way| way.state != NextHopState::Down)
                        .unwrap_or(first),
                )
            }
        }
    }

    fn next_hop_via(&self, via: Via) -> Option<NextHop> {
        let egress = self.links.egress(via.ifindex)?;
        let state = if !egress.usable {
            NextHopState::Down
        } else if egress.raw {
            NextHopState::Resolved { dst_mac: [0; 6] }
        } else {
            match via.gateway {
                None => NextHopState::OnLink,
                Some(gateway) => match self.neighbours.get(&(gateway, via.ifindex)) {
                    Some(seen) => NextHopState::Resolved { dst_mac: seen.mac },
                    None => NextHopState::Unresolved { gateway },
                },
            }
        };
        Some(NextHop {
            port: egress.port,
            vlan: egress.tag.map(|(vid, _)| vid),
            vlan_service_tag: egress.tag.is_some_and(|(_, ad)| ad),
            src_mac: egress.src_mac,
            mtu: egress.mtu,
            state,
        })
    }

    /// Brings the tables' entry of a hop, and of the groups it is in, up to date.
    pub(super) fn refresh_hop(&mut self, index: HopIndex, sink: &mut dyn TableSink) {
        let new = self.next_hop(index);
        let Some(hop) = self.hops.get_mut(index) else {
            return;
        };
        match (&mut hop.entry, new) {
            (Some((_, old)), Some(new)) if *old == new => {}
            (Some((id, old)), Some(new)) => {
                *old = new;
                sink.set_next_hop(*id, new);
            }
            (entry @ None, Some(new)) => *entry = Some((sink.add_next_hop(new), new)),
            // Routes may still refer to it: only `reclassify` takes an entry away.
            (_, None) => {}
        }
        for group in hop.groups.clone() {
            self.refresh_hop(group, sink);
        }
    }

    pub(super) fn acquire_hop(
        &mut self,
        via: Via,
        holder: Holder,
        sink: &mut dyn TableSink,
    ) -> HopIndex {
        let (index, new) = self.hops.acquire(via, holder);
        if new {
            self.refresh_hop(index, sink);
        }
        self.keep_gateway(index);
        index
    }

    pub(super) fn acquire_group(&mut self, vias: &[Via], sink: &mut dyn TableSink) -> HopIndex {
        let members: Vec<HopIndex> = vias
            .iter()
            .map(|via| self.acquire_hop(*via, Holder::Route, sink))
            .collect();
        let (index, new) = self.hops.acquire_group(&members);
        if new {
            self.refresh_hop(index, sink);
        }
        // The group holds its members itself.
        for member in members {
            self.release_hop(member, Holder::Route, sink);
        }
        index
    }

    pub(super) fn release_hop(
        &mut self,
        index: HopIndex,
        holder: Holder,
        sink: &mut dyn TableSink,
    ) {
        let Some(hop) = self.hops.release(index, holder) else {
            self.keep_gateway(index);
            return;
        };
        if let Some((id, _)) = hop.entry {
            sink.remove_next_hop(id);
        }
        match hop.members {
            Members::One(via) if hop.kept => self.hints.gateways.push((via, false)),
            Members::One(_) => {}
            Members::Group(members) => {
                for member in members {
                    self.release_hop(member, Holder::Route, sink);
                }
            }
        }
    }

    /// Tells the neighbour keeper when a gateway on one of our ports comes into use or leaves it.
    pub(super) fn keep_gateway(&mut self, index: HopIndex) {
        let Some(hop) = self.hops.get_mut(index) else {
            return;
        };
        let Members::One(via) = hop.members else {
            return;
        };
        let keep = via.gateway.is_some()
            && hop.used_by_routes()
            && self
                .links
                .egress(via.ifindex)
                .is_some_and(|egress| !egress.raw);
        if keep != hop.kept {
            hop.kept = keep;
            self.hints.gateways.push((via, keep));
        }
    }
}
