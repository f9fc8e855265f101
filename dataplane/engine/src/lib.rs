//! Moves packets between ports and the forwarding core, on one thread per queue.
//!
//! [`Worker`] runs `sixferry_fwd::process` over batches of any [`Port`]; [`Publisher`] gives all
//! workers a new table snapshot by one pointer store; [`PuntProducer`]/[`PuntConsumer`] and
//! [`Injector`] are the bounded ways to the slow path and back, [`HostEnd`] those to the host's own
//! stack; [`HoldQueue`] keeps packets whose
//! next hop is being resolved. [`Engine`] makes all of them for a number of workers.
//!
//! What may not happen on a worker's thread: a lock, an allocation, a free, a log line, a system
//! call other than a wake-up. A frame is never lost and never in two places; every packet taken is
//! counted exactly once.
#![forbid(unsafe_code)]

mod engine;
mod event;
mod frame;
mod holder;
mod host;
mod inject;
mod limit;
mod mem;
mod pcap;
mod port;
mod publisher;
mod punt;
mod ring;
mod run;
mod slow_path;
mod stats;
mod wake;
mod worker;

pub use engine::{Engine, EngineConfig, Seat};
pub use event::Noted;
pub use frame::{BATCH_MAX, FRAME_LEN, Frame, FramePool, HEADROOM};
pub use holder::{Held, Hold, HoldLimits, HoldQueue};
pub use host::{HostConfig, HostEnd, HostProducer};
pub use inject::{INJECT_MAX, InjectError, InjectKind, InjectReceiver, Injector, inject_path};
pub use limit::{Rate, TokenBucket};
pub use mem::{MemLink, MemPort};
pub use pcap::{LinkLayer, PcapPort, ReplayClock, ReplayError};
pub use port::{Port, PortQueueStats, RxPacket};
pub use publisher::{PUBLISH_INTERVAL, Publisher, Readers, TablesReader};
pub use punt::{
    PuntConfig, PuntConsumer, PuntCounters, PuntMeta, PuntProducer, PuntTotals, punt_path,
};
pub use ring::{Loan, PacketRing, RingError, RingPacket};
pub use run::{IdlePolicy, SpawnError, SpawnOptions, StopFlag, WorkerHandle, drop_capabilities};
pub use slow_path::SlowPathCounters;
pub use stats::{BATCH_BUCKETS, WorkerReport, WorkerStats};
pub use wake::{Waker, monotonic};
pub use worker::{PortIds, PortSet, Turn, Worker, WorkerParts};
