//! What an operator chooses, beside the bounds.

use agent_protocols::mcp::DenyMode;

use crate::limits::Limits;
use crate::origin::WebOrigin;
use crate::telemetry::LoggedArgument;

/// Settings of one data plane. `Default` is the documented default.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Bounds and deadlines.
    pub limits: Limits,
    /// How a refused MCP call looks to its client.
    pub deny_mode: DenyMode,
    /// Write `x-forwarded-client-cert: By=…;URI=…` (annotation `ambient.istio.io/xfcc-include-client-identity`). A client's own is removed always.
    pub xfcc: bool,
    /// Pick MCP method and tool names out of passing bytes where nothing has to be decided.
    pub observe: bool,
    /// Arguments of MCP calls that the access log tells; none unless named.
    pub log_arguments: Vec<LoggedArgument>,
    /// Hosts inside the network that agents may send push notifications to; any other must be a name outside, by https.
    pub push_hosts: Vec<String>,
    /// A task of an agent that nobody is known to have made is its first caller's, and not refused.
    pub adopt_tasks: bool,
    /// Origins of pages that may talk to MCP servers; a request of any other is refused, whoever sends it.
    pub origins: Vec<WebOrigin>,
    /// Keys that seal session ids: the first seals, all open. Empty: a bounded table of this process.
    pub session_keys: Vec<[u8; 32]>,
}
