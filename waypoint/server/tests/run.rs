//! `portcullis run` as a process: starts that fail, readiness, admin ports, changes of manifests, and the way out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failed test panics")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(20);

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: a}\nspec:\n  clusterIP: 10.96.0.1\n  ports: [{name: http, port: 80}]\n";

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("m")).unwrap();
        let this = Self { folder };
        this.write("m/web.yaml", SERVICE);
        this.write("settings.yaml", "drain_linger: 400\ndrain_deadline: 5000\n");
        this.identity();
        this
    }

    fn identity(&self) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let leaf_key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names =
            vec![SanType::URI("spiffe://cluster.local/ns/a/sa/waypoint".try_into().unwrap())];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        self.write("chain.pem", &leaf.pem());
        self.write("key.pem", &leaf_key.serialize_pem());
        self.write("roots.pem", &root.pem());
    }

    /// In one step, so that nobody reads half of it.
    fn write(&self, name: &str, text: &str) {
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.folder.path().join(name)).unwrap();
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.current_dir(self.folder.path()).args([
            "run",
            "--manifests",
            "m",
            "--settings",
            "settings.yaml",
        ]);
        command.args(["--cert-chain", "chain.pem", "--key", "key.pem", "--trust-bundle", "roots.pem"]);
        for listener in ["--hbone-address", "--admin-address", "--metrics-address", "--ready-address"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Waypoint {
        let mut child = self.command(&[]).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Waypoint { child, lines, said: Vec::new() }
    }

    fn refused(&self, flags: &[&str]) -> String {
        let run = self.command(flags).output().unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{said}");
        said
    }
}

struct Waypoint {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Waypoint {
    /// The first line, from the start, that `wanted` takes.
    fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(line) = self.said.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said.push(line),
                Err(error) => panic!("{error}: {:#?}", self.said),
            }
        }
    }

    fn address(&mut self, what: &str) -> SocketAddr {
        let what = format!(r#""what":"{what}""#);
        let line = self.line(|line| line.contains(&what));
        let event: Value = serde_json::from_str(&line).unwrap();
        event["address"].as_str().unwrap().parse().unwrap()
    }

    fn ask(&mut self, what: &str, method: &str, path: &str) -> (u16, String) {
        self.ask_with(what, method, path, "")
    }

    fn ask_with(&mut self, what: &str, method: &str, path: &str, lines: &str) -> (u16, String) {
        let address = self.address(what);
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{lines}\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let mut reply = String::new();
        socket.read_to_string(&mut reply).unwrap();
        let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
        (status, reply.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap().success()
        );
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            // It has ended when its last line was read; until then each line is worth a look.
            if let Ok(line) = self.lines.recv_timeout(Duration::from_millis(20)) {
                self.said.push(line);
            }
        }
        panic!("still running: {:#?}", self.said);
    }
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_start_that_fails_names_flag_file_and_fix_and_exits_2() {
    let fixture = Fixture::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let rows: [(&[&str], &[&str]); 4] = [
        (&["--crl", "gone.pem"], &["--crl", "gone.pem", "fix: "]),
        (&["--session-key", "gone.key"], &["--session-key", "gone.key"]),
        (&["--log", "loud"], &["--log", "no level"]),
        (&["--proxy-protocol-address", &taken], &["--proxy-protocol-address", &taken, "fix: "]),
    ];
    for (flags, says) in rows {
        let said = fixture.refused(flags);
        assert!(says.iter().all(|part| said.contains(part)), "{says:?} in {said}");
    }
    fixture.write("key.pem", "no key");
    let said = fixture.refused(&[]);
    assert!(said.contains("error: --key key.pem: ") && said.contains("fix: "), "{said}");
    fixture.write("settings.yaml", "conections: 1\n");
    assert!(fixture.refused(&[]).contains("conections"));
}

