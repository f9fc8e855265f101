//! The generator: live frames, or a packet socket where those are refused.

use super::live::{self, Live};
use super::pace::{Orders, Pace};
use super::role::{self, Reading, Seat};
use super::socket::PacketSender;
use super::traffic::Traffic;
use crate::error::{Context, Error};
use std::fmt;

/// Frames that show whether an interface transmits live ones.
const PROBE: u32 = 64;

/// Which way to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Live frames if the interface takes them, or else a packet socket.
    #[default]
    Auto,
    /// Live frames, or nothing.
    Xdp,
    /// A packet socket.
    Packet,
}

/// A running generator.
pub struct Generator {
    sender: Sender,
    /// Why it is not live frames, if it was to be the better of both.
    refused: Option<String>,
    /// What was sent to find that out.
    probe: Reading,
}

enum Sender {
    Live(Box<Live>),
    Packet(PacketSender),
}

impl Choice {
    /// As on the command line.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Packet => "packet",
        }
    }
}

impl Generator {
    /// Starts to send at `pace`, from an interface of the caller's namespace.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn start(
        interface: &str,
        traffic: &Traffic,
        seat: Option<Seat>,
        choice: Choice,
        first: Orders,
    ) -> Result<Self, Error> {
        traffic.check().during("the traffic")?;
        let egress = super::interface_index(interface)?;
        let (probe, refused) = match choice {
            Choice::Auto => {
                let frames = first.limit.min(PROBE.into()) as u32;
                try_live(interface, traffic, egress, frames)
            }
            Choice::Xdp | Choice::Packet => (Reading::default(), None),
        };
        let first = first.after(probe.packets);
        let sender = if choice == Choice::Packet || refused.is_some() {
            Sender::Packet(PacketSender::start(traffic, interface, seat, first)?)
        } else {
            Sender::Live(Box::new(Live::start(traffic, egress, seat, first)?))
        };
        Ok(Self {
            sender,
            refused,
            probe,
        })
    }

    /// Sends otherwise from now on.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn order(&mut self, wanted: Orders) -> Result<(), Error> {
        let wanted = wanted.after(self.probe.packets);
        match &mut self.sender {
            Sender::Live(live) => live.order(wanted),
            Sender::Packet(packet) => {
                packet.order(wanted);
                Ok(())
            }
        }
    }

    /// What it has sent.
    ///
    /// # Errors
    /// When it has failed.
    pub fn reading(&self) -> Result<Reading, Error> {
        let reading = match &self.sender {
            Sender::Live(live) => live.reading(),
            Sender::Packet(packet) => packet.reading(),
        }?;
        Ok(Reading {
            packets: reading.packets + self.probe.packets,
            bytes: reading.bytes + self.probe.bytes,
            tagged: reading.tagged + self.probe.tagged,
            ..reading
        })
    }
}

/// Which way it sends, for people.
impl fmt::Display for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.sender, &self.refused) {
            (Sender::Live(_), _) => f.write_str("XDP live frames"),
            (Sender::Packet(_), None) => f.write_str("packet socket"),
            (Sender::Packet(_), Some(why)) => write!(f, "packet socket; not XDP: {why}"),
        }
    }
}

/// What live frames did, or why there were none.
fn try_live(
    interface: &str,
    traffic: &Traffic,
    egress: u32,
    frames: u32,
) -> (Reading, Option<String>) {
    let why = match live::probe(traffic, interface, egress, frames) {
        Ok(Some(sent)) => return (sent, None),
        Ok(None) => {
            "the interface does not transmit redirected frames (a veth does while its peer \
                     has GRO or an XDP program)"
                .to_owned()
        }
        Err(error) => error.to_string(),
    };
    (Reading::default(), Some(why))
}

/// Obeys the lines on standard input until that ends. Called in the interface's namespace.
///
/// # Errors
/// What the kernel refuses.
pub fn obey(interface: &str, traffic: &Traffic, seat: Seat, choice: Choice) -> Result<(), Error> {
    let first = Pace::Paused.orders(u64::MAX);
    let mut generator = Generator::start(interface, traffic, Some(seat), choice, first)?;
    role::serve(|line| {
        if !line.is_empty() {
            generator.order(line.parse::<Orders>().during("an order")?)?;
        }
        generator.reading()
    })
}
