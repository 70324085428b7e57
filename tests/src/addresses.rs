//! Loopback addresses of a test's own, so that tests run side by side and every "pod" has its own `:15008`.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// A held listener on `.1` of a block and this port says that the block is taken. No workload listens here.
const LEASE_PORT: u16 = 15999;

/// Leases of this process. A block is not taken again soon, since a process that was killed still holds its ports a while.
static LEASES: AtomicU32 = AtomicU32::new(0);

/// One leased block `127.x.y.0/24`. Every address of `127.0.0.0/8` is local on Linux; nothing has to be set up.
#[derive(Debug)]
pub struct Addresses {
    block: [u8; 2],
    next: AtomicU8,
    _lease: TcpListener,
}

impl Addresses {
    /// Leases a block that no other test of this machine holds. It is free again when this value is dropped.
    pub fn lease() -> Result<Self> {
        (0..u32::from(u16::MAX))
            .map(|_| {
                block(
                    LEASES.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(97)),
                )
            })
            .find_map(|block| {
                let lease = TcpListener::bind((address(block, 1), LEASE_PORT)).ok()?;
                Some(Self { block, next: AtomicU8::new(2), _lease: lease })
            })
            .context("no block of loopback addresses is free")
    }

    /// The next address of the block.
    ///
    /// # Panics
    /// When a test asks for more than 250 addresses.
    pub fn next(&self) -> Ipv4Addr {
        let last = self.next.fetch_add(1, Ordering::Relaxed);
        assert!((2..=251).contains(&last), "a block has 250 addresses");
        address(self.block, last)
    }

    /// The next address of the block with a port on it.
    pub fn socket(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.next(), port))
    }
}

/// The block numbered `n`: `127.1.0` to `127.254.255`. Zero is left to everybody else.
fn block(n: u32) -> [u8; 2] {
    let n = n % (254 * 256);
    [u8::try_from(n / 256 + 1).unwrap_or(1), u8::try_from(n % 256).unwrap_or(0)]
}

fn address([x, y]: [u8; 2], last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, x, y, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leases_share_no_address() {
        let (one, other) = (Addresses::lease().unwrap(), Addresses::lease().unwrap());
        assert_ne!(one.next(), other.next());
        assert_ne!(one.next(), one.next());
    }

    #[test]
    fn a_leased_address_can_be_listened_on() {
        let addresses = Addresses::lease().unwrap();
        TcpListener::bind(addresses.socket(0)).unwrap();
    }
}
