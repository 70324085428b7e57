//! The stream around the session: dials, sends, receives, comes again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::backoff::Backoff;
use crate::dial::{self, Dialled, Responses};
use crate::failure::Failure;
use crate::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::session::{Names, Received, Refused, Session, Token, Update};
use crate::settings::{Settings, UnusableSettings};

/// Requests on their way into HTTP/2 at most; further ones wait in the outbox.
const REQUESTS_UNDER_WAY: usize = 16;

/// Something that the owner of a client should know.
#[derive(Debug)]
pub enum Event {
    /// The control plane has answered: a stream is open.
    Connected,
    /// Something changed. To be applied, then answered with [`Client::settle`].
    Update(Update),
    /// The stream ended, or could not be opened. Everything held stays held.
    Disconnected {
        /// Why.
        why: Failure,
        /// When it is tried again.
        retry_in: Duration,
    },
}

/// A client of delta ADS. Its owner calls [`Client::next`] again and again, and answers each update; nothing happens else,
/// except that HTTP/2 answers and sends its pings in a task of its own.
pub struct Client {
    settings: Arc<Settings>,
    session: Session,
    backoff: Backoff,
    state: State,
    /// Requests not yet handed to the stream. Bounded by the updates handed out and the names wanted.
    outbox: VecDeque<DeltaDiscoveryRequest>,
    /// Updates of this stream that were handed out and not answered.
    unsettled: usize,
    /// Whether this stream has brought a response.
    answered: bool,
}

type Attempt<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

enum State {
    Waiting(Pin<Box<Sleep>>),
    Dialling(Attempt<Dialled>),
    Opening(Attempt<Responses>, mpsc::Sender<DeltaDiscoveryRequest>),
    Open(Box<Open>),
}

struct Open {
    responses: Responses,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
}

/// What happened on an open stream.
enum Step {
    Sent,
    Received(DeltaDiscoveryResponse),
    Lost(Failure),
}

impl Client {
    /// A client that dials at its first [`Client::next`].
    ///
    /// # Errors
    /// Settings that no attempt could make work.
    pub fn new(settings: Settings, session: Session) -> Result<Self, UnusableSettings> {
        settings.check()?;
        Ok(Self {
            backoff: Backoff::new(settings.backoff_first, settings.backoff_longest),
            settings: Arc::new(settings),
            session,
            state: State::Waiting(Box::pin(tokio::time::sleep(Duration::ZERO))),
            outbox: VecDeque::new(),
            unsettled: 0,
            answered: false,
        })
    }

