//! The command line: the letters of dtcpc(8) and dtcpclient(8), with long names.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::Ipv6Net;
use sixferry_dtcp_wire::client::Wish;
use sixferry_dtcp_wire::udp;

use super::delegation::Link;
use super::machine::Settings;
use super::site;
use crate::Error;
use crate::tunnel::MIN_MTU;

/// Get a tunnel from a DTCP server and keep it until told to stop.
///
/// Exit code 0: stopped by SIGINT or SIGTERM, or the server ended the session; 1: refused, not reached,
/// or behind a NAT; 2: wrong options, or this host is in the way. SIGHUP logs in again, SIGUSR1 prints
/// the counters. The password is typed, or comes from a file that nobody else may read.
#[derive(Args, Debug)]
pub struct Options {
    /// Name or IPv4 address of the server.
    pub server: String,
    /// TCP port of the server.
    #[arg(short = 'p', long, default_value_t = 20200)]
    pub port: u16,
    /// User name. [default: the login name]
    #[arg(short = 'u', long)]
    pub user: Option<String>,
    /// File whose first line is the password (mode 0600).
    #[arg(long, value_name = "FILE", conflicts_with = "auth_file")]
    pub password_file: Option<PathBuf>,
    /// File of lines `server:user:password` (mode 0600). [default: /etc/sixferry/dtcp.auth if it has
    /// a line for this login]
    #[arg(long, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// What to ask for.
    #[arg(short = 't', long = "type", value_enum, default_value_t = Kind::Tunnelonly)]
    pub kind: Kind,
    /// Name of the TUN device; by default the kernel chooses one.
    #[arg(short = 'i', long = "dev", value_name = "NAME")]
    pub device: Option<String>,
    /// How the rest of the world is reached: a default route, router solicitation, or not at all.
    #[arg(short = 'r', long = "route", value_enum, default_value_t = Route::Static)]
    pub route: Route,
    /// Send these prefixes into the tunnel, in place of the default route.
    #[arg(
        short = 'R',
        long = "destinations",
        value_name = "PREFIX,...",
        value_delimiter = ','
    )]
    pub destinations: Vec<Ipv6Net>,
    /// Give parts of the delegated prefix to other interfaces: each INTERFACE[/SLA[/HOSTID[/LENGTH]]].
    #[arg(
        short = 'P',
        long = "delegate",
        value_name = "LINK,...",
        value_delimiter = ','
    )]
    pub links: Vec<Link>,
    /// Do not announce the prefixes of -P (nothing is ever announced: see docs/cpe.md).
    #[arg(short = 'a', long = "no-advertise")]
    pub no_advertise: bool,
    /// Log in again whenever the session is lost, for ever.
    #[arg(short = 'l', long = "reconnect")]
    pub reconnect: bool,
    /// Longest pause between two attempts; after refusals ten times as long.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub retry_max: Duration,
    /// How long the tunnel stays without a session while -l tries to get it back.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub hold: Duration,
    /// Do not compare our address with the one the server sees: a NAT forwards protocol 41 to us.
    #[arg(short = 'n', long = "no-nat-check")]
    pub nat_allowed: bool,
    /// Inner MTU; both ends must agree.
    #[arg(short = 'm', long, default_value_t = MIN_MTU)]
    pub mtu: u16,
    /// Carry IPv6 in UDP, which passes NAT.
    #[arg(short = 'U', long)]
    pub udp: bool,
    /// UDP port of this host; 0: the kernel chooses.
    #[arg(
        short = 'b',
        long,
        value_name = "PORT",
        default_value_t = 4028,
        requires = "udp"
    )]
    pub udp_port: u16,
    /// Tell the server to send to this UDP port: that of -b, or the one a NAT forwards to it. Without,
    /// the server learns it from what it gets.
    #[arg(short = 'B', long, value_name = "PORT", requires = "udp",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub told_udp_port: Option<u16>,
    /// Program to run with `up`, `change` or `down`; what happened is in its environment.
    #[arg(short = 's', long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// File for the process id.
    #[arg(short = 'f', long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// File that holds the device's name while the tunnel is up.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Print counters as one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Say more.
    #[arg(short = 'd', long)]
    pub debug: bool,
    /// Does nothing: it stays in the foreground, under a service manager.
    #[arg(short = 'D', long)]
    pub daemon: bool,
    /// Does nothing: the device is always made for the tunnel and goes with it.
    #[arg(short = 'c', hide = true)]
    pub no_cloning: bool,
    /// Does nothing, as -c.
    #[arg(short = 'o', hide = true)]
    pub keep: bool,
}

/// Type of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// No addresses: they are configured here, or come by router advertisement.
    Tunnelonly,
    /// One address.
    Host,
    /// The prefixes of the user.
    Network,
    /// Another word for `network`.
    Tunnelroute,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Tunnelonly => "tunnelonly",
            Self::Host => "host",
            Self::Network => "network",
            Self::Tunnelroute => "tunnelroute",
        }
    }
}

/// Routes into the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Route {
    /// A default route, or those of -R.
    Static,
    /// What a router advertises in the tunnel: address and default route.
    Solicit,
    /// None.
    None,
}

/// What the options mean.
#[derive(Debug)]
pub struct Checked {
    /// Server as named.
    pub server: String,
    /// For the machine.
    pub settings: Settings,
    /// For this host.
    pub site: site::Settings,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<u32>()
        .map(|seconds| Duration::from_secs(seconds.into()))
        .map_err(|_| format!("`{text}` is no number of seconds"))
}

