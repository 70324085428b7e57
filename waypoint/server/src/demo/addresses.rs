//! Loopback addresses of this demo's own: on Linux each `127.x.y.z` is local, so every pod has its own `:15008`.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;

/// Where ztunnels listen; peers have no way to ask for another port.
pub(super) const HBONE_PORT: u16 = 15008;

/// Blocks that are tried before giving up.
const ATTEMPTS: u32 = 64;

/// One block `127.x.y.0/24`, held by the listeners of the pods that were bound on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block([u8; 2]);

impl Block {
    /// A block whose first `pods` addresses have a free HBONE port, with these ports bound. Starts from the process id, so
    /// that two demos at once take different blocks.
    pub(super) async fn lease(pods: u8) -> Result<(Self, Vec<TcpListener>)> {
        let start = std::process::id().wrapping_mul(61);
        let mut last = None;
        for step in 0..ATTEMPTS {
            let block = Self::numbered(start.wrapping_add(step));
            match block.bind(pods).await {
                Ok(listeners) => return Ok((block, listeners)),
                Err(error) => last = Some(error),
            }
        }
        let why = last.map(|error| error.to_string()).unwrap_or_default();
        anyhow::bail!(
            "no loopback addresses for the demo's pods ({why}): it needs Linux, and port {HBONE_PORT} not taken on all addresses"
        )
    }

    async fn bind(self, pods: u8) -> std::io::Result<Vec<TcpListener>> {
        let mut listeners = Vec::new();
        for pod in 1..=pods {
            listeners.push(TcpListener::bind((self.address(pod), HBONE_PORT)).await?);
        }
        Ok(listeners)
    }

    /// `127.1.0` to `127.254.255`; `127.0` is left to everybody else.
    fn numbered(n: u32) -> Self {
        let [_, _, x, y] = (n % (254 * 256)).to_be_bytes();
        Self([x.saturating_add(1), y])
    }

    /// An address of the block.
    pub(super) fn address(self, last: u8) -> Ipv4Addr {
        let Self([x, y]) = self;
        Ipv4Addr::new(127, x, y, last)
    }
}

/// A free port that is the same on each of `addresses`, since one Service port has one target port.
pub(super) async fn same_port(addresses: &[Ipv4Addr]) -> Result<(u16, Vec<TcpListener>)> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match bind_same(addresses).await {
            Ok(bound) => return Ok(bound),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("nothing was tried")?).context("no free port for the demo's servers")
}

async fn bind_same(addresses: &[Ipv4Addr]) -> std::io::Result<(u16, Vec<TcpListener>)> {
    let mut port = 0;
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind((IpAddr::from(*address), port)).await?;
        port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok((port, listeners))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_stay_clear_of_127_0_and_127_255() {
        for n in [0, 1, 255, 256, 254 * 256 - 1, 254 * 256, u32::MAX] {
            let [_, x, ..] = Block::numbered(n).address(1).octets();
            assert!((1..=254).contains(&x), "{n}");
        }
    }

    #[tokio::test]
    async fn two_leases_at_once_share_no_block() {
        let (one, _held) = Block::lease(2).await.unwrap();
        let (other, _also_held) = Block::lease(2).await.unwrap();
        assert_ne!(one.address(1), other.address(1));
    }
}
