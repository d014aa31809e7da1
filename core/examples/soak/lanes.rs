//! A lane: one channel after the other, with a ledger in which every accepted operation stands until it has completed.

use crate::lives::{DONE, Life, Rng, Wrong, add, wrong};
use crate::round::{Live, list};
use std::time::Duration;
use tidegate_core::{Channel, Completion, Engine, Op, Seized, Status, Submit};

/// Operations that may stand open: more than a channel's depth, since what a revoker withdrew waits to be fetched.
const OPEN: u64 = 1024;

/// An operation that is open.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Entry {
    cookie: u64,
    /// 0: not known before it completes.
    ticket: u64,
    /// Bytes.
    len: u64,
    /// Whose memory it names.
    lives: Option<[Life; 2]>,
}

impl Entry {
    pub(crate) fn of(cookie: u64, lives: [Life; 2]) -> Entry {
        Entry { cookie, ticket: 0, len: 0, lives: Some(lives) }
    }

    /// A revoke of what it names has begun.
    pub(crate) fn is_ending(&self) -> bool {
        self.lives.is_some_and(|lives| lives.iter().any(|life| life.is_ending()))
    }
}

/// Cookies that are open.
#[derive(Debug)]
pub(crate) struct Ledger {
    slots: Box<[Entry]>,
    next: u64,
    pub(crate) open: u64,
}

impl Ledger {
    pub(crate) fn new() -> Ledger {
        Ledger { slots: vec![Entry::default(); OPEN as usize].into_boxed_slice(), next: 1, open: 0 }
    }

    fn slot(&mut self, cookie: u64) -> &mut Entry {
        &mut self.slots[(cookie % OPEN) as usize]
    }

    /// The next cookie, if its place is free.
    pub(crate) fn cookie(&mut self) -> Option<u64> {
        let next = self.next;
        (self.slot(next).cookie == 0).then_some(next)
    }

    pub(crate) fn accepted(&mut self, entry: Entry) {
        *self.slot(entry.cookie) = entry;
        self.next += 1;
        self.open += 1;
    }

    /// Strikes it out. `None`: it does not stand there.
    pub(crate) fn ended(&mut self, cookie: u64) -> Option<Entry> {
        let slot = self.slot(cookie);
        if cookie == 0 || slot.cookie != cookie {
            wrong(Wrong::Twice, 1, || format!("cookie {cookie} completes, the ledger has {}", slot.cookie));
            return None;
        }
        let entry = std::mem::take(slot);
        self.open -= 1;
        Some(entry)
    }
}

/// Which regions a lane's engine can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of the process.
    Process,
    /// Of a device: what is mapped for devices, windows too.
    Device,
    /// Of the process, and only what is never revoked: nobody may ever disturb it.
    Bystander,
}

/// A [`Lane`] of any engine.
pub(crate) trait Drive: Send {
    fn turn(&mut self, lives: &[Live], rng: &mut Rng);
    /// Fetches what is left. True when nothing is open.
    fn drain(&mut self) -> bool;
    /// Leaves in the middle of things; returns what it left open.
    fn die(&mut self, rng: &mut Rng, lives: &[Live]) -> u64;
    fn open(&self) -> u64;
    fn kind(&self) -> Kind;
}

pub(crate) struct Lane<E: Engine> {
    make: Box<dyn FnMut() -> Option<Channel<E>> + Send>,
    channel: Option<Channel<E>>,
    kind: Kind,
    ledger: Ledger,
    /// Tickets of confirms.
    confirms: Vec<u64>,
    out: Vec<Completion>,
}

impl<E: Engine> Lane<E> {
    pub(crate) fn boxed(
        kind: Kind,
        make: impl FnMut() -> Option<Channel<E>> + Send + 'static,
    ) -> Box<dyn Drive> {
        Box::new(Lane {
            make: Box::new(make),
            channel: None,
            kind,
            ledger: Ledger::new(),
            confirms: Vec::new(),
            out: vec![Completion::EMPTY; 64],
        })
    }