/// Whether a word can be sent as one token.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b > b' ' && b != 0x7f)
}

impl Options {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<Checked, Error> {
        let user = self.user()?;
        self.agree()?;
        self.warn();
        let udp = self.udp.then_some(udp::Request {
            client_port: self.told_udp_port,
        });
        Ok(Checked {
            server: self.server.clone(),
            settings: Settings {
                user: user.clone(),
                wish: Wish {
                    kind: self.kind.word(),
                    udp,
                },
                nat_allowed: self.nat_allowed,
                reconnect: self.reconnect,
                retry_max: self.retry_max,
                hold: self.hold,
            },
            site: self.site(user),
        })
    }

    fn user(&self) -> Result<String, Error> {
        let login = || {
            let names = ["LOGNAME", "USER"].into_iter();
            names.filter_map(|name| std::env::var(name).ok()).next()
        };
        let user = self.user.clone().or_else(login);
        let user = user.ok_or_else(|| wrong("no user name: give one with -u"))?;
        if !is_token(&user) {
            return Err(wrong("-u: a user name has no spaces and at most 255 bytes"));
        }
        Ok(user)
    }

    /// What excludes each other, or can never work.
    fn agree(&self) -> Result<(), Error> {
        if !is_token(&self.server) {
            return Err(wrong("the server is a name or an IPv4 address"));
        }
        if self.server.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(wrong("DTCP servers have IPv4 addresses"));
        }
        if !self.destinations.is_empty() && self.route != Route::Static {
            return Err(wrong("-R gives static routes: it goes with -r static only"));
        }
        if self.mtu < MIN_MTU {
            return Err(Error::Config(format!("-m: at least {MIN_MTU}")));
        }
        Ok(())
    }

    /// What is accepted and does nothing.
    fn warn(&self) {
        if self.daemon {
            tracing::warn!("-D: staying in the foreground; a service manager puts it elsewhere");
        }
        if self.no_cloning || self.keep {
            tracing::warn!("-c and -o do nothing: the TUN device is made and removed as needed");
        }
    }

    fn site(&self, user: String) -> site::Settings {
        let routes = match (self.route, self.destinations.as_slice()) {
            (Route::Static, []) => vec![Ipv6Net::default()],
            (Route::Static, some) => some.to_vec(),
            (Route::Solicit | Route::None, _) => Vec::new(),
        };
        site::Settings {
            server: self.server.clone(),
            user,
            kind: self.kind.word(),
            device: self.device.clone(),
            mtu: self.mtu,
            udp_port: self.udp_port,
            routes,
            solicit: self.route == Route::Solicit,
            links: self.links.clone(),
            ready_file: self.ready_file.clone(),
            json: self.json,
        }
    }
}

fn wrong(text: &str) -> Error {
    Error::Config(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn checked(args: &str) -> Result<Checked, String> {
        let args = ["dtcp"].into_iter().chain(args.split_whitespace());
        let cli = Cli::try_parse_from(args).map_err(|e| e.to_string())?;
        cli.options.check().map_err(|e| e.to_string())
    }

    #[test]
    fn lines_of_the_originals_mean_what_they_meant() {
        let plain = checked("-u alice tunnel.example").expect("good");
        assert_eq!(plain.settings.wish.kind, "tunnelonly");
        assert_eq!(plain.site.routes, [Ipv6Net::default()]);
        assert!(!plain.settings.reconnect && plain.settings.wish.udp.is_none());
        // as the boot scripts of the packages run them
        let boot = checked("-t network -Dl -u alice tunnel.example").expect("good");
        assert!(boot.settings.reconnect && boot.settings.wish.kind == "network");
        let udp = checked("-U -b 5000 -B 5001 -n -m 1400 -i tun7 -u a s").expect("good");
        let told = udp.settings.wish.udp.expect("UDP").client_port;
        assert_eq!((udp.site.udp_port, told), (5000, Some(5001)));
        assert_eq!(
            (udp.site.mtu, udp.site.device.as_deref()),
            (1400, Some("tun7"))
        );
        let learnt = checked("-U -u a s").expect("good");
        assert_eq!(
            learnt.settings.wish.udp,
            Some(udp::Request { client_port: None })
        );
        assert_eq!(learnt.site.udp_port, 4028);
        let routes = checked("-R 2001:db8::/32,2001:db9::/32 -u a s").expect("good");
        assert_eq!(routes.site.routes.len(), 2);
        let links = checked("-t network -P eth1,eth2/1/1 -u a s").expect("good");
        assert_eq!(links.site.links.len(), 2);
        assert!(checked("-r solicit -u a s").expect("good").site.solicit);
    }

    #[test]
    fn contradictions_are_told() {
        for (args, why) in [
            ("-u a 2001:db8::1", "IPv4"),
            ("-r none -R 2001:db8::/32 -u a s", "-r static only"),
            ("-m 1279 -u a s", "at least 1280"),
            ("-b 4028 -u a s", "--udp"),
            ("-U -B 0 -u a s", "0"),
            ("-t HOST -u a s", "HOST"),
            ("-P eth0/x -u a s", "no number"),
            ("-u a", "<SERVER>"),
            (
                "--password-file x --auth-file y -u a s",
                "cannot be used with",
            ),
        ] {
            let error = checked(args).expect_err(args);
            assert!(error.contains(why), "{args}: {error}");
        }
        let spaced = Cli::try_parse_from(["dtcp", "-u", "a b", "s"]).expect("clap takes it");
        assert!(spaced.options.check().is_err());
    }
}
