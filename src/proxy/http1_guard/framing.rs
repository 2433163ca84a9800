//! Which message the next byte belongs to: head, body, trailers, next head.

use std::sync::Arc;

use super::body::{ChunkScan, Then};
use super::head::{Body, HeadScan, Scanned};
use super::state::{Answer, Phase, Refused};
use super::{BodyViolation, Bounds, GuardState, Violation};

/// The framing of all that one client sends.
pub(super) struct Framing {
    stage: Stage,
    bounds: Bounds,
    trailer_bounds: Bounds,
    state: Arc<GuardState>,
}

enum Stage {
    Head(HeadScan),
    Length(u64),
    Chunks(ChunkScan),
    Trailers(HeadScan),
    Parked,
    Tunnel,
    /// A canned head stands for the one that was refused.
    Refused {
        canned: &'static [u8],
    },
    Broken(BodyViolation),
}

/// One stage's share of some bytes.
enum Share {
    /// So many, and the next stage may take the rest.
    On(usize),
    /// So many, and no more before more have come or the service has spoken.
    Stop(usize),
}

/// What hyper gets in place of a head that it must not see: it answers it by the service, once, and closes.
const CANNED: &[u8] = b"GET / HTTP/1.1\r\nhost: invalid\r\nconnection: close\r\n\r\n";
/// The same for HEAD, so that the reply has no body.
const CANNED_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nhost: invalid\r\nconnection: close\r\n\r\n";
/// hyper gives up on a larger trailer section by itself.
const MOST_TRAILER_BYTES: usize = 16 * 1024 - 1;
const MOST_TRAILER_FIELDS: usize = 100;
/// How much of a refused head is told to the log.
const SHOWN_METHOD: usize = 32;
const SHOWN_TARGET: usize = 1024;
/// How many bytes behind a request for an upgrade are kept until it is decided.
const MOST_PARKED: usize = 16 * 1024;

impl Framing {
    pub(super) fn new(bounds: Bounds, state: Arc<GuardState>) -> Self {
        let trailer_bounds = Bounds {
            head_bytes: bounds.head_bytes.min(MOST_TRAILER_BYTES),
            head_fields: bounds.head_fields.min(MOST_TRAILER_FIELDS),
            ..bounds
        };
        Self { stage: Stage::Head(HeadScan::new()), bounds, trailer_bounds, state }
    }

    /// How many of `bytes` may go on to hyper. They begin behind the last byte that may; those that may not have to be
    /// given again, with what came behind them.
    pub(super) fn check(&mut self, bytes: &[u8]) -> usize {
        let mut good = 0;
        loop {
            let rest = bytes.get(good..).unwrap_or_default();
            match self.share(rest) {
                Share::On(more) => good += more,
                Share::Stop(more) => {
                    self.state.set_phase(self.phase());
                    return good + more;
                }
            }
        }
    }

    /// Whether an answer of the service has opened the way for bytes that were given before.
    pub(super) fn unparked(&mut self) -> bool {
        if !self.parked() {
            return false;
        }
        self.stage = match self.state.take_answer() {
            None => return false,
            Some(Answer::Granted) => Stage::Tunnel,
            Some(Answer::Declined) => Stage::Head(HeadScan::new()),
        };
        true
    }

    /// Whether the client waits for the answer to its request for an upgrade.
    pub(super) fn parked(&self) -> bool {
        matches!(self.stage, Stage::Parked)
    }

    /// How many more bytes may be kept beside `kept` ones that may not go on yet.
    pub(super) fn room(&self, kept: usize) -> usize {
        if self.parked() { MOST_PARKED.saturating_sub(kept) } else { usize::MAX }
    }

    /// Whether no further byte of the client will be looked at.
    pub(super) fn over(&self) -> bool {
        matches!(self.stage, Stage::Refused { .. } | Stage::Broken(_))
    }