    fn submit(&mut self, lives: &[Live], rng: &mut Rng) -> Result<(), Seized> {
        let Some(channel) = self.channel.as_mut() else { return Ok(()) };
        let ledger = &mut self.ledger;
        // Before the pin: what is over by then must not be accepted.
        let mut section = channel.pin()?;
        for _ in 0..rng.below(33) {
            if lives.is_empty() {
                break;
            }
            let mut pick = || &lives[rng.below(lives.len() as u64) as usize];
            let (live, other) = (pick(), pick());
            let Some(cookie) = ledger.cookie() else { break };
            let over = [live, other].map(|live| live.life.is_over());
            let (answer, len, whose) = if rng.one_in(8) {
                let (list, whose) = list([live, other], E::CONFIRMS, rng);
                (section.submit_list(&list.clone().cookie(cookie)), list.len(), whose)
            } else {
                let (op, len) = live.operation(rng);
                (section.submit(op.cookie(cookie)), len, [live.life; 2])
            };
            match answer {
                Submit::Queued(ticket) => {
                    ledger.accepted(Entry { ticket: ticket.0, len, ..Entry::of(cookie, whose) });
                    if over[0] || (over[1] && whose[0] != whose[1]) {
                        wrong(Wrong::Other, 1, || format!("accepted after the revoke of {whose:?}"));
                    }
                }
                Submit::Stale(_) => add(&DONE.stale, 1),
                Submit::Full | Submit::Closed(_) => break,
                Submit::Denied(flow) => wrong(Wrong::Other, 1, || format!("denied: {flow:?}")),
            }
        }
        if E::CONFIRMS && rng.one_in(32) {
            if let Ok(Submit::Queued(ticket)) = section.confirm() {
                if ticket.0 != 0 {
                    self.confirms.push(ticket.0);
                }
            }
        }
        if rng.one_in(4096) {
            // Asleep inside its section: revokers wait.
            std::thread::sleep(Duration::from_micros(rng.below(2000)));
        }
        Ok(())
    }

    fn poll(&mut self, room: usize) -> Result<usize, Seized> {
        let Some(channel) = self.channel.as_mut() else { return Ok(0) };
        let out = &mut self.out[..room];
        let n = channel.pin()?.poll(out);
        for at in 0..n {
            let completion = self.out[at];
            self.completed(completion);
        }
        Ok(n)
    }

    fn completed(&mut self, completion: Completion) {
        if completion.cookie == 0 {
            match self.confirms.iter().position(|ticket| *ticket == completion.ticket.0) {
                Some(at) => drop(self.confirms.swap_remove(at)),
                None => wrong(Wrong::Twice, 1, || format!("{completion:?} of no confirm")),
            }
            return;
        }
        let Some(entry) = self.ledger.ended(completion.cookie) else { return };
        let Completion { ticket, status, len, .. } = completion;
        if ticket.0 != entry.ticket || (status == Status::Done && u64::from(len) != entry.len) {
            wrong(Wrong::Other, 1, || format!("{completion:?} of {entry:?}"));
        }
        let fair = match completion.status {
            Status::Done => true,
            Status::Device(5) => self.kind == Kind::Device,
            // A quiesce of the target revokes its windows without telling anybody here.
            Status::Revoked => entry.is_ending() || self.kind == Kind::Device,
            Status::Aborted => self.kind != Kind::Bystander,
            _ => false,
        };
        if !fair {
            wrong(Wrong::Other, 1, || format!("{completion:?} on a {:?} channel", self.kind));
        }
        if matches!(completion.status, Status::Revoked | Status::Aborted) {
            add(&DONE.withdrawn, 1);
        }
        add(&DONE.operations, 1);
    }

    fn disturbed(&self) {
        if self.kind == Kind::Bystander {
            wrong(Wrong::Other, 1, || "a revoke holds a channel that names none of its regions".to_owned());
        }
    }
}

impl<E: Engine> Drive for Lane<E> {
    fn turn(&mut self, lives: &[Live], rng: &mut Rng) {
        match &mut self.channel {
            None => {
                self.channel = (self.make)();
                add(&DONE.channels, u64::from(self.channel.is_some()));
                return;
            }
            // Its device was quiesced: the next one comes when everything was fetched.
            Some(channel) if channel.closed().is_some() => {
                if self.drain() {
                    self.channel = None;
                }
                return;
            }
            Some(channel) if rng.one_in(512) => channel.park(),
            Some(_) => {}
        }
        let room = [1, 7, 64][rng.below(3) as usize];
        if self.submit(lives, rng).and_then(|()| self.poll(room)).is_err() {
            self.disturbed();
        }
    }

    fn drain(&mut self) -> bool {
        while let Ok(n) = self.poll(64) {
            if n == 0 {
                break;
            }
        }
        self.ledger.open == 0 && self.confirms.is_empty()
    }

    fn die(&mut self, rng: &mut Rng, lives: &[Live]) -> u64 {
        let _ = self.submit(lives, rng);
        if let Some(mut channel) = self.channel.take() {
            if rng.one_in(2) {
                // Inside its section, as far as the fabric can tell.
                if let Ok(mut section) = channel.pin() {
                    let _ = section.submit(Op::fence());
                    std::mem::forget(section);
                }
            }
        }
        self.confirms.clear();
        self.ledger.open
    }

    fn open(&self) -> u64 {
        self.ledger.open + self.confirms.len() as u64
    }

    fn kind(&self) -> Kind {
        self.kind
    }
}
