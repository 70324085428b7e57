//! The settings file: every bound and deadline by name, checked as a whole before anything starts.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use waypoint_proxy::limits::Limits;

/// Why a settings file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("--settings {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no YAML mapping of known settings.
    #[error("--settings {}: {reason}\n  fix: `portcullis schema` prints what may stand there", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, column and field.
        reason: String,
    },
    /// Values that cannot work. All of them.
    #[error("--settings {}:\n  - {}", path.display(), faults.join("\n  - "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// One sentence each, with the setting's name.
        faults: Vec<String>,
    },
}

/// Reads a settings file; settings that it does not name keep their default.
///
/// # Errors
/// Names the file, and the field or every fault.
pub fn load(path: &Path) -> Result<Limits, SettingsError> {
    let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let limits = parse(&text).map_err(|reason| SettingsError::Malformed { path: path.to_owned(), reason })?;
    let faults = faults(&limits);
    if faults.is_empty() { Ok(limits) } else { Err(SettingsError::Invalid { path: path.to_owned(), faults }) }
}

fn parse(text: &str) -> Result<Limits, String> {
    let only_comments = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if only_comments {
        return Ok(Limits::default());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| named(text, &error))
}

/// The error with the setting on its line, which the reader itself names only where it is unknown.
fn named(text: &str, error: &serde_saphyr::Error) -> String {
    let index = error.location().and_then(|at| usize::try_from(at.line()).ok()?.checked_sub(1));
    let line = index.and_then(|index| text.lines().nth(index));
    match line.and_then(|line| line.split_once(':')) {
        Some((setting, _)) => format!("{}: {error}", setting.trim()),
        None => error.to_string(),
    }
}

/// Every fault of these values, one sentence each. What a bound of HTTP/2 or of ztunnel demands is said in it.
#[must_use]
pub fn faults(limits: &Limits) -> Vec<String> {
    let mut faults = Vec::new();
    let mut demand = |holds: bool, fault: &str| {
        if !holds {
            faults.push(fault.to_owned());
        }
    };
    http2(limits, &mut demand);
    sizes(limits, &mut demand);
    times(limits, &mut demand);
    faults
}

fn http2(limits: &Limits, demand: &mut dyn FnMut(bool, &str)) {
    const LARGEST_WINDOW: u32 = (1 << 31) - 1;
    demand(
        limits.streams_per_connection >= 100,
        "streams_per_connection: not under 100, ztunnel assumes as many",
    );
    demand(
        (65_535..=LARGEST_WINDOW).contains(&limits.stream_window),
        "stream_window: from 65535 to 2147483647 (RFC 9113 §6.9.2)",
    );
    demand(
        limits.connection_window > limits.stream_window,
        "connection_window: must be greater than stream_window, or one stalled stream holds up all others",
    );
    demand(
        limits.connection_window <= LARGEST_WINDOW,
        "connection_window: at most 2147483647 (RFC 9113 §6.9.1)",
    );
    demand(
        limits.total_window >= u64::from(limits.connection_window),
        "total_window: not under connection_window, or no connection could have its window",
    );
    demand((16_384..=16_777_215).contains(&limits.frame), "frame: from 16384 to 16777215 (RFC 9113 §6.5.2)");
    demand(limits.header_list >= 8 << 10, "header_list: not under 8192, ordinary requests need it");
    demand(
        (16_384..=2_147_483_647).contains(&limits.send_buffer),
        "send_buffer: from 16384, a frame must fit, to 2147483647, the largest window (RFC 9113 §6.9.1)",
    );
    demand(limits.upstream_streams_per_connection > 0, "upstream_streams_per_connection: not 0");
}

fn sizes(limits: &Limits, demand: &mut dyn FnMut(bool, &str)) {
    demand(limits.connections > 0, "connections: not 0");
    demand(limits.peer_connections > 0, "peer_connections: not 0");
    demand(limits.idle_frames >= 100, "idle_frames: not under 100, every stream may be given up with one");
    demand(limits.handshakes > 0, "handshakes: not 0");
    demand(limits.inspected_body >= 1 << 10, "inspected_body: not under 1024, or no call could be judged");
    demand(
        limits.inspected_total >= limits.inspected_body,
        "inspected_total: not under inspected_body, or the largest body could never be judged",
    );
    demand(limits.screened_list >= 1 << 10, "screened_list: not under 1024, or no list could be answered");
    demand(limits.sse_event >= 1 << 10, "sse_event: not under 1024, or no list event could be answered");
    demand(limits.copy_buffer >= 1 << 10, "copy_buffer: not under 1024, every read costs a call");
    demand(limits.json_depth >= 4, "json_depth: not under 4, or no argument could be read");
    demand(limits.json_depth <= 1024, "json_depth: at most 1024");
    demand(limits.json_members >= 16, "json_members: not under 16, or no call could be judged");
    demand(limits.json_key >= 64, "json_key: not under 64, or no declared version could be read");
    demand(limits.batch_messages > 0, "batch_messages: not 0");
    demand(limits.name_length > 0, "name_length: not 0");
    demand(limits.peer_event_streams > 0, "peer_event_streams: not 0");
    demand(limits.list_entries > 0, "list_entries: not 0");
    demand(limits.sniffed >= 24, "sniffed: not under 24, the length of the HTTP/2 preface");
    demand(limits.endpoint_requests > 0, "endpoint_requests: not 0");
    demand(limits.endpoint_connections > 0, "endpoint_connections: not 0");
    demand(
        limits.ejection_failures > 0,
        "ejection_failures: not 0, or every endpoint would be ejected at once",
    );
    demand(limits.xds_queue > 0, "xds_queue: not 0, or nothing would be read of istiod");
    demand(limits.sessions > 0, "sessions: not 0");
    demand(
        limits.log_queue > 0,
        "log_queue: not 0, or every line would be dropped (--access-log off turns it off)",
    );
    demand(limits.span_queue > 0, "span_queue: not 0, or every span would be dropped");
    demand(limits.label_sets > 0, "label_sets: not 0");
}

