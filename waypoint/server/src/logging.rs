//! The log on standard error, whose filter can be changed while the process runs.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a filter is not used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be read.
    #[error(
        "`{filter}` is no log filter: {reason}; write error, warn, info, debug or trace, or `hbone=debug,info`"
    )]
    BadFilter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging is not ours: somebody else set it up.
    #[error("the log of this process cannot be changed")]
    NotOurs,
}

/// Changes the filter. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogControl(Option<reload::Handle<EnvFilter, Registry>>);

impl LogControl {
    /// Starts logging; once in a process.
    ///
    /// # Errors
    /// [`LogError::BadFilter`]; [`LogError::NotOurs`] the second time.
    pub fn start(filter: &str, form: LogForm) -> Result<Self, LogError> {
        let (layer, handle) = reload::Layer::new(parse(filter)?);
        let lines = fmt::layer().with_writer(std::io::stderr);
        let registry = tracing_subscriber::registry().with(layer);
        match form {
            LogForm::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
            LogForm::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        }
        .map_err(|_| LogError::NotOurs)?;
        Ok(Self(Some(handle)))
    }

    /// For callers that log their own way: nothing can be changed.
    #[must_use]
    pub fn foreign() -> Self {
        Self(None)
    }

    /// The filter now.
    #[must_use]
    pub fn filter(&self) -> Option<String> {
        self.0.as_ref()?.with_current(ToString::to_string).ok()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// [`LogError`]; the old filter stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let filter = parse(filter)?;
        self.0.as_ref().ok_or(LogError::NotOurs)?.reload(filter).map_err(|_| LogError::NotOurs)
    }
}

/// Is this a filter?
///
/// # Errors
/// [`LogError::BadFilter`].
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter).map(|_| ())
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let bad = |reason: String| LogError::BadFilter { filter: filter.to_owned(), reason };
    if filter.trim().is_empty() {
        return Err(bad("it is empty".to_owned()));
    }
    // A word that is no level would silently be taken for the name of a target.
    let bare = |part: &&str| !part.contains(['=', '[', ':']);
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let unknown = |part: &&str| !levels.contains(&part.trim().to_ascii_lowercase().as_str());
    if let Some(part) = filter.split(',').filter(bare).find(unknown) {
        return Err(bad(format!("`{}` is no level", part.trim())));
    }
    EnvFilter::builder().parse(filter).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_levels_by_target() {
        for good in ["info", "WARN", "off", "hbone=debug,info", "waypoint_proxy::http=trace"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "hbone=loud", "info,chatty"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("no log filter"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_foreign_log_is_left_alone() {
        let log = LogControl::foreign();
        assert_eq!(log.filter(), None);
        assert!(matches!(log.set("debug"), Err(LogError::NotOurs)));
    }
}
