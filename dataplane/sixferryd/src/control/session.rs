//! Owners, their sessions and syncs.
//!
//! An owner has one session; the higher election id wins and fences the other (the arbitration of
//! P4Runtime). A token names owner, election id and instance, so a stale one is told apart from
//! an unknown one without keeping a list of the dead.

use std::sync::Arc;

use super::error::Error;

/// Most owners one start of the daemon gets to know.
pub(crate) const MAX_OWNERS: usize = 256;

/// Owner of what the configuration file says.
pub(crate) const STATIC: OwnerId = OwnerId(0);

/// Names no session can take.
const RESERVED: [&str; 2] = ["static", "kernel"];

/// An owner's place in the list of owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OwnerId(pub(crate) u16);

/// One controller.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) name: Arc<str>,
    /// Election id of the session, if one was opened.
    election: Option<u128>,
    /// Generation of the sync that runs.
    sync: Option<u32>,
    /// What new objects are marked with.
    last_generation: u32,
    pub(crate) tunnels: u64,
    pub(crate) domains: u64,
    pub(crate) routes: u64,
}

/// How many objects an owner has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) tunnels: u64,
    pub(crate) domains: u64,
    pub(crate) routes: u64,
}

impl Owner {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            election: None,
            sync: None,
            last_generation: 0,
            tunnels: 0,
            domains: 0,
            routes: 0,
        }
    }

    pub(crate) fn holdings(&self) -> Holdings {
        Holdings {
            tunnels: self.tunnels,
            domains: self.domains,
            routes: self.routes,
        }
    }

    /// Generation objects written now belong to.
    pub(crate) fn generation(&self) -> u32 {
        self.sync.unwrap_or(self.last_generation)
    }

    /// Whether an object of that generation awaits confirmation.
    pub(crate) fn is_stale(&self, generation: u32) -> bool {
        self.sync.is_some_and(|current| current != generation)
    }
}

/// All owners.
#[derive(Debug)]
pub(crate) struct Owners {
    instance: Arc<str>,
    list: Vec<Owner>,
}

/// A session was opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) owner: OwnerId,
    pub(crate) token: String,
    pub(crate) fenced_other: bool,
}

impl Owners {
    pub(crate) fn new(instance: Arc<str>) -> Self {
        Self {
            instance,
            list: vec![Owner::new("static")],
        }
    }

    pub(crate) fn get(&self, id: OwnerId) -> Option<&Owner> {
        self.list.get(usize::from(id.0))
    }

    pub(crate) fn get_mut(&mut self, id: OwnerId) -> Option<&mut Owner> {
        self.list.get_mut(usize::from(id.0))
    }

    pub(crate) fn name(&self, id: OwnerId) -> Arc<str> {
        self.get(id)
            .map_or_else(|| Arc::from(""), |owner| Arc::clone(&owner.name))
    }

    pub(crate) fn find(&self, name: &str) -> Option<OwnerId> {
        let place = self.list.iter().position(|owner| &*owner.name == name)?;
        u16::try_from(place).ok().map(OwnerId)
    }

    pub(crate) fn open(&mut self, name: &str, election: u128) -> Result<Opened, Error> {
        let id = self.known(name)?;
        let token = self.token(name, election);
        let Some(owner) = self.get_mut(id) else {
            return Err(Error::SessionUnknown);
        };
        let fenced_other = match owner.election {
            Some(current) if current > election => {
                return Err(Error::ElectionLost {
                    owner: Arc::clone(&owner.name),
                    current,
                });
            }
            Some(current) => current < election,
            None => false,
        };
        if fenced_other {
            // The new leader knows nothing of the old one's half-done sync.
            owner.sync = None;
        }
        owner.election = Some(election);
        Ok(Opened {
            owner: id,
            token,
            fenced_other,
        })
    }

    /// The owner of that name, made known if it is not.
    pub(crate) fn known(&mut self, name: &str) -> Result<OwnerId, Error> {
        check_name(name)?;
        match self.find(name) {
            Some(id) => Ok(id),
            None => self.add(name),
        }
    }

    fn add(&mut self, name: &str) -> Result<OwnerId, Error> {
        if self.list.len() >= MAX_OWNERS {
            return Err(Error::TooManyOwners);
        }
        let id = u16::try_from(self.list.len()).map_err(|_| Error::TooManyOwners)?;
        self.list.push(Owner::new(name));
        Ok(OwnerId(id))
    }

    fn token(&self, name: &str, election: u128) -> String {
        format!("{}:{election:x}:{name}", self.instance)
    }

