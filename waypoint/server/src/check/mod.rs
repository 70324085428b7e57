//! `portcullis check`: may this identity do this, and which rule says so? Offline, by the functions that serve a tunnel.

mod report;
mod request;
mod target;

use std::io::Write as _;
use std::process::ExitCode;

use istio_integration::feeds::file::{self, LoadError};
use waypoint_model::{MeshConfig, Protocol, Service};
use waypoint_proxy::offline::{self, Caller, Request};

use crate::cli::{CheckArgs, Output};
use crate::mesh::MeshSource;
use crate::wire::with_cause;
use report::Report;

pub use request::BadRequest;
pub use target::{Target, UnknownTarget, find};

/// Exit code of a denial.
const DENIED: u8 = 1;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The folder cannot be read.
    #[error("--manifests: {}", with_cause(.0))]
    Manifests(#[from] LoadError),
    /// `--to` names no port of a service that this waypoint fronts.
    #[error("--to {0}")]
    Target(#[from] UnknownTarget),
    /// The request cannot be composed.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// Nobody reads the answer.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

/// Answers, and tells allow from deny by the exit code.
///
/// # Errors
/// [`CheckError`]: bad input.
pub fn command(args: &CheckArgs) -> Result<ExitCode, CheckError> {
    let report = check(args)?;
    let text = match args.output {
        Output::Text => report.to_string(),
        Output::Json => report.to_json(),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if report.is_allowed() { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

fn check(args: &CheckArgs) -> Result<Report, CheckError> {
    let source = MeshSource::from(&args.mesh);
    let loaded = file::load(&source.folder, &source.options)?;
    let target = find(&loaded.mesh, &args.to)?;
    let composed = request::compose(args, &target.service)?;
    let caller = Caller { identity: args.from.0.clone(), address: args.source_ip };
    let asked = match &composed {
        Some(composed) if carries_http(&loaded.mesh, &target, composed.is_http_meant) => {
            let (parts, claims) = (Box::new(composed.parts.clone()), composed.claims.as_ref());
            Request::Http { parts, body: &composed.body, claims }
        }
        _ => Request::Stream,
    };
    let answer = offline::judge(&loaded.mesh, &target.service, target.port, &caller, asked);
    Ok(Report::new(args, &loaded, &target, composed.as_ref(), answer))
}

/// Whether the port reads HTTP. An undeclared one is told by its first bytes, so by what is asked here.
fn carries_http(_: &MeshConfig, target: &Target, is_http_meant: bool) -> bool {
    match protocol(&target.service, target.port) {
        Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc) => true,
        Some(Protocol::Undeclared) => is_http_meant,
        Some(Protocol::Tcp | Protocol::Tls) | None => false,
    }
}

fn protocol(service: &Service, port: u16) -> Option<Protocol> {
    service.ports.get(&port).map(|port| port.protocol)
}
