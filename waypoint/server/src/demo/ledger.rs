//! A TCP service that speaks no protocol anybody could read: it greets first, then answers each line with a running number.

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What it says before it is asked anything.
pub(super) const GREETING: &str = "ledger ready";

/// Serves until the future is dropped.
pub(super) async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(connection(socket));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(socket: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(socket);
    stream.write_all(format!("{GREETING}\n").as_bytes()).await?;
    let mut entry = String::new();
    let mut number = 0;
    while stream.read_line(&mut entry).await? > 0 {
        number += 1;
        stream.write_all(format!("#{number} {}\n", entry.trim_end()).as_bytes()).await?;
        entry.clear();
    }
    stream.shutdown().await
}
