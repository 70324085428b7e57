//! Who is measured: the direct connection, our waypoint, and its peers.

mod entrance;
mod envoy;
mod nginx;
mod portcullis;

pub(crate) use entrance::{Entrance, Way};
pub(crate) use envoy::Envoy;
pub(crate) use portcullis::{Control, Rules, Waypoint};

use crate::backend::App;
use crate::program::Program;
use crate::world::{HBONE, World};
use anyhow::Result;
use std::net::SocketAddr;

/// Who it is and how it is set up.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// No proxy: HBONE straight to the backend's pod.
    Direct,
    /// Our waypoint.
    Portcullis(Waypoint),
    /// Another build of our waypoint.
    Before(Waypoint),
    /// Envoy as a waypoint.
    Envoy(Envoy),
    /// nginx as a plain reverse proxy.
    Nginx,
}

/// A contestant that is ready.
pub(crate) struct Running {
    /// How the load gets in.
    pub entrance: Entrance,
    /// Our waypoint's own ports, if it is that.
    pub waypoint: Option<Control>,
    program: Option<Program>,
}

impl Running {
    /// The process to measure; none for the direct connection.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.program.as_ref().map(Program::pid)
    }
}

impl Kind {
    /// Why it can't be measured here: its program is not there, or was not asked for.
    pub(crate) fn missing(&self, world: &World) -> Option<&'static str> {
        let programs = &world.programs;
        match self {
            Self::Before(_) if programs.before.is_none() => Some("before"),
            Self::Envoy(_) if programs.envoy.is_none() => Some("envoy"),
            Self::Nginx if programs.nginx.is_none() => Some("nginx"),
            _ => None,
        }
    }

    /// Whether it has rules to judge by.
    pub(crate) fn judges(&self) -> bool {
        match self {
            Self::Direct | Self::Nginx | Self::Envoy(Envoy::Plain | Envoy::Opaque) => false,
            Self::Envoy(Envoy::Rbac(_) | Envoy::Mcp | Envoy::McpDefault) => true,
            Self::Portcullis(waypoint) | Self::Before(waypoint) => waypoint.rules != Rules::None,
        }
    }

    /// Starts it before `app` of the backend, and waits until it serves.
    ///
    /// # Errors
    /// When it does not start, with what it printed.
    pub(crate) async fn start(&self, world: &World, app: App) -> Result<Running> {
        match self {
            Self::Direct => {
                let waypoint = SocketAddr::from((world.pod, HBONE));
                let entrance = Entrance::hbone(world, "app", waypoint, (world.pod, app.port()))?;
                Ok(Running { entrance, waypoint: None, program: None })
            }
            Self::Portcullis(waypoint) => waypoint.start(world, &world.programs.portcullis, app).await,
            Self::Before(waypoint) => {
                let program = world.programs.before.as_ref().unwrap_or(&world.programs.portcullis);
                waypoint.start(world, program, app).await
            }
            Self::Envoy(envoy) => envoy.start(world, app).await,
            Self::Nginx => nginx::start(world, app).await,
        }
    }
}