    /// What is to be read in place of the client's bytes: empty once all is read.
    pub(super) fn canned(&mut self) -> Option<&mut &'static [u8]> {
        if let Stage::Refused { canned } = &mut self.stage { Some(canned) } else { None }
    }

    /// Why the body at hand cannot be read on.
    pub(super) fn broken(&self) -> Option<BodyViolation> {
        if let Stage::Broken(violation) = self.stage { Some(violation) } else { None }
    }

    /// Whether the client was shut out in the middle of what it sends.
    pub(super) fn unfinished(&self) -> bool {
        self.over() || matches!(self.stage, Stage::Length(_) | Stage::Chunks(_) | Stage::Trailers(_))
    }

    /// To be called when the socket has nothing more for now. Only then is the client to blame for a head that is not whole:
    /// as long as hyper has other requests to see to, it may not ask for more.
    pub(super) fn waits(&self) {
        if let Stage::Head(scan) = &self.stage
            && scan.started()
        {
            self.state.set_phase(Phase::Head);
        }
    }

    fn phase(&self) -> Phase {
        match &self.stage {
            Stage::Head(_) => Phase::Idle,
            // What came before a fault may take its time with the service: it is refused once the service is told.
            Stage::Length(_) | Stage::Chunks(_) | Stage::Trailers(_) | Stage::Broken(_) => Phase::Body,
            Stage::Parked => Phase::Parked,
            Stage::Tunnel => Phase::Tunnel,
            Stage::Refused { .. } => Phase::Refused,
        }
    }

    fn share(&mut self, bytes: &[u8]) -> Share {
        match &mut self.stage {
            Stage::Head(scan) => match scan.scan(bytes, &self.bounds) {
                Scanned::Incomplete => Share::Stop(0),
                Scanned::Complete { end, body, upgrade } => self.behind_head(end, body, upgrade),
                Scanned::Refused(what) => self.refuse(what, bytes),
            },
            Stage::Length(left) => {
                let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= taken as u64;
                if *left > 0 { Share::Stop(taken) } else { self.next_message(taken) }
            }
            Stage::Chunks(scan) => {
                let counted = scan.scan(bytes, &self.bounds);
                match counted.then {
                    Then::More => Share::Stop(counted.good),
                    Then::Trailers => self.go_on(counted.good, Stage::Trailers(HeadScan::of_trailers())),
                    Then::Violated(violation) => self.go_on(counted.good, Stage::Broken(violation)),
                }
            }
            Stage::Trailers(scan) => match scan.scan(bytes, &self.trailer_bounds) {
                Scanned::Incomplete => Share::Stop(0),
                Scanned::Complete { end, .. } => self.next_message(end),
                Scanned::Refused(what) => self.go_on(0, Stage::Broken(BodyViolation::Trailer(what))),
            },
            Stage::Tunnel => Share::Stop(bytes.len()),
            Stage::Parked | Stage::Refused { .. } | Stage::Broken(_) => Share::Stop(0),
        }
    }

    fn behind_head(&mut self, end: usize, body: Body, upgrade: bool) -> Share {
        self.state.head_delivered(upgrade);
        match body {
            Body::None if upgrade => self.go_on(end, Stage::Parked),
            Body::None => self.next_message(end),
            Body::Length(length) => self.go_on(end, Stage::Length(length)),
            Body::Chunked { counted } => self.go_on(end, Stage::Chunks(ChunkScan::new(counted))),
        }
    }

    fn refuse(&mut self, what: Violation, bytes: &[u8]) -> Share {
        let Stage::Head(scan) = &self.stage else { return Share::Stop(0) };
        let method = scan.method(bytes, SHOWN_METHOD);
        let canned = if method == Some(hyper::Method::HEAD) { CANNED_HEAD } else { CANNED };
        let target = scan.target(bytes, SHOWN_TARGET).map(Box::from);
        self.state.head_refused(Refused { what, method, target });
        self.go_on(0, Stage::Refused { canned })
    }

    fn next_message(&mut self, taken: usize) -> Share {
        self.go_on(taken, Stage::Head(HeadScan::new()))
    }

    fn go_on(&mut self, taken: usize, stage: Stage) -> Share {
        self.stage = stage;
        Share::On(taken)
    }
}