    /// The owner a session writes for.
    pub(crate) fn authorize(&self, token: &str) -> Result<OwnerId, Error> {
        let mut parts = token.splitn(3, ':');
        let (instance, election, name) = (parts.next(), parts.next(), parts.next());
        let election = election.and_then(|text| u128::from_str_radix(text, 16).ok());
        let (Some(election), Some(name)) = (election, name) else {
            return Err(Error::SessionUnknown);
        };
        if instance != Some(&*self.instance) || RESERVED.contains(&name) {
            return Err(Error::SessionUnknown);
        }
        let id = self.find(name).ok_or(Error::SessionUnknown)?;
        let owner = self.get(id).ok_or(Error::SessionUnknown)?;
        match owner.election {
            Some(current) if current == election => Ok(id),
            Some(current) if current > election => Err(Error::SessionFenced {
                owner: Arc::clone(&owner.name),
                current,
            }),
            _ => Err(Error::SessionUnknown),
        }
    }

    /// Starts a sync; what the owner has is stale from now on. Gives its generation.
    pub(crate) fn begin_sync(&mut self, id: OwnerId) -> u32 {
        let Some(owner) = self.get_mut(id) else {
            return 0;
        };
        // 0 means "no sync": skipped when the number wraps.
        owner.last_generation = owner.last_generation.checked_add(1).unwrap_or(1);
        owner.sync = Some(owner.last_generation);
        owner.last_generation
    }

    /// The running sync, if `generation` names it.
    pub(crate) fn sync(&self, id: OwnerId, generation: u64) -> Result<u32, Error> {
        let owner = self.get(id).ok_or(Error::SessionUnknown)?;
        owner
            .sync
            .filter(|current| u64::from(*current) == generation)
            .ok_or_else(|| Error::NoSync {
                owner: Arc::clone(&owner.name),
            })
    }

    pub(crate) fn end_sync(&mut self, id: OwnerId) {
        if let Some(owner) = self.get_mut(id) {
            owner.sync = None;
        }
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if name.is_empty() || name.len() > 32 || !name.bytes().all(ok) {
        return Err(Error::BadOwner(name.chars().take(64).collect()));
    }
    if RESERVED.contains(&name) {
        return Err(Error::OwnerReserved(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners() -> Owners {
        Owners::new("cafe".into())
    }

    #[test]
    fn the_higher_election_id_fences_the_lower() {
        let mut owners = owners();
        let old = owners.open("dtcp", 5).expect("opens");
        assert!(!old.fenced_other);
        assert_eq!(owners.authorize(&old.token), Ok(old.owner));
        let new = owners.open("dtcp", 6).expect("opens");
        assert!(new.fenced_other);
        assert_eq!(owners.authorize(&new.token), Ok(new.owner));
        let fenced = Error::SessionFenced {
            owner: "dtcp".into(),
            current: 6,
        };
        assert_eq!(owners.authorize(&old.token), Err(fenced));
        let lost = Error::ElectionLost {
            owner: "dtcp".into(),
            current: 6,
        };
        assert_eq!(owners.open("dtcp", 5), Err(lost));
    }

    #[test]
    fn an_equal_id_joins_the_session() {
        let mut owners = owners();
        let first = owners.open("cli", 1).expect("opens");
        assert_eq!(owners.open("cli", 1), Ok(first));
    }

    #[test]
    fn tokens_of_other_starts_and_forgeries_are_unknown() {
        let mut owners = owners();
        let opened = owners.open("dtcp", 5).expect("opens");
        let other = Owners::new("beef".into());
        for token in [
            opened.token.as_str(),
            "",
            "cafe",
            "cafe:zz:dtcp",
            "cafe:0:static",
        ] {
            assert_eq!(
                other.authorize(token),
                Err(Error::SessionUnknown),
                "{token}"
            );
        }
        assert_eq!(owners.authorize("cafe:7:dtcp"), Err(Error::SessionUnknown));
        assert_eq!(
            owners.authorize("cafe:0:static"),
            Err(Error::SessionUnknown)
        );
    }

    #[test]
    fn names_are_checked_and_bounded() {
        let mut owners = owners();
        assert_eq!(owners.open("Big", 1), Err(Error::BadOwner("Big".into())));
        assert_eq!(owners.open("", 1), Err(Error::BadOwner(String::new())));
        assert_eq!(
            owners.open("static", 1),
            Err(Error::OwnerReserved("static".into()))
        );
        for i in 1..MAX_OWNERS {
            owners.open(&format!("o{i}"), 1).expect("room");
        }
        assert_eq!(owners.open("one-more", 1), Err(Error::TooManyOwners));
    }

    #[test]
    fn a_sync_marks_and_ends() {
        let mut owners = owners();
        let id = owners.open("dtcp", 1).expect("opens").owner;
        let before = owners.get(id).expect("owner").generation();
        let generation = owners.begin_sync(id);
        let owner = owners.get(id).expect("owner");
        assert!(owner.is_stale(before) && !owner.is_stale(generation));
        assert_eq!(owners.sync(id, u64::from(generation)), Ok(generation));
        let none = Err(Error::NoSync {
            owner: "dtcp".into(),
        });
        assert_eq!(owners.sync(id, u64::from(generation) + 1), none);
        owners.end_sync(id);
        assert!(!owners.get(id).expect("owner").is_stale(before));
        assert_eq!(owners.sync(id, u64::from(generation)), none);
    }
}
