//! Next hops, shared by all routes that leave the same way.
//!
//! A hop is one interface and gateway, or a group of them (a multipath route). Each has at most
//! one entry in the tables, and exists only while something refers to it. A change of a MAC
//! address, of a link or of the choice within a group rewrites that entry in place, however many
//! routes use it.

use hashbrown::HashMap;
use sixferry_fwd::{NextHop, NextHopId};

use super::super::types::Via;

/// Number of a hop in the view; the tables' number is [`Hop::entry`].
pub(super) type HopIndex = u32;

/// One way out.
#[derive(Debug)]
pub(super) struct Hop {
    pub(super) members: Members,
    /// Everything that refers to it.
    refs: u32,
    /// Of these, routes and groups: what makes a gateway worth keeping alive.
    route_refs: u32,
    /// Groups it is a member of.
    pub(super) groups: Vec<HopIndex>,
    /// Its entry in the tables, absent while no port leads there.
    pub(super) entry: Option<(NextHopId, NextHop)>,
    /// Whether the neighbour keeper was told to keep its gateway alive.
    pub(super) kept: bool,
}

impl Hop {
    pub(super) fn used_by_routes(&self) -> bool {
        self.route_refs > 0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Members {
    One(Via),
    Group(Box<[HopIndex]>),
}

/// Why a hop is referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Route,
    NeighbourRoute,
}

/// All hops, by number, content and interface.
#[derive(Debug, Default)]
pub(super) struct Hops {
    slots: Vec<Option<Hop>>,
    free: Vec<HopIndex>,
    by_members: HashMap<Members, HopIndex>,
    by_link: HashMap<u32, Vec<HopIndex>>,
}

impl Hops {
    pub(super) fn get(&self, index: HopIndex) -> Option<&Hop> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: HopIndex) -> Option<&mut Hop> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    pub(super) fn find(&self, via: Via) -> Option<HopIndex> {
        self.by_members.get(&Members::One(via)).copied()
    }

    /// The hop that a route with these next hops refers to, if there is one.
    pub(super) fn find_route(&self, vias: &[Via]) -> Option<HopIndex> {
        match vias {
            [via] => self.find(*via),
            _ => {
                let members: Option<Box<[HopIndex]>> =
                    vias.iter().map(|via| self.find(*via)).collect();
                self.by_members.get(&Members::Group(members?)).copied()
            }
        }
    }

    /// Hops that leave by an interface, groups left out.
    pub(super) fn on_link(&self, ifindex: u32) -> Vec<HopIndex> {
        self.by_link.get(&ifindex).cloned().unwrap_or_default()
    }

    /// Whether any hop leaves by an interface.
    pub(super) fn uses_link(&self, ifindex: u32) -> bool {
        self.by_link.contains_key(&ifindex)
    }

    /// The interfaces and gateways of a hop, in order of preference.
    pub(super) fn vias(&self, index: HopIndex) -> Vec<Via> {
        match self.get(index).map(|hop| &hop.members) {
            Some(Members::One(via)) => vec![*via],
            Some(Members::Group(members)) => members.iter().filter_map(|m| self.via(*m)).collect(),
            None => Vec::new(),
        }
    }

    fn via(&self, index: HopIndex) -> Option<Via> {
        match self.get(index)?.members {
            Members::One(via) => Some(via),
            Members::Group(_) => None,
        }
    }

    /// The interface on which a destination is its own neighbour, if this hop says so.
    ///
    /// Of a group the first member decides: two interfaces claiming one neighbour would fight
    /// over its route.
    pub(super) fn direct_link(&self, index: HopIndex) -> Option<u32> {
        let first = match &self.get(index)?.members {
            Members::One(via) => *via,
            Members::Group(members) => self.via(*members.first()?)?,
        };
        first.gateway.is_none().then_some(first.ifindex)
    }

    /// Refers to a single hop once more, making it if need be. Tells whether it is new.
    pub(super) fn acquire(&mut self, via: Via, holder: Holder) -> (HopIndex, bool) {
        let (index, new) = self.slot(Members::One(via));
        if new {
            self.by_link.entry(via.ifindex).or_default().push(index);
        }
        self.hold(index, holder);
        (index, new)
    }

    /// The same for a group of single hops, given as their numbers.
    pub(super) fn acquire_group(&mut self, members: &[HopIndex]) -> (HopIndex, bool) {
        let (index, new) = self.slot(Members::Group(members.into()));
        if new {
            for member in members {
                self.hold(*member, Holder::Route);
                if let Some(hop) = self.get_mut(*member)
                    && !hop.groups.contains(&index)
                {
                    hop.groups.push(index);
                }
            }
        }
        self.hold(index, Holder::Route);
        (index, new)
    }

    fn slot(&mut self, members: Members) -> (HopIndex, bool) {
        if let Some(index) = self.by_members.get(&members) {
            return (*index, false);
        }
        let hop = Hop {
            members: members.clone(),
            refs: 0,
            route_refs: 0,
            groups: Vec::new(),
            entry: None,
            kept: false,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(hop);
                index
            }
            None => {
                self.slots.push(Some(hop));
                (self.slots.len() - 1) as HopIndex
            }
        };
        self.by_members.insert(members, index);
        (index, true)
    }

    fn hold(&mut self, index: HopIndex, holder: Holder) {
        if let Some(hop) = self.get_mut(index) {
            hop.refs += 1;
            hop.route_refs += u32::from(holder == Holder::Route);
        }
    }

    /// Lets go of a hop. Returns it once nothing refers to it any more; the members of a group
    /// are then the caller's to release.
    pub(super) fn release(&mut self, index: HopIndex, holder: Holder) -> Option<Hop> {
        let hop = self.get_mut(index)?;
        hop.refs -= 1;
        hop.route_refs -= u32::from(holder == Holder::Route);
        if hop.refs > 0 {
            return None;
        }
        let hop = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        self.by_members.remove(&hop.members);
        match &hop.members {
            Members::One(via) => {
                if let Some(on_link) = self.by_link.get_mut(&via.ifindex) {
                    on_link.retain(|i| *i != index);
                    if on_link.is_empty() {
                        self.by_link.remove(&via.ifindex);
                    }
                }
            }
            Members::Group(members) => {
                for member in members {
                    if let Some(member) = self.get_mut(*member) {
                        member.groups.retain(|g| *g != index);
                    }
                }
            }
        }
        Some(hop)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_members.len()
    }
}
