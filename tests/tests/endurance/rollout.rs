//! Two waypoints behind one Service are restarted again and again, and nobody notices but who holds on to one.

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use http::{Method, Request};
use portcullis_tests::http::{Client, empty};
use portcullis_tests::load::site::{GRPC, HTTP, MCP, Site, TCP};
use portcullis_tests::load::{
    self, Both, Caller, Calls, Echoed, Follower, Fresh, FreshBytes, Grpc, Kept, Listens, Lists, Load, Posted,
    Ticks, initialize,
};
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::portcullis::{Portcullis, Run};
use portcullis_tests::ztunnel::Outbound;
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Of the shutdown, half of it lingering, and never reached: a signal ends the linger, and the last answer the rest.
const PATIENT: Duration = Duration::from_secs(60);

/// The same where streams are held, which last until then. Far more than an answer needs: a request that is cut is a fault.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a probe waits, as a kubelet's.
const PROBE: Duration = Duration::from_secs(1);

/// While nothing long is open, so that each ends as soon as it has answered.
const RESTARTS: usize = 8;

/// While clients hold on to streams, so that each lasts to its deadline.
const RESTARTS_WHILE_HELD: usize = 2;

/// Replicas by the addresses of their readiness and their HBONE ports, as a cluster keeps them.
#[derive(Clone, Default)]
struct Endpoints(Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>);

impl Endpoints {
    fn add(&self, replica: &Portcullis) -> Result<()> {
        self.lock().push((replica.address("ready")?, replica.address("hbone")?));
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(SocketAddr, SocketAddr)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that say that they are ready, as a kubelet asks them.
    async fn ready(&self) -> Vec<SocketAddr> {
        let known = self.lock().clone();
        let probes = known.into_iter().map(async |(probe, hbone)| {
            let ready = timeout(PROBE, is_ready(probe)).await;
            matches!(ready, Ok(Ok(true))).then_some(hbone)
        });
        join_all(probes).await.into_iter().flatten().collect()
    }
}

async fn is_ready(probe: SocketAddr) -> Result<bool> {
    let client = Client::http1(TcpStream::connect(probe).await?).await?;
    let request = Request::builder().method(Method::GET).uri("/healthz/ready").header("host", "probe");
    Ok(client.send(request.body(empty())?).await?.status == 200)
}

struct Replicas {
    run: Run,
    endpoints: Endpoints,
    running: Vec<Portcullis>,
}

impl Replicas {
    async fn start(run: Run) -> Result<Self> {
        let mut this = Self { run, endpoints: Endpoints::default(), running: Vec::new() };
        for _ in 0..2 {
            this.grow().await?;
        }
        Ok(this)
    }

    /// One more, at an address of its own, as a new pod has.
    async fn grow(&mut self) -> Result<()> {
        let replica = Portcullis::start(&self.run).await?;
        self.endpoints.add(&replica)?;
        self.running.push(replica);
        Ok(())
    }

    /// Starts one more, and returns the one that is to go.
    async fn replace_oldest(&mut self) -> Result<Portcullis> {
        self.grow().await?;
        Ok(self.running.remove(0))
    }

    /// Waits for the end of one that was told to go, which must say of all its requests that it answered them.
    async fn ended(&self, mut gone: Portcullis) -> Result<()> {
        let hbone = gone.address("hbone")?;
        assert_eq!(gone.ended().await?.code(), Some(0));
        self.endpoints.lock().retain(|(_, address)| *address != hbone);
        gone.access_log().json().iter().try_for_each(complete)
    }

    /// Waits until the client goes to these and to no other.
    async fn are_known_to(&self, follower: &Follower) -> Result<()> {
        follower.knows(&self.addresses()?).await
    }

