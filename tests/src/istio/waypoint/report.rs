//! A program that tells what its container gave it, for tests of the lab itself: it stands in a pod for the waypoint.

use anyhow::Result;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;

/// Where it says that it is ready, as a waypoint does.
const READY_PORT: u16 = 15021;

/// Prints what it finds as one line of JSON, then answers every connection to port 15021 with 200.
pub fn report() -> Result<std::convert::Infallible> {
    let me = fs::metadata("/proc/self")?;
    let status = fs::read_to_string("/proc/self/status")?;
    let line = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned)
    };
    let told = json!({
        "args": std::env::args().collect::<Vec<_>>(),
        "environment": std::env::vars().collect::<std::collections::BTreeMap<_, _>>(),
        "user": me.uid(),
        "group": me.gid(),
        "groups": line("Groups:"),
        "capabilities": line("CapEff:"),
        "no_new_privileges": line("NoNewPrivs:"),
        "root": names("/"),
        "writable": {
            "/": writable("/"),
            "/etc/istio/proxy": writable("/etc/istio/proxy"),
            "/var/run/secrets/tokens": writable("/var/run/secrets/tokens"),
        },
        "labels": read("/etc/istio/pod/labels"),
        "annotations": read("/etc/istio/pod/annotations"),
        "token": read("/var/run/secrets/tokens/istio-token"),
        "roots": read("/var/run/secrets/istio/root-cert.pem"),
        "hosts": read("/etc/hosts"),
    });
    println!("{told}");
    let listener = TcpListener::bind(("0.0.0.0", READY_PORT))?;
    loop {
        let (mut connection, _) = listener.accept()?;
        let mut head = [0; 1024];
        // A prober that goes away is none of our business.
        let _ = connection.read(&mut head);
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
}

fn read(path: &str) -> Value {
    fs::read_to_string(path).map_or_else(|error| error.to_string().into(), Value::from)
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn writable(folder: &str) -> bool {
    let path = format!("{folder}/.written");
    fs::write(&path, "").and_then(|()| fs::remove_file(&path)).is_ok()
}
