//! The hub's bridge, and network namespaces of pods on it.

use super::command::{run, run_line};
use super::state::HUB;
use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Where `ip` keeps named network namespaces; private to a lab.
pub(super) const FOLDER: &str = "/run/netns";

/// Makes the hub's bridge. To be called once, in the hub's namespace.
pub(super) fn make_bridge() -> Result<()> {
    let lines =
        format!("link set lo up\nlink add br0 type bridge\naddr add {HUB}/16 dev br0\nlink set br0 up\n");
    run(Command::new("ip").args(["-batch", "-"]), &lines)?;
    Ok(())
}

/// A network namespace with one address of 10.244.0.0/16, on the hub's bridge. It stays as long as the lab, so that no
/// address is used twice.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    /// The pod's address.
    pub address: Ipv4Addr,
    name: String,
}

impl PodNetwork {
    /// Makes a namespace with an address that nobody in the lab has.
    pub(super) fn make() -> Result<Self> {
        let (name, third, fourth) = (1..=250_u8)
            .flat_map(|third| {
                (1..=250_u8).map(move |fourth| (format!("pod-{third}-{fourth}"), third, fourth))
            })
            .filter(|(name, ..)| !PathBuf::from(FOLDER).join(name).exists())
            .find(|(name, ..)| run_line(&format!("ip netns add {name}")).is_ok())
            .context("no address is left, or no network namespace can be made")?;
        let address = Ipv4Addr::new(10, 244, third, fourth);
        let hub = format!(
            "link add p{third}.{fourth} type veth peer name eth0 netns {name}\nlink set p{third}.{fourth} master br0 up\n"
        );
        run(Command::new("ip").args(["-batch", "-"]), &hub)?;
        let pod = format!(
            "link set lo up\naddr add {address}/16 dev eth0\nlink set eth0 up\nroute add default via {HUB}\n"
        );
        run(Command::new("ip").args(["-n", &name, "-batch", "-"]), &pod)?;
        Ok(Self { address, name })
    }

    /// `program`, to be run in the pod's network.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A socket of the pod in this process. It stays the pod's wherever it is used.
    pub fn socket(&self) -> Result<TcpSocket> {
        self.inside(|| Ok(TcpSocket::new_v4()?))
    }

    /// Listens on an address of the pod: its own, or loopback.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        let socket = self.socket()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address).with_context(|| format!("{address} in {}", self.name))?;
        Ok(socket.listen(1024)?)
    }

    /// Connects from the pod.
    pub async fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        self.socket()?.connect(address).await.with_context(|| format!("{address} from {}", self.name))
    }

    /// Does `work` on a thread in the pod's network.
    fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = PathBuf::from(FOLDER).join(&self.name);
        let namespace = File::open(&path).with_context(|| path.display().to_string())?;
        // A thread of its own: a namespace is a property of the thread, and those of the runtime are shared.
        let done = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            thread.join()
        });
        let done = done.ok();
        ensure!(done.is_some(), "a thread in {} panicked", self.name);
        done.context("it ended")?
    }
}