fn times(limits: &Limits, demand: &mut dyn FnMut(bool, &str)) {
    let positive = [
        ("handshake_timeout", limits.handshake_timeout),
        ("inspection_timeout", limits.inspection_timeout),
        ("sniff_timeout", limits.sniff_timeout),
        ("connect_timeout", limits.connect_timeout),
        ("request_head_timeout", limits.request_head_timeout),
        ("upstream_idle", limits.upstream_idle),
        ("session_idle", limits.session_idle),
        ("session_age", limits.session_age),
        ("ejection_time", limits.ejection_time),
    ];
    for (name, time) in positive {
        demand(time > Duration::ZERO, &format!("{name}: not 0"));
    }
    demand(limits.recheck >= Duration::from_millis(10), "recheck: not under 10, it would keep a core busy");
    demand(limits.recheck <= Duration::from_secs(1), "recheck: at most 1000, a revoked peer must not linger");
    demand(
        limits.drain_deadline >= limits.drain_linger,
        "drain_deadline: not before drain_linger, both count from the first signal",
    );
}

/// JSON Schema of the settings file, with defaults and descriptions.
///
/// # Errors
/// If it could not be written as JSON, which is a fault of ours.
pub fn schema() -> Result<String, serde_json::Error> {
    let mut schema = schemars::schema_for!(Limits);
    schema.insert("title".to_owned(), "Portcullis settings".into());
    let mut text = serde_json::to_string_pretty(&schema)?;
    text.push('\n');
    Ok(text)
}

/// `portcullis schema`.
///
/// # Errors
/// If standard output is closed.
pub fn print_schema() -> std::io::Result<ExitCode> {
    let text = schema().map_err(std::io::Error::other)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Limits, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.yaml");
        fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn the_defaults_are_valid_and_an_empty_file_means_them() {
        assert_eq!(faults(&Limits::default()), Vec::<String>::new());
        for text in ["", "# nothing\n\n", "{}"] {
            assert_eq!(load_text(text).unwrap(), Limits::default(), "{text:?}");
        }
    }

    #[test]
    fn a_setting_replaces_its_default_and_times_are_milliseconds() {
        let limits = load_text("drain_linger: 200\ninspected_body: 2048\n").unwrap();
        assert_eq!(limits.drain_linger, Duration::from_millis(200));
        assert_eq!(limits.inspected_body, 2048);
        assert_eq!(limits.connections, Limits::default().connections);
    }

    #[test]
    fn what_is_not_a_setting_is_named_with_its_line() {
        let rows = [
            ("connections: 5\nconections: 9\n", "conections"),
            ("connections: many\n", "line 1"),
            ("drain_linger: 3s\n", "drain_linger: "),
            ("connections: 5\ndrain_linger: 3s\n", "drain_linger: "),
            ("- a\n", "line 1"),
            ("connections: 1\nconnections: 2\n", "connections"),
        ];
        for (text, named) in rows {
            let error = load_text(text).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("settings.yaml"), "{text:?}: {error}");
            assert!(error.contains("portcullis schema"), "{error}");
        }
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let text =
            "stream_window: 1048576\nconnection_window: 1048576\nstreams_per_connection: 99\nrecheck: 5000\n";
        let Err(SettingsError::Invalid { faults, .. }) = load_text(text) else { panic!("accepted") };
        let named: Vec<&str> = faults.iter().filter_map(|fault| fault.split(':').next()).collect();
        assert_eq!(named, ["streams_per_connection", "connection_window", "recheck"]);
    }

    #[test]
    fn a_send_buffer_that_http2_cannot_have_is_named() {
        let rows = [
            (16_383_usize, false),
            (16_384, true),
            (2_147_483_647, true),
            (2_147_483_648, false),
            (usize::MAX, false),
        ];
        for (send_buffer, holds) in rows {
            let faults = faults(&Limits { send_buffer, ..Limits::default() });
            assert_eq!(faults.is_empty(), holds, "{send_buffer}: {faults:?}");
            assert!(faults.iter().all(|fault| fault.starts_with("send_buffer: ")), "{faults:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_its_flag() {
        let error = load(Path::new("/nonexistent/settings.yaml")).unwrap_err().to_string();
        assert!(error.starts_with("--settings /nonexistent/settings.yaml: "), "{error}");
    }

    /// `portcullis schema > docs/schema/settings.json` mends it.
    #[test]
    fn the_committed_schema_is_that_of_the_types() {
        let committed = include_str!("../../../docs/schema/settings.json");
        assert!(committed == schema().unwrap(), "docs/schema/settings.json is out of date");
    }

    #[test]
    fn the_schema_says_what_each_setting_is() {
        let schema: serde_json::Value = serde_json::from_str(&schema().unwrap()).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties["drain_linger"]["default"], 3_000);
        for (name, property) in properties {
            assert!(property["description"].as_str().is_some_and(|text| text.len() > 5), "{name}");
        }
    }
}
