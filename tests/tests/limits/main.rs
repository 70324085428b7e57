//! Every setting, reached through the shipped binary: what its client sees, and what counts it.
//!
//! The table below has a row for each key of the settings file; a key without one fails. A row names the test that reaches the bound
//! and returns with everything still there, and the metric by which an operator learns of it.

#![cfg(test)]

mod bodies;
mod connections;
mod http;
mod streams;
mod times;
mod upstream;

use anyhow::Result;
use portcullis_tests::portcullis::binary;
use portcullis_tests::process;
use portcullis_tests::single::Running;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// `portcullis_limit_hits_total`, by the setting's own name.
const HITS: &str = "portcullis_limit_hits_total";

/// Waits until a bound was counted.
async fn counted(running: Running, metric: &str, labels: &[(&str, &str)]) -> Result<()> {
    running.mesh.portcullis.metric_reaches(metric, labels, 1.0).await?;
    Ok(())
}

macro_rules! bounds {
    ($($setting:ident: $reach:path $(, by $metric:tt $($label:literal = $value:literal)?)?;)*) => {
        /// Settings that have a row.
        const ROWS: &[&str] = &[$(stringify!($setting)),*];

        mod reached {
            use super::*;
            $(
                #[tokio::test]
                async fn $setting() -> Result<()> {
                    let running = $reach().await?;
                    bounds!(@count running, $setting $(, $metric $($label $value)?)?)
                }
            )*
        }
    };
    (@count $running:ident, $setting:ident) => {
        counted($running, HITS, &[("limit", stringify!($setting))]).await
    };
    (@count $running:ident, $setting:ident, "") => {{
        drop($running);
        Ok(())
    }};
    (@count $running:ident, $setting:ident, $metric:literal $($label:literal $value:literal)?) => {
        counted($running, $metric, &[$(($label, $value))?]).await
    };
}

bounds! {
    connections: connections::one_more_than_may_be_waits;
    peer_connections: connections::one_more_of_an_identity_is_closed;
    handshakes: connections::one_more_handshake_is_closed;
    handshake_timeout: connections::a_silent_handshake_is_closed;
    streams_per_connection: streams::one_more_stream_is_refused;
    upstream_streams_per_connection: streams::one_more_upstream_stream_has_another_connection;
    stream_window: streams::a_stream_that_nobody_reads_stops_its_sender;
    connection_window: streams::a_connection_that_nobody_reads_stops_its_senders;
    total_window: connections::beyond_the_credit_windows_are_small;
    send_buffer: streams::a_reader_that_is_slow_slows_its_sender;
    header_list: http::a_head_that_is_too_large_is_431;
    frame: streams::a_frame_that_is_too_large_ends_the_connection;
    idle_frames: streams::frames_that_carry_nothing_end_the_connection;
    inspected_body: bodies::a_body_that_is_too_large_to_judge_is_413;
    inspected_total: bodies::more_bodies_than_may_be_held_are_503;
    inspection_timeout: bodies::a_body_that_does_not_come_is_408;
    json_depth: bodies::a_body_that_is_too_deep_is_400;
    json_members: bodies::a_body_of_too_many_members_is_400;
    json_key: bodies::a_key_that_is_too_long_is_400;
    batch_messages: bodies::a_batch_that_is_too_long_is_400;
    name_length: bodies::a_name_that_is_too_long_is_400;
    parameter_headers: bodies::too_many_parameters_are_431;
    peer_event_streams: bodies::one_more_stream_of_an_identity_is_429;
    list_entries: bodies::a_list_of_too_many_entries_is_withheld;
    screened_list: bodies::a_list_that_is_too_large_is_withheld;
    sse_event: bodies::an_event_that_is_too_large_is_withheld;
    retry_replay: bodies::a_body_that_is_too_large_to_keep_is_not_sent_again;
    copy_buffer: streams::a_read_is_no_larger_than_may_be;
    sniffed: times::bytes_that_tell_nothing_are_opaque;
    sniff_timeout: times::silence_is_opaque;
    connect_timeout: times::an_endpoint_that_does_not_answer_is_given_up;
    request_head_timeout: times::a_head_that_does_not_come_is_closed;
    endpoint_requests: upstream::one_more_request_is_503;
    endpoint_connections: upstream::one_more_connection_is_503;
    ejection_failures: upstream::an_endpoint_that_fails_is_ejected;
    ejection_time: upstream::an_ejected_endpoint_comes_back, by "";
    upstream_idle: upstream::an_idle_connection_is_closed;
    upstream_idle_connections: upstream::one_more_idle_connection_is_closed;
    sessions: times::one_more_session_forgets_another;
    session_idle: times::an_idle_session_is_forgotten;
    session_age: times::an_old_session_is_not_known;
    rate_buckets: http::callers_beyond_the_bound_share_a_quota;
    log_queue: http::lines_that_nobody_takes_are_dropped;
    span_queue: http::spans_that_nobody_takes_are_dropped;
    label_sets: http::one_more_label_set_is_other;
    label_idle: times::an_idle_label_set_is_forgotten, by "";
    drain_linger: times::a_drain_begins_after_its_linger, by "";
    drain_deadline: times::a_drain_ends_at_its_deadline, by "";
    recheck: times::an_expired_peer_is_cut, by "portcullis_handshake_failures_total" "reason" = "expired";
}

/// Settings that only a control plane reaches, and the test with a real one that does.
const ELSEWHERE: [(&str, &str); 1] = [("xds_queue", "deploy::a_queue_of_one_update_holds_istiod_up")];

/// A new setting comes with a row.
#[tokio::test]
async fn every_setting_has_a_row() -> Result<()> {
    let printed = process::run(Path::new(&binary()?), ["schema"]).await?.join("\n");
    let schema: Value = serde_json::from_str(&printed)?;
    let keys: BTreeSet<&str> =
        schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    let rows = ROWS.iter().copied().chain(ELSEWHERE.map(|(setting, _)| setting));
    assert_eq!(rows.collect::<BTreeSet<_>>(), keys, "rows and settings");
    Ok(())
}
