//! What is noted of one request, from its head to the last byte of its reply, and told at its end: a line of the access log
//! and the counts. Both are told when the last holder is done with the exchange, however it ended.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::header::{HOST, HeaderValue};
use hyper::http::request;
use hyper::{Method, Uri, Version};

use super::http1_guard::BodyViolation;
use super::listener::Connection;
use crate::access::address::ClientAddress;
use crate::access::decide::Holder;
use crate::access::denial::Denial;
use crate::access::key::Environment;
use crate::access::time::Timestamp;
use crate::telemetry::access_log::Line;
use crate::telemetry::{Outcome, Spent};

/// Why the body of a request did not come whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyFault {
    /// The client went away, or reset its stream.
    Gone,
    TooLarge,
    Malformed(BodyViolation),
}

/// One request and what became of it.
pub struct Exchange {
    connection: Rc<Connection>,
    arrived: Instant,
    time: Timestamp,
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
    pub request_id: HeaderValue,
    pub client: ClientAddress,
    environment: Option<Environment>,
    decision: Duration,
    holder: Cell<Option<Holder>>,
    status: Cell<Option<u16>>,
    outcome: Cell<Outcome>,
    upstream: Cell<Option<usize>>,
    request_bytes: Cell<u64>,
    reply_bytes: Cell<u64>,
    /// When the last piece of the request went on to the upstream.
    last_sent: Cell<Instant>,
    first_byte: Cell<Option<Duration>>,
    fault: Cell<Option<BodyFault>>,
    /// A part of the request's body has not been read.
    unread: Cell<bool>,
}

/// What is known once a request has been judged.
#[derive(Debug)]
pub struct Judged {
    pub request_id: HeaderValue,
    pub client: ClientAddress,
    pub environment: Option<Environment>,
    pub arrived: Instant,
    pub time: Timestamp,
}

impl Exchange {
    pub fn begin(connection: &Rc<Connection>, parts: &request::Parts, judged: Judged) -> Self {
        connection.begin_exchange();
        let now = connection.worker.clock.monotonic();
        let Judged { request_id, client, environment, arrived, time } = judged;
        Self {
            connection: Rc::clone(connection),
            arrived,
            time,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            host: parts.headers.get(HOST).cloned(),
            version: parts.version,
            request_id,
            client,
            environment,
            decision: now.duration_since(arrived),
            holder: Cell::new(None),
            status: Cell::new(None),
            outcome: Cell::new(Outcome::Forwarded),
            upstream: Cell::new(None),
            request_bytes: Cell::new(0),
            reply_bytes: Cell::new(0),
            last_sent: Cell::new(now),
            first_byte: Cell::new(None),
            fault: Cell::new(None),
            unread: Cell::new(false),
        }
    }

    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// The request is refused, or its forwarding came to nothing. If it came to nothing because the client went away, that is
    /// nobody's refusal: there is no reply and no status to tell of.
    pub fn refused(&self, denial: Denial, holder: Option<Holder>) {
        if self.fault.get() == Some(BodyFault::Gone) {
            return;
        }
        self.outcome.set(Outcome::Refused(denial));
        self.status.set(Some(denial.status()));
        if holder.is_some() {
            self.holder.set(holder);
        }
    }

    /// The request goes to this upstream.
    pub fn forwarding(&self, holder: Holder, upstream: usize) {
        self.holder.set(Some(holder));
        self.upstream.set(Some(upstream));
    }

    /// The head of the upstream's reply is there.
    pub fn replied(&self, status: u16) {
        self.status.set(Some(status));
        self.first_byte.set(Some(self.connection.worker.clock.monotonic().duration_since(self.arrived).saturating_sub(self.decision)));
    }

    /// A piece of the request's body goes on.
    pub fn sent(&self, bytes: u64) {
        self.request_bytes.set(self.request_bytes.get() + bytes);
        self.last_sent.set(self.connection.worker.clock.monotonic());
    }

    /// A piece of the reply's body goes on.
    pub fn received(&self, bytes: u64) {
        self.reply_bytes.set(self.reply_bytes.get() + bytes);
    }

    /// The upstream ended before its reply did, and a piece of the reply is with the client already: all that can be done is
    /// to break the client's off as well, and to say so where it is counted.
    pub fn reply_cut_off(&self) {
        match self.fault.get() {
            // The client ended it, not the upstream.
            Some(BodyFault::Gone) => {}
            Some(BodyFault::TooLarge) => self.outcome.set(Outcome::Refused(Denial::BodyTooLarge)),
            Some(BodyFault::Malformed(_)) => self.outcome.set(Outcome::Refused(Denial::BadRequest)),
            None => self.outcome.set(Outcome::Refused(Denial::UpstreamBroken)),
        }
    }

    pub fn body_failed(&self, fault: BodyFault) {
        self.fault.set(Some(fault));
    }

    pub fn set_unread(&self, unread: bool) {
        self.unread.set(unread);
    }

    /// Whether a part of the request's body has not been read, so that no other request can follow it on its connection.
    pub fn is_unread(&self) -> bool {
        self.unread.get()
    }

    pub fn body_fault(&self) -> Option<BodyFault> {
        self.fault.get()
    }

    /// Whether the client's protocol has interim replies (RFC 9110, section 15.2).
    pub fn takes_interim(&self) -> bool {
        self.version == Version::HTTP_11
    }

    /// Whether the client's protocol knows of one request for a connection only, whatever the client asks for.
    pub fn is_http10(&self) -> bool {
        self.version == Version::HTTP_10
    }

    pub fn last_sent(&self) -> Instant {
        self.last_sent.get()
    }

    fn tell(&self) {
        let worker = &self.connection.worker;
        let total = worker.clock.monotonic().duration_since(self.arrived);
        let spent = Spent { decision: Some(self.decision), upstream: self.first_byte.get(), total };
        worker.metrics.request(self.environment, self.outcome.get(), &spent);
        if !worker.log.is_on() {
            return;
        }
        let holder = self.holder.get();
        let authority = self.uri.authority().map(|authority| authority.as_str().as_bytes());
        worker.log.line(&Line {
            time: self.time,
            request_id: self.request_id.to_str().unwrap_or_default(),
            key_id: holder.map(|holder| holder.key),
            account: holder.map(|holder| holder.account),
            environment: self.environment,
            client_address: self.client,
            peer: self.connection.peer.known(),
            protocol: name_of(self.version),
            method: Some(self.method.as_str().as_bytes()),
            host: self.host.as_ref().map(HeaderValue::as_bytes).or(authority),
            path: Some(self.uri.path().as_bytes()),
            status: self.status.get(),
            outcome: self.outcome.get(),
            upstream: self.upstream.get().and_then(|place| worker.upstreams.get(place)).map(|upstream| upstream.name()),
            request_bytes: self.request_bytes.get(),
            reply_bytes: self.reply_bytes.get(),
            spent,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.end_exchange();
        self.tell();
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

const fn name_of(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