    fn addresses(&self) -> Result<Vec<SocketAddr>> {
        self.running.iter().map(|replica| replica.address("hbone")).collect()
    }
}

#[tokio::test]
async fn two_waypoints_are_restarted_again_and_again_and_no_request_fails() -> Result<()> {
    let site = Site::new().await?;
    let mut replicas = Replicas::start(site.run(&settings(PATIENT))?).await?;
    let follower = follower(&site, &replicas).await?;
    replicas.are_known_to(&follower).await?;
    let way = follower.way(&site.at(HTTP));
    let mcp = follower.way(&site.at(MCP));
    let session = initialize(&mcp).await?;
    let mut loads = vec![
        Load::start("HTTP/1.1, kept connection", Kept::new(&way)),
        Load::start("HTTP/1.1, new connections", Fresh(way.clone())),
        Load::start("HTTP/1.1, posts of 100 kB", Posted::new(&way, 100_000)),
        Load::start("gRPC", Grpc::new(&follower.way(&site.at(GRPC)))),
        Load::start("gRPC both ways", Both::new(&follower.way(&site.at(GRPC)), 3)),
        Load::start("MCP calls, kept connection", Calls::new(&mcp, &session)),
        Load::start("MCP calls, new connections", Calls::anew(&mcp, &session)),
        Load::start("MCP lists", Lists::new(&mcp, &session)),
        Load::start("bytes, new streams", FreshBytes(follower.way(&site.at(TCP)))),
    ];
    load::all_go_on(&mut loads, 10).await?;
    for restart in 0..RESTARTS {
        if restart == RESTARTS - 2 {
            replicas.run = site.run(&settings(DEADLINE))?;
        }
        let leaving = replicas.replace_oldest().await?;
        leaving.signal("TERM").await?;
        replicas.are_known_to(&follower).await?;
        // Who keeps a connection is told to leave it by the next answer.
        load::all_go_on(&mut loads, 3).await?;
        leaving.signal("TERM").await?;
        replicas.ended(leaving).await?;
        load::all_go_on(&mut loads, 3).await?;
    }
    loads.push(Load::start("MCP events", Listens::new(&mcp, &session)));
    for _ in 0..RESTARTS_WHILE_HELD {
        let leaving = replicas.replace_oldest().await?;
        held(&leaving, &replicas, &site, &follower).await?;
        replicas.ended(leaving).await?;
        load::all_go_on(&mut loads, 3).await?;
    }
    replicas.are_known_to(&follower).await?;
    load::end_all(loads).await?;
    assert_eq!(site.sessions.opened().len(), 1, "no client had to begin again");
    assert_ne!(site.sessions.opened(), [session], "what the client holds is sealed");
    Ok(())
}

fn settings(deadline: Duration) -> String {
    format!("drain_linger: {}\ndrain_deadline: {}\n", (deadline / 2).as_millis(), deadline.as_millis())
}

async fn follower(site: &Site, replicas: &Replicas) -> Result<Follower> {
    let ca = &site.setup.ca;
    let bot = Arc::new(ca.svid(&ca.id("agents", "bot"))?);
    let (roots, waypoint) = (ca.bundle_pem().to_owned(), ca.id(NAMESPACE, "waypoint"));
    let endpoints = replicas.endpoints.clone();
    let look = move || {
        let endpoints = endpoints.clone();
        async move { Some(endpoints.ready().await) }
    };
    Follower::start(look, move |address| Outbound::trusting(&roots, &bot, address, &waypoint)).await
}

/// Who holds on to a stream of a replica that is told to go keeps it until the deadline, and then sees it break.
async fn held(leaving: &Portcullis, others: &Replicas, site: &Site, follower: &Follower) -> Result<()> {
    let address = leaving.address("hbone")?;
    let mut events = Ticks::open(&follower.way_through(address, &site.at(HTTP))).await?;
    let mut bytes = Echoed::open(&follower.way_through(address, &site.at(TCP))).await?;
    bytes.ask().await?;
    let asked = Instant::now();
    leaving.signal("TERM").await?;
    others.are_known_to(follower).await?;
    let ((events, first), (bytes, second)) = tokio::join!(broken(&mut events), broken(&mut bytes));
    let event_stream_broke = events.downcast_ref::<hyper::Error>().is_some();
    assert!(event_stream_broke, "cut, and by no clean end: {events:#}");
    let cut = bytes.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).context("bytes")?;
    assert_ne!(cut.kind(), io::ErrorKind::UnexpectedEof, "cut, and by no clean end: {bytes:#}");
    let lasted = first.min(second).duration_since(asked);
    assert!(lasted >= DEADLINE, "only the deadline cuts: {lasted:?}");
    Ok(())
}

/// Asks until it breaks, and returns how and when.
async fn broken(caller: &mut impl Caller) -> (anyhow::Error, Instant) {
    loop {
        if let Err(error) = caller.ask().await {
            return (error, Instant::now());
        }
    }
}

/// What the waypoint itself says of a request: answered, and to the end unless it is one without end.
fn complete(line: &Value) -> Result<()> {
    let endless = line["path"] == "/ticks" || (line["path"] == "/mcp" && line["method"] == "GET");
    let answered = line["response_code"] == 200 || line["response_code"] == 202;
    let finished = line["response_flags"] == "-";
    ensure!(line["kind"] != "request" || (answered && (finished || endless)), "{line}");
    Ok(())
}