#[test]
fn it_serves_its_ports_takes_changes_and_keeps_what_was_good() {
    let fixture = Fixture::new();
    let mut waypoint = fixture.start();
    assert_eq!(
        waypoint.line(|line| line.contains(r#""event":"ready""#)),
        r#"{"event":"ready","generation":1}"#
    );
    assert_eq!(waypoint.ask("ready", "GET", "/healthz/ready"), (200, "ready\n".to_owned()));
    assert_eq!(waypoint.ask("metrics", "GET", "/healthz/ready").0, 200);
    let (status, metrics) = waypoint.ask("metrics", "GET", "/stats/prometheus");
    assert!(status == 200 && metrics.contains("\nportcullis_config_generation 1\n"), "{metrics}");
    let (status, paths) = waypoint.ask("metrics", "GET", "/config_dump");
    assert!(status == 404 && paths.contains("/stats/prometheus"), "{paths}");

    let (_, dump) = waypoint.ask("admin", "GET", "/config_dump");
    let dump: Value = serde_json::from_str(&dump).unwrap();
    assert_eq!(dump["certificate"]["id"], "spiffe://cluster.local/ns/a/sa/waypoint");
    assert_eq!(dump["settings"]["limits"]["drain_linger"], 400);
    assert!(dump["mesh"]["services"]["a/web.a.svc.cluster.local"].is_object(), "{dump}");
    let key = fs::read_to_string(fixture.folder.path().join("key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!dump.to_string().contains(secret));

    assert_eq!(waypoint.ask("admin", "POST", "/logging?level=debug"), (200, "debug\n".to_owned()));
    assert_eq!(waypoint.ask("admin", "POST", "/logging?level=loud").0, 400);
    assert_eq!(waypoint.ask("admin", "GET", "/logging"), (200, "debug\n".to_owned()));
    assert_eq!(waypoint.ask("admin", "GET", "/quitquitquit").0, 405);
    for line in ["origin: null\r\n", "sec-fetch-site: cross-site\r\n"] {
        assert_eq!(waypoint.ask_with("admin", "POST", "/quitquitquit", line).0, 403, "{line}");
        assert_eq!(waypoint.ask_with("ready", "GET", "/healthz/ready", line).0, 200, "{line}");
    }

    fixture.write("m/web.yaml", &SERVICE.replace("clusterIP: 10.96.0.1", "clusterIP: nowhere"));
    waypoint.line(|line| line.contains("ERROR") && line.contains("web.yaml:1 Service a/web spec.clusterIP"));
    let (_, dump) = waypoint.ask("admin", "GET", "/config_dump");
    let dump: Value = serde_json::from_str(&dump).unwrap();
    assert_eq!(dump["mesh"]["services"]["a/web.a.svc.cluster.local"]["vips"][0], "10.96.0.1", "{dump}");
    let errors = dump["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] == "error");
    assert_eq!(errors.map(|error| &error["field"]).collect::<Vec<_>>(), ["spec.clusterIP"], "{dump}");
    let (_, metrics) = waypoint.ask("metrics", "GET", "/stats/prometheus");
    assert!(metrics.contains("\nportcullis_config_errors 1\n"), "{metrics}");
}

#[test]
fn sigterm_is_not_ready_at_once_then_drains_and_exits_0() {
    let fixture = Fixture::new();
    let mut waypoint = fixture.start();
    waypoint.line(|line| line.contains(r#""event":"ready""#));
    waypoint.signal("TERM");
    waypoint.line(|line| line.contains(r#""phase":"lingering""#));
    assert_eq!(waypoint.ask("ready", "GET", "/healthz/ready"), (503, "not ready: stopping\n".to_owned()));
    let hbone = waypoint.address("hbone");
    assert!(TcpStream::connect(hbone).is_ok(), "lingering still accepts");
    assert_eq!(waypoint.ended().code(), Some(0));
    waypoint.line(|line| line == r#"{"event":"stopped","connections_cut":0,"streams_cut":0}"#);
}

#[test]
fn sockets_held_open_do_not_make_it_unready_and_are_closed() {
    let fixture = Fixture::new();
    let mut waypoint = fixture.start();
    waypoint.line(|line| line.contains(r#""event":"ready""#));
    for port in ["ready", "metrics"] {
        let address = waypoint.address(port);
        let start = Instant::now();
        let held: Vec<TcpStream> = (0..70).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(waypoint.ask(port, "GET", "/healthz/ready"), (200, "ready\n".to_owned()), "{port}");
        assert!(start.elapsed() < Duration::from_secs(4), "{port}: answered before the held ones timed out");
        for mut socket in held {
            // An end or a reset; a read that times out is an error of another kind.
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            let closed = socket.read(&mut [0]).map_err(|error| error.kind());
            assert!(matches!(closed, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{port}: {closed:?}");
        }
        assert!(start.elapsed() < Duration::from_secs(15), "{port}: each is closed after 5 s");
    }
}

#[test]
fn a_second_stop_skips_ahead() {
    let fixture = Fixture::new();
    fixture.write("settings.yaml", "drain_linger: 600000\ndrain_deadline: 600000\n");
    let mut waypoint = fixture.start();
    waypoint.line(|line| line.contains(r#""event":"ready""#));
    assert_eq!(waypoint.ask("admin", "POST", "/quitquitquit").0, 200);
    waypoint.line(|line| line.contains(r#""phase":"lingering""#));
    waypoint.signal("INT");
    assert_eq!(waypoint.ended().code(), Some(0));
}