    /// Where the control plane is, `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.settings.address
    }

    /// Waits for the next event, and works meanwhile. Never ends by itself. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            match &mut self.state {
                State::Waiting(until) => {
                    until.await;
                    self.dial();
                }
                State::Dialling(attempt) => match attempt.await {
                    Ok(dialled) => self.open(dialled),
                    Err(why) => return self.lost(why),
                },
                State::Opening(attempt, requests) => match attempt.await {
                    Ok(responses) => {
                        let requests = requests.clone();
                        self.state = State::Open(Box::new(Open { responses, requests }));
                        return Event::Connected;
                    }
                    Err(why) => return self.lost(why),
                },
                State::Open(open) => {
                    let may_read = self.unsettled < self.settings.unsettled_limit;
                    match open.step(&mut self.outbox, may_read, &self.settings.address).await {
                        Step::Sent => {}
                        Step::Received(response) => {
                            if let Some(update) = self.received(response) {
                                return Event::Update(update);
                            }
                        }
                        Step::Lost(why) => return self.lost(why),
                    }
                }
            }
        }
    }

    /// The owner has applied an update, except for `refused` ([`Session::settle`]). Sent with the next [`Client::next`].
    pub fn settle(&mut self, token: Token, refused: Vec<Refused>) {
        if let Some(answer) = self.session.settle(token, refused) {
            self.unsettled = self.unsettled.saturating_sub(1);
            self.outbox.push_back(answer);
        }
    }

    /// Changes what is wanted of a type ([`Session::want`]). Sent with the next [`Client::next`].
    pub fn want(&mut self, type_url: &str, names: Names) {
        self.outbox.extend(self.session.want(type_url, names));
    }

    /// Whether so many updates are unanswered that nothing more is read ([`Settings::unsettled_limit`]).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unsettled >= self.settings.unsettled_limit
    }

    /// The protocol's state.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    fn dial(&mut self) {
        let settings = Arc::clone(&self.settings);
        self.state = State::Dialling(Box::pin(async move { dial::dial(&settings).await }));
    }

    fn open(&mut self, dialled: Dialled) {
        self.outbox = self.session.connected().into();
        self.unsettled = 0;
        self.answered = false;
        let (requests, receiver) = mpsc::channel(REQUESTS_UNDER_WAY);
        fill(&requests, &mut self.outbox);
        let settings = Arc::clone(&self.settings);
        let attempt = Box::pin(async move { dial::open(dialled, &settings, receiver).await });
        self.state = State::Opening(attempt, requests);
    }

    fn received(&mut self, response: DeltaDiscoveryResponse) -> Option<Update> {
        self.answered = true;
        match self.session.received(response) {
            Received::Update(update) => {
                self.unsettled += 1;
                Some(update)
            }
            Received::Answer(answer) => {
                tracing::warn!(
                    type_url = answer.type_url,
                    "the control plane sent a type that nobody asked for"
                );
                self.outbox.push_back(answer);
                None
            }
        }
    }

    fn lost(&mut self, why: Failure) -> Event {
        self.session.disconnected();
        self.outbox.clear();
        self.unsettled = 0;
        // A response that cannot be read will not be readable the next time: no reason to come again at once.
        if std::mem::take(&mut self.answered) && !matches!(why, Failure::Unreadable { .. }) {
            self.backoff.reset();
        }
        let retry_in = self.backoff.delay();
        self.state = State::Waiting(Box::pin(tokio::time::sleep(retry_in)));
        Event::Disconnected { why, retry_in }
    }
}

impl Open {
    /// One thing sent or received. Cancel safe: a place in the channel is reserved before anything is taken out of the
    /// outbox, and a response that was read in part stays in the decoder.
    async fn step(
        &mut self,
        outbox: &mut VecDeque<DeltaDiscoveryRequest>,
        may_read: bool,
        address: &str,
    ) -> Step {
        let sent = tokio::select! {
            place = self.requests.reserve(), if !outbox.is_empty() => match place {
                Ok(place) => {
                    if let Some(request) = outbox.pop_front() {
                        place.send(request);
                    }
                    true
                }
                Err(_) => false,
            },
            message = self.responses.message(), if may_read => return match message {
                Ok(Some(response)) => Step::Received(response),
                Ok(None) => Step::Lost(Failure::Ended { address: address.to_owned() }),
                Err(status) => Step::Lost(Failure::from_status(address, &status)),
            },
            // With nothing to send and too much unanswered, all there is to do is to wait for an answer, which comes by
            // dropping this future.
            () = std::future::pending(), if outbox.is_empty() && !may_read => true,
        };
        // Where the sending half is gone, the receiving half knows why.
        if sent { Step::Sent } else { self.end(address).await }
    }

    /// Why a stream that takes no more requests ended. Responses that still come are of no use: they cannot be answered.
    async fn end(&mut self, address: &str) -> Step {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Step::Lost(Failure::Ended { address: address.to_owned() }),
                Err(status) => return Step::Lost(Failure::from_status(address, &status)),
            }
        }
    }
}

/// Hands over what fits without waiting.
fn fill(requests: &mpsc::Sender<DeltaDiscoveryRequest>, outbox: &mut VecDeque<DeltaDiscoveryRequest>) {
    while let Ok(place) = requests.try_reserve() {
        let Some(request) = outbox.pop_front() else { return };
        place.send(request);
    }
}
