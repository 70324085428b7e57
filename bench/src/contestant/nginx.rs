//! nginx as a plain reverse proxy: no TLS, no tunnels, no policy.

use super::{Entrance, Running};
use crate::backend::App;
use crate::program::Program;
use crate::world::World;
use anyhow::{Context as _, Result};
use std::net::SocketAddr;

pub(super) async fn start(world: &World, app: App) -> Result<Running> {
    let program = world.programs.nginx.as_ref().context("nginx was not found")?;
    let scratch = world.scratch()?;
    let own = world.addresses.next();
    let (entry, probe) = (SocketAddr::from((own, app.port())), SocketAddr::from((own, 8099)));
    let config = scratch.join("nginx.conf");
    std::fs::write(&config, configuration(&scratch.display().to_string(), world, app, entry, probe))?;
    let args =
        ["-p".into(), scratch.clone().into(), "-c".into(), config.into(), "-e".into(), "stderr".into()];
    let mut program = Program::start(world.cores, program, &args, scratch.join("output"))?;
    program.ready(probe, "/").await?;
    Ok(Running { entrance: Entrance::Plain(entry), waypoint: None, program: Some(program) })
}

/// One process, connections to the backend kept, nothing written to disk unless a body is larger than any of ours.
fn configuration(scratch: &str, world: &World, app: App, entry: SocketAddr, probe: SocketAddr) -> String {
    let http2 = if app == App::Http1 { "" } else { " http2" };
    // nginx speaks HTTP/1.1 to whatever is not gRPC.
    let upstream = if app == App::Grpc { App::Grpc } else { App::Http1 };
    let pass = match app {
        App::Grpc => "grpc_pass grpc://app;".to_owned(),
        _ => "proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
              proxy_buffering off;"
            .to_owned(),
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {scratch}/{what};\n"))
        .collect();
    format!(
        "daemon off; master_process off; pid {scratch}/pid; error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
{temporary}access_log off; keepalive_requests 100000000; keepalive_timeout 1h; client_max_body_size 16m;
client_body_buffer_size 128k; http2_max_concurrent_streams 1000;
upstream app {{ server {pod}:{port}; keepalive 512; keepalive_requests 100000000; }}
server {{ listen {entry}{http2}; location / {{ {pass} }} }}
server {{ listen {probe}; location / {{ return 200; }} }}
}}
",
        pod = world.pod,
        port = upstream.port(),
    )
}
