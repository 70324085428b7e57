//! Flags of `check` and `matrix`.

use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use spiffe_id::SpiffeId;

use super::MeshArgs;

/// A SPIFFE ID on the command line, with or without its scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffeArg(pub SpiffeId);

impl FromStr for SpiffeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "for example spiffe://cluster.local/ns/agents/sa/bot";
        let id = match (text.contains("://"), text.contains('/')) {
            (true, _) => text.to_owned(),
            (false, true) => format!("spiffe://{text}"),
            // A bare word would pass for a trust domain, which is nobody's identity.
            (false, false) => return Err(format!("`{text}` is no SPIFFE ID; {example}")),
        };
        SpiffeId::parse(&id).map(Self).map_err(|error| format!("{error}; {example}"))
    }
}

/// Form of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For machines; fields are documented in docs/operations.md and stay.
    Json,
}

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// What the mesh looks like.
    #[command(flatten)]
    pub mesh: MeshArgs,

    /// Who asks: a SPIFFE ID.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub from: SpiffeArg,

    /// Which service: name, name.namespace or full host name; with its port where it has several.
    #[arg(long, value_name = "SVC[.NS][:PORT]")]
    pub to: String,

    /// HTTP method. Default: POST for an MCP message, else GET.
    #[arg(long, value_name = "METHOD", help_heading = "Request")]
    pub method: Option<String>,

    /// Path, with query if any. Default: /mcp for an MCP message, else /.
    #[arg(long, value_name = "PATH", help_heading = "Request")]
    pub path: Option<String>,

    /// A request header, `name: value`; may be repeated. Give an upstream port as `host: name:port` if policies test hosts.
    #[arg(long = "header", value_name = "NAME: VALUE", help_heading = "Request")]
    pub headers: Vec<String>,

    /// Claims of a token that the request bears, as if it had been verified: a JSON object, or a file that holds one.
    #[arg(long, value_name = "JSON|FILE", help_heading = "Request")]
    pub claims: Option<String>,

    /// Address that the call comes from. Default 192.0.2.1, which is nobody's.
    #[arg(
        long,
        value_name = "IP",
        default_value = "192.0.2.1",
        hide_default_value = true,
        help_heading = "Request"
    )]
    pub source_ip: IpAddr,

    /// Call this MCP tool (tools/call).
    #[arg(long, value_name = "NAME", help_heading = "MCP message", conflicts_with_all = ["prompt", "resource"])]
    pub tool: Option<String>,

    /// Its arguments, or those of the prompt: a JSON object. Default: none.
    #[arg(long, value_name = "JSON", help_heading = "MCP message")]
    pub args: Option<String>,

    /// Get this MCP prompt (prompts/get).
    #[arg(long, value_name = "NAME", help_heading = "MCP message", conflicts_with = "resource")]
    pub prompt: Option<String>,

    /// Read this MCP resource (resources/read).
    #[arg(long, value_name = "URI", help_heading = "MCP message")]
    pub resource: Option<String>,

    /// JSON-RPC method, where it is another than the usual one of what is named (tools/list, resources/subscribe, …).
    #[arg(long, value_name = "METHOD", help_heading = "MCP message")]
    pub mcp_method: Option<String>,

    /// Ask for this A2A operation, by its name in 1.0 (SendMessage, GetTask, CancelTask, …), over JSON-RPC.
    #[arg(
        long,
        value_name = "OPERATION",
        help_heading = "A2A request",
        conflicts_with_all = ["tool", "prompt", "resource", "mcp_method", "args"]
    )]
    pub a2a_method: Option<String>,

    /// The task that it is about.
    #[arg(long, value_name = "ID", help_heading = "A2A request", requires = "a2a_method")]
    pub a2a_task: Option<String>,

    /// Metadata of the request: a JSON object.
    #[arg(long, value_name = "JSON", help_heading = "A2A request", requires = "a2a_method")]
    pub a2a_metadata: Option<String>,

    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `matrix`.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// What the mesh looks like.
    #[command(flatten)]
    pub mesh: MeshArgs,

    /// Which service: name, name.namespace or full host name; with its port where it has several.
    #[arg(long, value_name = "SVC[.NS][:PORT]")]
    pub to: String,

    /// An identity to show beside those that the policies name; may be repeated.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub from: Vec<SpiffeArg>,

    /// A tool to show beside those that the policies name; may be repeated.
    #[arg(long = "tool", value_name = "NAME")]
    pub tools: Vec<String>,

    /// Path of the MCP endpoint.
    #[arg(long, value_name = "PATH", default_value = "/mcp")]
    pub path: String,

    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_may_be_written_with_or_without_its_scheme() {
        let id = "spiffe://cluster.local/ns/agents/sa/bot";
        for text in [id, "cluster.local/ns/agents/sa/bot"] {
            assert_eq!(text.parse::<SpiffeArg>().unwrap().0.as_str(), id);
        }
        for text in ["https://cluster.local/x", "Cluster.local/x", "", "nobody", "a//b"] {
            assert!(text.parse::<SpiffeArg>().unwrap_err().contains("for example"), "{text}");
        }
    }
}
