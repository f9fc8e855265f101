use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use sixferry_lifecycle::{Profile, Slot, SlotChoice, Transport, WantedTransport};
use tokio::sync::{Semaphore, mpsc};

use super::*;

/// Gives a tunnel to everybody whom the gate lets through, and tells what is given back.
struct Fake {
    gate: Semaphore,
    released: mpsc::UnboundedSender<(TunnelId, LeaseNumber)>,
    next: Mutex<i64>,
}

impl Fake {
    fn new(permits: usize) -> (Arc<Self>, mpsc::UnboundedReceiver<(TunnelId, LeaseNumber)>) {
        let (released, told) = mpsc::unbounded_channel();
        let fake = Self {
            gate: Semaphore::new(permits),
            released,
            next: Mutex::new(0),
        };
        (Arc::new(fake), told)
    }
}

impl Tunnels for Fake {
    fn authenticate<'a>(&'a self, _attempt: Digest<'a>) -> Reply<'a, Result<AccountId, Denied>> {
        std::future::ready(Ok(Err(Denied))).boxed()
    }

    fn acquire<'a>(&'a self, wanted: Acquire) -> Reply<'a, Lease> {
        async move {
            self.gate.acquire().await.unwrap().forget();
            let mut next = self.next.lock();
            *next += 1;
            Ok(Lease {
                tunnel: TunnelId(*next),
                number: LeaseNumber(1),
                slot: Slot {
                    stem: "gif".into(),
                    unit: 0,
                },
                local: wanted.local,
                remote: wanted.remote,
                transport: Transport::SixInFour,
                pair: None,
                prefixes: Vec::new(),
                mtu: wanted.mtu,
                resumed: false,
            })
        }
        .boxed()
    }

    fn release<'a>(&'a self, tunnel: TunnelId, number: LeaseNumber, _: Cause) -> Reply<'a, ()> {
        self.released.send((tunnel, number)).unwrap();
        std::future::ready(Ok(())).boxed()
    }

    fn revocations(&self) -> broadcast::Receiver<Revocation> {
        broadcast::channel(1).1
    }

    fn holds<'a>(&'a self, leases: &'a [(TunnelId, LeaseNumber)]) -> Reply<'a, Vec<bool>> {
        std::future::ready(Ok(vec![true; leases.len()])).boxed()
    }
}

fn wish() -> Acquire {
    Acquire {
        service: "dtcp".into(),
        account: AccountId(1),
        profile: Profile::Link,
        local: [198, 51, 100, 1].into(),
        remote: [192, 0, 2, 10].into(),
        transport: WantedTransport::SixInFour,
        slot: SlotChoice::OneOf([].into()),
        host_prefix: None,
        prefixes: Vec::new(),
        prefixless: false,
        mtu: 1280,
        exclusive: false,
    }
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    future.poll(&mut context).is_ready()
}

#[tokio::test]
async fn a_lease_whose_caller_gave_up_is_given_back_and_no_other() {
    let (fake, mut told) = Fake::new(0);
    let holder = Arc::new(Holder::new(Arc::clone(&fake) as Arc<dyn Tunnels>));
    {
        let mut waiting = pin!(acquire_for(Arc::clone(&holder) as Arc<dyn Tunnels>, wish()));
        assert!(!poll(waiting.as_mut()));
        // The caller is gone before anything was given.
    }
    fake.gate.add_permits(1);
    assert_eq!(told.recv().await, Some((TunnelId(1), LeaseNumber(1))));
    while !holder.is_empty() {
        tokio::task::yield_now().await;
    }

    fake.gate.add_permits(1);
    let lease = acquire_for(Arc::clone(&holder) as Arc<dyn Tunnels>, wish()).await;
    assert_eq!(lease.unwrap().tunnel, TunnelId(2));
    tokio::task::yield_now().await;
    assert!(told.try_recv().is_err(), "it was taken");
    assert!(!holder.is_empty());
}

#[tokio::test]
async fn a_lease_that_was_given_to_a_caller_who_is_gone_is_given_back() {
    let (fake, mut told) = Fake::new(1);
    let holder = Arc::new(Holder::new(fake as Arc<dyn Tunnels>));
    {
        let mut waiting = pin!(acquire_for(Arc::clone(&holder) as Arc<dyn Tunnels>, wish()));
        assert!(!poll(waiting.as_mut()));
        while holder.is_empty() {
            tokio::task::yield_now().await;
        }
        // Given, but not fetched.
    }
    assert_eq!(told.recv().await, Some((TunnelId(1), LeaseNumber(1))));
}
