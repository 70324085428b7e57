//! `portcullis run`: the wiring of [`wire`] with the process' own streams and signals.

use std::io;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::RunArgs;
use crate::config::{self, ConfigError, Launch};
use crate::events::Events;
use crate::logging::{LogControl, LogError, LogForm};
use crate::runtime;
use crate::shutdown::{self, Stop};
use crate::wire::{self, Hooks, StartError};

/// Why `run` ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command line or a file that it names is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `--log` is unusable.
    #[error("--log {0}")]
    Log(#[from] LogError),
    /// The system refuses a runtime or signals.
    #[error("the process cannot be set up: {0}")]
    System(#[from] io::Error),
    /// It could not start, or a listener failed.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Serves until it is told to stop.
///
/// # Errors
/// [`RunError`]; each text names the flag or file, and what to do.
pub fn command(args: RunArgs) -> Result<ExitCode, RunError> {
    let launch = config::launch(&args)?;
    serve(launch, LogControl::start(&args.log, LogForm::Text)?, None)
}

/// Serves with the process' own streams and signals, on so many workers (`None`: one a CPU), until it is told to stop.
///
/// # Errors
/// [`RunError::System`] and [`RunError::Start`].
pub fn serve(launch: Launch, log: LogControl, workers: Option<NonZeroUsize>) -> Result<ExitCode, RunError> {
    let workers = runtime::workers(workers)?;
    let control = runtime::control()?;
    let served = control.block_on(async {
        let (ask, stops) = shutdown::stops();
        let signals = Signals::listen()?;
        let hooks = Hooks {
            log_sink: Box::new(io::stdout()),
            events: Events::to_stderr(),
            log,
            ask: ask.clone(),
            stops,
        };
        // Dropping the signals' future is fine: it ends with the process.
        tokio::select! {
            served = wire::serve(launch, hooks, workers.handle()) => served.map_err(RunError::from),
            never = signals.forward(ask) => match never {},
        }
    });
    // Whatever still runs was aborted and counted; nothing waits for it.
    workers.shutdown_background();
    served.map(|_| ExitCode::SUCCESS)
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Hands each SIGTERM and SIGINT on as a stop.
    async fn forward(mut self, ask: mpsc::Sender<Stop>) -> std::convert::Infallible {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            // A full queue means that stops enough are waiting.
            let _ = ask.try_send(Stop);
        }
    }
}
