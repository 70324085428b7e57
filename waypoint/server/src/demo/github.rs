//! A real MCP server on the official Rust SDK: tools, a prompt and resources over streamable HTTP. It knows nothing of the
//! mesh and authorizes nobody; it only counts what it was asked to do, so that a refusal can be seen not to have reached it.
//!
//! Revisions up to 2025-11-25 get sessions and answers as event streams, 2026-07-28 gets plain JSON.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rmcp::handler::server::router::prompt::PromptRouter;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    Implementation, ListResourcesResult, PaginatedRequestParams, PromptMessage, ReadResourceRequestParams,
    ReadResourceResponse, ReadResourceResult, Resource, ResourceContents, Role, ServerCapabilities,
    ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{
    ErrorData, RoleServer, ServerHandler, prompt, prompt_handler, prompt_router, tool, tool_handler,
    tool_router,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The path of the MCP endpoint.
pub(super) const PATH: &str = "/mcp";

/// Its resources: URI and text.
const DOCUMENTS: &[(&str, &str)] =
    &[("docs://handbook/style", "Names say what a thing is."), ("docs://payroll/2026", "Not for everybody.")];

/// Open issues at the start.
const ISSUES: &[(u32, &str)] = &[(7, "login fails after midnight"), (12, "login page is slow")];

/// What all pods of the server share.
#[derive(Debug, Default)]
pub(super) struct Forge {
    calls: AtomicUsize,
    opened: AtomicUsize,
}

impl Forge {
    /// Tools, prompts and resources that were used so far.
    pub(super) fn uses(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn used(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Github {
    forge: Arc<Forge>,
    tool_router: ToolRouter<Self>,
    prompt_router: PromptRouter<Self>,
}

#[derive(Deserialize, JsonSchema)]
struct Search {
    /// Words that the title must contain.
    query: String,
}

#[derive(Deserialize, JsonSchema)]
struct Issue {
    /// Organization.
    owner: String,
    /// Repository.
    repo: String,
    /// Number of the issue.
    number: u32,
}

#[derive(Deserialize, JsonSchema)]
struct NewIssue {
    /// Organization.
    owner: String,
    /// Repository.
    repo: String,
    /// What is wrong.
    title: String,
}

#[derive(Deserialize, JsonSchema)]
struct Repository {
    /// Organization.
    owner: String,
    /// Repository.
    repo: String,
}

#[derive(Deserialize, JsonSchema)]
struct Change {
    /// Number of the change; arguments of prompts are strings.
    number: String,
}

#[tool_router]
impl Github {
    fn new(forge: Arc<Forge>) -> Self {
        Self { forge, tool_router: Self::tool_router(), prompt_router: Self::prompt_router() }
    }

    #[tool(description = "Find issues by words of their title", annotations(read_only_hint = true))]
    async fn search_issues(&self, Parameters(Search { query }): Parameters<Search>) -> String {
        self.forge.used();
        let found = ISSUES.iter().filter(|(_, title)| title.contains(&query)).count();
        format!("{found} issues")
    }

    #[tool(description = "Read one issue", annotations(read_only_hint = true))]
    async fn get_issue(&self, Parameters(Issue { owner, repo, number }): Parameters<Issue>) -> String {
        self.forge.used();
        let found = ISSUES.iter().find(|(known, _)| *known == number);
        found.map_or_else(|| format!("{owner}/{repo} has no #{number}"), |(_, title)| (*title).to_owned())
    }

    #[tool(description = "Open an issue")]
    async fn create_issue(
        &self,
        Parameters(NewIssue { owner, repo, title }): Parameters<NewIssue>,
    ) -> String {
        self.forge.used();
        let number = 100 + self.forge.opened.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(owner, repo, title, "opened");
        format!("{owner}/{repo}#{number}")
    }

    #[tool(description = "Delete a repository for good", annotations(destructive_hint = true))]
    async fn delete_repository(
        &self,
        Parameters(Repository { owner, repo }): Parameters<Repository>,
    ) -> String {
        self.forge.used();
        format!("{owner}/{repo} deleted")
    }
}

#[prompt_router]
impl Github {
    #[prompt(description = "Ask for a review of a change")]
    async fn review_change(&self, Parameters(Change { number }): Parameters<Change>) -> Vec<PromptMessage> {
        self.forge.used();
        vec![PromptMessage::new_text(Role::User, format!("Review change {number}, tests first."))]
    }
}

#[tool_handler(router = self.tool_router)]
#[prompt_handler(router = self.prompt_router)]
impl ServerHandler for Github {
    fn get_info(&self) -> ServerConfig {
        let offers = ServerCapabilities::builder().enable_tools().enable_prompts().enable_resources().build();
        ServerConfig::new(offers).with_server_info(Implementation::new("github", env!("CARGO_PKG_VERSION")))
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let resources = DOCUMENTS.iter().map(|(uri, _)| Resource::new(*uri, *uri)).collect();
        Ok(ListResourcesResult::with_all_items(resources))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        self.forge.used();
        let found = DOCUMENTS.iter().find(|(uri, _)| *uri == request.uri);
        let (uri, text) = found.ok_or_else(|| ErrorData::resource_not_found("no such document", None))?;
        Ok(ReadResourceResult::new(vec![ResourceContents::text(*text, *uri)]).into())
    }
}

type McpService = StreamableHttpService<Github, LocalSessionManager>;

/// Serves one pod until the future is dropped. Sessions are the pod's own, as with any MCP server that keeps them in memory.
pub(super) async fn serve(listener: TcpListener, host: String, forge: Arc<Forge>) {
    // `127.0.0.1` for who tries it by hand through a local port.
    let hosts = [host, "127.0.0.1".to_owned()];
    let config = StreamableHttpServerConfig::default().with_json_response(true).with_allowed_hosts(hosts);
    let make = move || Ok(Github::new(Arc::clone(&forge)));
    let service = McpService::new(make, Arc::default(), config);
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(connection(socket, service.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(socket: TcpStream, service: McpService) {
    // A socket that cannot be set up shows as one that cannot be used.
    let _ = socket.set_nodelay(true);
    let answer = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(answer(&service, request).await) }
    });
    // What a client breaks off is its own affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
}

async fn answer(service: &McpService, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    if request.uri().path() == PATH {
        return service.handle(request).await;
    }
    let mut missing = Response::new(Empty::new().boxed());
    *missing.status_mut() = StatusCode::NOT_FOUND;
    missing
}
