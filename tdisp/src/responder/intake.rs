//! Requests that were taken and are not answered yet, and how many there may be (NUM_REQ_THIS and NUM_REQ_ALL).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use zeroize::Zeroizing;

use super::{Device, Effect, Entropy, Responder, Settings};
use crate::state::event::{DeviceEvent, Event, SessionId};
use crate::wire::FunctionId;

/// Names a request that waits for its answer. TDISP has no sequence number: who carries the messages pairs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// The answer to a request that waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Which request.
    pub ticket: Ticket,
    /// The session that it came through, and that its response belongs to.
    pub session: SessionId,
    /// What it did; to be acted on before the response is sent.
    pub effects: Vec<Effect>,
}

/// Requests in the order in which they came; never more than the settings allow.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    requests: VecDeque<Request>,
    tickets: u64,
}

struct Request {
    ticket: Ticket,
    session: SessionId,
    function: FunctionId,
    /// Wiped and never shown: it can hold a nonce.
    bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} in {:?}", self.ticket, self.function, self.session)
    }
}

impl Waiting {
    /// Whether one request more for the function is too many.
    pub(super) fn is_full(&self, settings: &Settings, function: FunctionId) -> bool {
        let this = self.requests.iter().filter(|request| request.function.matches(function)).count();
        this >= usize::from(settings.requests_this.max(1))
            || self.requests.len() >= usize::from(settings.requests_all.max(1))
    }

    /// Forgets the requests that can get no answer any more.
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::SessionEnded(session) => self.requests.retain(|request| request.session != session),
            Event::Device(DeviceEvent::ConventionalReset) => self.requests.clear(),
            _ => {}
        }
    }
}

impl<D: Device, E: Entropy> Responder<D, E> {
    /// Takes a request for [`answer_next`](Self::answer_next), for a transport with several sessions that must not
    /// wait for each other. `None` where the request is answered at once: `response` is what
    /// [`handle`](Self::handle) would have made of it. That is so for malformed requests, for the version, which
    /// nobody must wait for, and with BUSY for more requests than may be outstanding. Changes no TDI.
    ///
    /// Cost: one allocation.
    pub fn take(&mut self, session: SessionId, request: &[u8], response: &mut Vec<u8>) -> Option<Ticket> {
        let Some(function) = self.waits(request) else {
            let effects = self.handle(session, request, response);
            debug_assert!(effects.is_empty());
            return None;
        };
        response.clear();
        let ticket = Ticket(self.waiting.tickets);
        // Wraps after more requests than any device answers in its life.
        self.waiting.tickets = self.waiting.tickets.wrapping_add(1);
        let bytes = Zeroizing::new(request.to_vec());
        self.waiting.requests.push_back(Request { ticket, session, function, bytes });
        Some(ticket)
    }

    /// Answers the request that waits longest; `None` where there is none. `response` is overwritten.
    pub fn answer_next(&mut self, response: &mut Vec<u8>) -> Option<Answered> {
        let Request { ticket, session, bytes, .. } = self.waiting.requests.pop_front()?;
        let effects = self.handle(session, &bytes, response);
        Some(Answered { ticket, session, effects })
    }

    /// How many requests wait for an answer.
    pub fn outstanding(&self) -> usize {
        self.waiting.requests.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_not_shown() {
        let bytes = Zeroizing::new(vec![167; 48]);
        let (ticket, session, function) = (Ticket(0), SessionId(1), FunctionId::new(0x100));
        let requests = [Request { ticket, session, function, bytes }].into();
        let shown = format!("{:?}", Waiting { requests, tickets: 1 });
        assert!(!shown.contains("167") && shown.contains("01:00.0"), "{shown}");
    }
}
