//! Lists: bytes of several places as one operation, by the engine's own scatter-gather or as plain operations.

use super::fuse::{fused_by_owner, named};
use super::group::Kind;
use super::submit::Desk;
use super::{NO_REGION, Names, Pinned, Ring, Rule};
use crate::engine::{Engine, ListOperation, Operation, Push, Target};
use crate::op::{Flow, OpKind, OpList, Operand, Status, Submit};
use crate::region::RawSpan;

impl<E: Engine> Pinned<'_, E> {
    /// Checks and queues a list: all of it or nothing. It takes as many entries of the ring as name its regions (two
    /// each) if the engine takes lists, as many as it has pieces if not; it completes once, with the ticket given here,
    /// the bytes of all pieces and the worst of their statuses. Allocates nothing.
    ///
    /// An engine that has no room for all pieces although the ring had ends the list as [`Status::Aborted`], one that
    /// does not do a later piece as [`Status::Unsupported`]: then some pieces were done.
    pub fn submit_list(&mut self, list: &OpList) -> Submit {
        let open = self.is_open();
        let (state, desk, operands) = self.split_all();
        let answer = fused_by_owner(state, desk.meta, |state| match state.engine.as_mut().filter(|_| open) {
            None => desk.refuse(false),
            Some(engine) => match resolve::<E>(&desk, list, state.ring.depth, operands) {
                Err(answer) => answer,
                Ok(sides) => queue(engine, &mut state.ring, list, sides),
            },
        });
        let queued = matches!(answer, Submit::Queued(_));
        self.interrupted(queued);
        if queued { answer } else { self.refused(answer) }
    }
}

/// Checks every span; the targets of each side.
fn resolve<'a, E: Engine>(
    desk: &Desk<'_>,
    list: &OpList,
    depth: u64,
    room: &'a mut [Target],
) -> Result<(&'a [Target], &'a [Target]), Submit> {
    let (reads, writes) = (list.from.len(), list.to.len());
    let most = reads.max(writes);
    // There is room for twice the depth.
    if most == 0 || most as u64 > depth || reads + writes > room.len() {
        return Err(Submit::Denied(Flow::Pieces));
    }
    let (from, to) = room.split_at_mut(reads);
    let fill = |side: &mut [Target], spans: &[RawSpan], rule: Rule| {
        side.iter_mut().zip(spans).try_for_each(|(target, span)| {
            *target = desk.check::<E>(span.index, Operand::of(span), span.len, rule)?;
            Ok(())
        })
    };
    fill(from, &list.from, desk.rules.read)?;
    fill(to, &list.to, desk.rules.write)?;
    if list.uneven && !cfg!(tidegate_unchecked) {
        return Err(Submit::Denied(Flow::Bounds));
    }
    Ok((from, to.get(..writes).unwrap_or_default()))
}

/// Pushes a list that was checked.
fn queue<E: Engine>(
    engine: &mut E,
    ring: &mut Ring,
    list: &OpList,
    (from, to): (&[Target], &[Target]),
) -> Submit {
    let (entries, before) = (words(from, to).count() as u64, ring.last);
    if ring.room() < entries {
        return Submit::Full;
    }
    let index = ring.index(before + entries);
    let whole = ListOperation { kind: list.kind, from, to, at: list.at, len: list.len };
    // SAFETY: 1. `resolve` found every piece live, in reach and in bounds under this pin (I1, C1), and the ring names all
    // their regions until the list has ended: a drain waits for that before it lets them go.
    let push = || unsafe { engine.push_list(index, &whole) };
    match named(ring, before, words(from, to), push) {
        Push::Taken => {
            ring.tally.interrupt(before);
            for names in words(from, to) {
                let _ = ring.accept(Names::member(names), 0);
            }
            ring.group(entries, 1, Kind::Whole, list.cookie, Status::Done);
        }
        Push::Full => return Submit::Full,
        Push::Unsupported => match queue_pieces(engine, ring, list, &whole) {
            Ok(()) => {}
            Err(answer) => return answer,
        },
    }
    for target in to.iter().filter(|target| target.window) {
        ring.soil(target.region);
    }
    list.from.iter().for_each(|span| ring.tally.listed(span, 0));
    list.to.iter().for_each(|span| ring.tally.listed(span, 1));
    ring.tally.declassified(list.declassified);
    Submit::Queued(crate::Ticket(ring.last))
}

