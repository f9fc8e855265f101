//! ICMPv6 and ICMPv4 echo by iputils' `ping`, in a namespace or in the guest.

use std::net::IpAddr;

use crate::guest::Guest;
use crate::net::Net;

/// IPv6 header and ICMPv6 header: what a packet of a given length spends before the payload.
const V6_OVERHEAD: u16 = 48;

/// Guest and relay are processes among others: on a busy host a reply may be seconds late.
const WAIT_S: u16 = 5;

/// A ping to be sent.
#[derive(Clone, Debug)]
pub struct Ping {
    to: IpAddr,
    payload: u16,
    count: u16,
    wait_s: u16,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// The MTU a Packet Too Big carried, if one arrived, and who sent it.
    pub too_big: Option<(u32, String)>,
    /// Everything `ping` printed.
    pub text: String,
}

impl Ping {
    /// One small request.
    #[must_use]
    pub fn to(to: impl Into<IpAddr>) -> Self {
        Self {
            to: to.into(),
            payload: 56,
            count: 1,
            wait_s: WAIT_S,
        }
    }

    /// This many requests, each after the reply to the last.
    #[must_use]
    pub fn count(mut self, count: u16) -> Self {
        self.count = count;
        self
    }

    /// IPv6 packets of exactly this length.
    #[must_use]
    pub fn packet_len(mut self, len: u16) -> Self {
        self.payload = len - V6_OVERHEAD;
        self
    }

    /// Seconds to wait for each reply; the guest has more.
    #[must_use]
    pub fn wait_s(mut self, seconds: u16) -> Self {
        self.wait_s = seconds;
        self
    }

    /// Sends from a namespace.
    ///
    /// # Panics
    /// When `ping` prints no summary.
    #[must_use]
    pub fn from(&self, net: &Net) -> PingReport {
        self.each(|| {
            let done = net.try_run(&format!("ping {}", self.words()));
            let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&done.stderr));
            text
        })
    }

    /// Sends from the guest.
    ///
    /// # Panics
    /// When `ping` prints no summary.
    #[must_use]
    pub fn from_guest(&self, guest: &Guest) -> PingReport {
        let patient = Self {
            wait_s: self.wait_s.max(WAIT_S),
            ..self.clone()
        };
        self.each(|| guest.shell(&format!("/sbin/ping {}", patient.words())).text)
    }

    /// A `ping` for each request: told to send several, it waits for the last reply only as long as
    /// between two requests.
    fn each(&self, one: impl Fn() -> String) -> PingReport {
        let mut report = PingReport::parse(one());
        for _ in 1..self.count {
            report.add(PingReport::parse(one()));
        }
        report
    }

    /// `-M do`: never fragment here. What an earlier Packet Too Big taught stays in the route
    /// cache of the sender; flush that before asking the path again.
    fn words(&self) -> String {
        format!(
            "-n -M do -c 1 -W {} -s {} {}",
            self.wait_s, self.payload, self.to
        )
    }
}

impl PingReport {
    /// Every request was answered.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.sent > 0 && self.received == self.sent
    }

    fn add(&mut self, more: Self) {
        self.sent += more.sent;
        self.received += more.received;
        self.too_big = self.too_big.take().or(more.too_big);
        self.text.push_str(&more.text);
    }

    fn parse(text: String) -> Self {
        let summary = text
            .lines()
            .find(|line| line.contains("packets transmitted"));
        let Some(summary) = summary else {
            panic!("ping printed no summary:\n{text}")
        };
        let number_before = |word: &str| {
            summary
                .split(',')
                .find(|part| part.contains(word))
                .and_then(|part| part.split_whitespace().next())
                .and_then(|number| number.parse().ok())
                .unwrap_or(0)
        };
        let too_big = text.lines().find_map(|line| {
            let (from, rest) = line.strip_prefix("From ")?.split_once(' ')?;
            let (_, mtu) = rest.split_once("mtu=")?;
            let digits: String = mtu.chars().take_while(char::is_ascii_digit).collect();
            Some((digits.parse().ok()?, from.trim_end_matches(':').to_owned()))
        });
        Self {
            sent: number_before("transmitted"),
            received: number_before("received"),
            too_big,
            text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PingReport;

    #[test]
    fn summary_and_packet_too_big_are_read() {
        let text = "PING 2001:db8::2(2001:db8::2) 1233 data bytes\n\
                    From 2001:db8:ffff::1 icmp_seq=1 Packet too big: mtu=1280\n\n\
                    --- 2001:db8::2 ping statistics ---\n\
                    1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n";
        let report = PingReport::parse(text.to_owned());
        assert_eq!((report.sent, report.received), (1, 0));
        assert_eq!(report.too_big, Some((1280, "2001:db8:ffff::1".to_owned())));
        assert!(!report.complete());
        let mut both = PingReport::parse(
            "--- 2001:db8::2 ping statistics ---\n\
             1 packets transmitted, 1 received, 0% packet loss, time 0ms\n"
                .to_owned(),
        );
        assert!(both.complete());
        both.add(report);
        assert_eq!((both.sent, both.received), (2, 1));
        assert_eq!(both.too_big.as_ref().map(|(mtu, _)| *mtu), Some(1280));
        assert!(!both.complete());
    }
}
