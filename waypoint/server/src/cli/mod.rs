//! The command line. Texts here are what `--help` prints: what a flag does, its default and where the value comes from.

mod ask;
mod demo;
mod identity;
mod mesh;
mod proxy;
mod run;
mod trace;
mod tunnel;

use clap::{Parser, Subcommand};

pub use ask::{CheckArgs, MatrixArgs, Output, SpiffeArg};
pub use demo::DemoArgs;
pub use identity::{IdentityArgs, SourceArgs};
pub use mesh::MeshArgs;
pub use proxy::{ProxyArgs, ProxyKind, WaypointArgs};
pub use run::{DenyModeArg, LogFormatArg, RunArgs, Switch};
pub use trace::{OtlpProtocol, Propagator, Share, TraceArgs};
pub use tunnel::TunnelArgs;

/// Portcullis: an Istio ambient waypoint for AI agents.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, long_about = ABOUT, after_long_help = AFTER, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const ABOUT: &str = "\
Portcullis is a waypoint proxy for Istio's ambient mesh that understands MCP, the protocol by which AI agents use tools. \
It takes mutually authenticated HBONE tunnels, reads what is asked for, decides by Istio AuthorizationPolicies down to the \
tool and its arguments, and carries what is permitted on to the endpoint, whose identity it verifies.

  agent ── ztunnel ══ HBONE, mTLS ══▶ portcullis ══ HBONE, mTLS ══▶ ztunnel ── MCP server
                                          │
                          who? (SPIFFE ID)  what? (tools/call search {owner: acme})
                          may it? (AuthorizationPolicy)  one log line, Istio's metrics

Without a cluster it reads the very manifests that you would `kubectl apply`.";

const AFTER: &str = "\
Start here:
  portcullis demo                                      see it work; needs nothing
  portcullis check  --manifests DIR --from spiffe://cluster.local/ns/agents/sa/bot --to github.tools --tool search
                                                       may this identity call this tool, and which rule says so?
  portcullis matrix --manifests DIR --to github.tools  who may call what, as a table
  portcullis run    --manifests DIR --cert-chain chain.pem --key key.pem --trust-bundle roots.pem
                                                       serve a folder of manifests
  portcullis proxy waypoint                            in a mesh: istiod starts it so by itself

Exit codes: 0 done or allowed, 1 denied (check) or an expectation failed (demo), 2 bad input or a start that failed.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything in one process: a CA, an MCP server, agents, and the waypoint between them.
    Demo(DemoArgs),
    /// Serve a folder of manifests: tunnels in, decisions, tunnels out.
    Run(Box<RunArgs>),
    /// Ask offline whether an identity may do something, and which policy and rule says so.
    Check(Box<CheckArgs>),
    /// Print who may call which tool of a service.
    Matrix(MatrixArgs),
    /// Stand in for a workload's ztunnel: a local port whose connections go through a waypoint with a given identity.
    Tunnel(TunnelArgs),
    /// Print the JSON Schema of the settings file.
    Schema,
    /// What istiod runs in a waypoint's pod: `proxy waypoint`, with Istio's own flags and environment.
    Proxy(ProxyArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_first_help_fits_a_screen_and_every_flag_says_something() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.lines().count() <= 50, "{} lines:\n{help}", help.lines().count());
        for command in Cli::command().get_subcommands() {
            for flag in command.get_arguments() {
                let about = flag.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(about.len() > 10, "{} {} has no help", command.get_name(), flag.get_id());
            }
        }
    }
}