/// As plain operations, one an entry.
fn queue_pieces<E: Engine>(
    engine: &mut E,
    ring: &mut Ring,
    list: &OpList,
    whole: &ListOperation<'_>,
) -> Result<(), Submit> {
    if list.kind != OpKind::Copy && !engine.splits(list.at, list.len) {
        return Err(Submit::Denied(Flow::Unsupported));
    }
    let pieces = Pieces::of(whole).count() as u64;
    match ring.room() {
        _ if pieces > ring.depth => return Err(Submit::Denied(Flow::Pieces)),
        room if room < pieces => return Err(Submit::Full),
        _ => ring.tally.interrupt(ring.last),
    }
    let (mut pushed, mut worst, before) = (0, Status::Done, ring.last);
    for (operation, names) in Pieces::of(whole) {
        let index = ring.index(ring.last + 1);
        // SAFETY: 1. a part of targets that `resolve` checked under this pin (I1, C1), named by the ring until it ended.
        let push = || unsafe { engine.push(index, &operation) };
        worst = match named(ring, before, std::iter::once(names), push) {
            Push::Taken => {
                let _ = ring.accept(Names::member(names), 0);
                pushed += 1;
                continue;
            }
            Push::Full if pushed == 0 => return Err(Submit::Full),
            Push::Unsupported if pushed == 0 => return Err(Submit::Denied(Flow::Unsupported)),
            // What was pushed will run: the user must not take the answer for "nothing happened".
            Push::Full => Status::Aborted,
            Push::Unsupported => Status::Unsupported,
        };
        break;
    }
    ring.group(pushed, pushed, Kind::Pieces, list.cookie, worst);
    Ok(())
}

/// The regions of a list as words of entries, two each; neighbours of one region count once.
fn words<'a>(from: &'a [Target], to: &'a [Target]) -> impl Iterator<Item = u64> + Clone + 'a {
    let mut all = from.iter().chain(to).map(|target| target.region).peekable();
    let mut next = move || {
        let region = all.next()?;
        while all.next_if_eq(&region).is_some() {}
        Some(region)
    };
    std::iter::from_fn(move || Some(Names::in_flight(next()?, next().unwrap_or(NO_REGION))))
}

/// Cuts a list where a piece of either side ends.
struct Pieces<'a> {
    list: &'a ListOperation<'a>,
    /// Index and offset on each side.
    from: (usize, u64),
    to: (usize, u64),
    done: u64,
}

impl<'a> Pieces<'a> {
    fn of(list: &'a ListOperation<'a>) -> Pieces<'a> {
        Pieces { list, from: (0, 0), to: (0, 0), done: 0 }
    }
}

/// What is left of the piece at `place`.
fn rest(side: &[Target], place: (usize, u64)) -> Option<Target> {
    let whole = side.get(place.0)?;
    Some(Target { address: whole.address.wrapping_add(place.1), len: whole.len - place.1, ..*whole })
}

fn step(place: &mut (usize, u64), rest: u64, by: u64) {
    *place = if by == rest { (place.0 + 1, 0) } else { (place.0, place.1 + by) };
}

impl Iterator for Pieces<'_> {
    type Item = (Operation, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let (from, to) = (rest(self.list.from, self.from), rest(self.list.to, self.to));
        let at = self.list.at.wrapping_add(self.done);
        let (operation, names, len) = match (from, to) {
            (Some(from), Some(to)) => {
                let len = from.len.min(to.len);
                step(&mut self.from, from.len, len);
                step(&mut self.to, to.len, len);
                let names = Names::in_flight(from.region, to.region);
                (Operation::Copy { from: Target { len, ..from }, to: Target { len, ..to } }, names, len)
            }
            (Some(from), None) => {
                self.from.0 += 1;
                (Operation::Write { from, at }, Names::in_flight(from.region, NO_REGION), from.len)
            }
            (None, Some(to)) => {
                self.to.0 += 1;
                (Operation::Read { at, to }, Names::in_flight(NO_REGION, to.region), to.len)
            }
            (None, None) => return None,
        };
        self.done += len;
        Some((operation, names))
    }
}
