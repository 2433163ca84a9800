//! `serve`: a node, from its configuration to its last request.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::operator::load_config;
use super::output::Output;
use crate::app::{self, Bound, Reload};
use crate::clock::Clock;
use crate::config::{Config, Listener};
use crate::store::Random;
use crate::telemetry::log::{self, Format};

/// Threads for everything that is not a request: following the store, the admin listener, signals.
const CONTROL_THREADS: usize = 2;

pub fn serve(config: Option<&Path>, output: Output) -> Result<()> {
    let config = load_config(config)?;
    let clock = Clock::of_the_machine();
    let format = if output.is_json() { Format::Json } else { Format::for_standard_error() };
    log::init(config.log.level.name(), format, &app::node_name(&config.node.name), clock.clone())?;
    let runtime = runtime()?;
    let ended = runtime.block_on(node(config, clock));
    // After a second signal there are threads that wait for requests to end: nobody waits for those.
    runtime.shutdown_background();
    ended
}

/// The control runtime of a node.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(CONTROL_THREADS).thread_name("control").enable_all().build();
    runtime.context("start a runtime")
}

async fn node(config: Config, clock: Clock) -> Result<()> {
    // Before anything is served: a signal that comes early is not to end the process half-way.
    let mut signals = Signals::catch()?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let schemes: Vec<_> = config.listeners.iter().map(scheme).collect();
    let bound = app::bind(config, clock, Random::of_the_machine()).await?;
    announce(&bound, &schemes);
    let reload = bound.reload();
    let (tell, told) = oneshot::channel();
    let told_twice = async {
        signals.until_told_to_stop(&reload).await;
        // It is read as long as the node runs.
        let _ = tell.send(());
        signals.until_told_to_stop(&reload).await;
    };
    let told = async { drop(told.await) };
    tokio::select! {
        ended = bound.run(told) => ended,
        () = told_twice => bail!("stopped at once, as a second signal asked for: open requests were cut off"),
    }
}

const fn scheme(listener: &Listener) -> &'static str {
    if listener.tls.is_some() { "https" } else { "http" }
}

fn announce(bound: &Bound, schemes: &[&'static str]) {
    for (address, scheme) in bound.listeners.iter().zip(schemes) {
        tracing::info!("requests are served at {scheme}://{address}");
    }
    tracing::info!("the admin listener is at http://{}", bound.admin);
    if let Some(health) = bound.health {
        tracing::info!("health and metrics are at http://{health}");
    }
}

/// The signals that a node listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("listen to signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hang_up: catch(SignalKind::hangup())?,
        })
    }

    /// Reloads at each SIGHUP, until SIGTERM or Ctrl-C.
    async fn until_told_to_stop(&mut self, reload: &Reload) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => reload.now(),
            }
        }
    }
}
