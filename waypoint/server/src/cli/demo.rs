//! Flags of `demo`.

use clap::Args;

/// Flags of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Leave everything running at the end, and print commands to try by hand.
    #[arg(long)]
    pub keep: bool,

    /// Requests of the short load at the end. Default 2000.
    #[arg(long, value_name = "N", default_value_t = 2000, hide_default_value = true)]
    pub requests: usize,
}
