//! `sixferry-cpe dtcp`: a tunnel from a DTCP server, for a user with a name and a password.
//!
//! DTCP is Tattam's Dynamic Tunnel Configuration Protocol (drafts of May 1999) as its servers have spoken
//! it since: the client answers a challenge over TCP, gets the ends of a tunnel, and has it for as long
//! as the TCP session lives. It understands the original servers as well as ours.
//!
//! What is said is in `sixferry_dtcp_wire`, shared with the server. [`lines`], [`machine`] and
//! [`delegation`] decide and do no I/O; [`run`] moves lines and carries out what the machine says,
//! [`site`] what concerns this host.

pub mod auth;
mod backoff;
pub mod delegation;
pub mod lines;
pub mod machine;
pub mod options;
pub mod run;
pub mod script;
pub mod site;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::machine::{Event, Machine, Outcome};
use self::options::Options;
use self::run::{Control, Endpoint};
use self::site::{PidFile, RealSite};
use crate::Error;

/// Runs a client until it is stopped or has to give up.
///
/// # Errors
/// Options that contradict each other, a password that cannot be had, and everything of this host that
/// is in the way before the first attempt.
pub async fn serve(options: Options) -> Result<Outcome, Error> {
    let plan = options.check()?;
    let controls = signals()?;
    let source = auth::Source::choose(
        options.password_file.clone(),
        options.auth_file.clone(),
        &plan.server,
        &plan.settings.user,
        &handled(),
    )?;
    // A mistake in a file shows now, not after the first connection.
    source.password(&plan.server, &plan.settings.user)?;
    let _pid_file = options
        .pid_file
        .as_deref()
        .map(PidFile::write)
        .transpose()?;
    let endpoint = Endpoint {
        server: plan.server.clone(),
        port: options.port,
        user: plan.settings.user.clone(),
        source,
    };
    let mut site = RealSite::new(plan.site, options.script.clone())?;
    let machine = Machine::new(plan.settings);
    let outcome = run::drive(machine, &mut site, &endpoint, controls).await;
    site.finish().await;
    Ok(outcome)
}

/// What [`signals`] takes of what a prompt must know about.
fn handled() -> [i32; 3] {
    [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ]
    .map(|kind| kind.as_raw_value())
}

fn signals() -> Result<mpsc::Receiver<Control>, Error> {
    let install =
        |kind| signal(kind).map_err(|e| Error::Config(format!("cannot install a handler: {e}")));
    let mut interrupt = install(SignalKind::interrupt())?;
    let mut terminate = install(SignalKind::terminate())?;
    let mut hangup = install(SignalKind::hangup())?;
    let mut report = install(SignalKind::user_defined1())?;
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let control = tokio::select! {
                _ = interrupt.recv() => Control::Event(Event::Stop),
                _ = terminate.recv() => Control::Event(Event::Stop),
                _ = hangup.recv() => Control::Event(Event::Restart),
                _ = report.recv() => Control::Report,
            };
            if sender.send(control).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
