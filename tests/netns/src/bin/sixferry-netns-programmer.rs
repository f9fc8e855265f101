//! A controller that programs tunnels until it is killed: `SOCKET OWNER COUNT`.
//!
//! It writes COUNT tunnels in small batches over and over, each round with other remote
//! addresses, and prints `round N` as it goes. A test kills it in the middle of a batch.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use sixferry_netns_tests::api::{Api, tunnel, upsert};

const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const BATCH: u32 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, owner, count] = arguments.as_slice() else {
        eprintln!("usage: sixferry-netns-programmer SOCKET OWNER COUNT");
        return ExitCode::from(2);
    };
    let (Some(api), Ok(count)) = (Api::connect(Path::new(socket)), count.parse::<u32>()) else {
        eprintln!("no daemon at {socket}, or {count:?} is no number");
        return ExitCode::from(2);
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let election_id = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    let session = match api.open_session(owner, election_id) {
        Ok(session) => session,
        Err(status) => {
            eprintln!("{status}");
            return ExitCode::FAILURE;
        }
    };
    for round in 0_u32.. {
        let batches = (0..count).step_by(BATCH as usize).map(|first| {
            (first..count.min(first + BATCH))
                .map(|n| one(n, round))
                .collect()
        });
        match api.program(&session, batches.collect()) {
            Ok(answers) if answers.iter().all(|answer| answer.failures.is_empty()) => {
                println!("round {round}");
            }
            Ok(answers) => eprintln!("{:?}", answers.iter().find(|a| !a.failures.is_empty())),
            Err(status) => {
                eprintln!("{status}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn one(n: u32, round: u32) -> sixferry_proto::dataplane::v1::TunnelUpdate {
    let remote = Ipv4Addr::from(0x0a00_0000 + (round % 2) * 0x0080_0000 + n);
    let prefix = format!("2001:db8:{:x}:{:x}::/64", 0x4000 + (n >> 16), n & 0xffff);
    upsert(tunnel(&format!("bulk-{n}"), LOCAL, remote, &prefix))
}
