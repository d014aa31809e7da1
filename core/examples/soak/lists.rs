//! Lists, word by word: whoever has one channel and one list in flight knows what has to be where, and how it must end.

use crate::engines::{Buffer, Eager, Mapped, Mishaps, Shuffled, WORDS};
use crate::lives::{DONE, Rng, Wrong, add, wrong};
use crate::round::World;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::{
    Access, Cause, Channel, ChannelConfig, Class, Completion, Deadline, Engine, OpList, Reach, Region, Seat,
    Shared, Span, Status, Submit,
};

/// Places on either side; a list has pieces of some of them.
const SIDES: usize = 3;

/// A region that nobody else names, and what it has to hold.
struct Place {
    buffer: Arc<Buffer>,
    region: Region<Shared>,
    words: Vec<u64>,
}

impl Place {
    fn new(world: &World, first: u64) -> Option<Place> {
        let buffer = Buffer::new();
        let words: Vec<u64> = (0..WORDS).map(|word| first + word).collect();
        words.iter().zip(0..).for_each(|(value, word)| buffer.set(word, *value));
        let map = Arc::new(Mapped(buffer.clone()));
        let region =
            world.fabric.adopt(world.domain, Class::Host, Access::ReadWrite, map, None, None).ok()?;
        Some(Place { buffer, region, words })
    }

    fn span(&self, words: &Range<u64>) -> Span<Shared> {
        self.region.handle().span(words.start * 8..words.end * 8)
    }

    fn now(&self) -> Vec<u64> {
        (0..WORDS).map(|word| self.buffer.get(word)).collect()
    }
}

/// A piece: a place, and words of it.
type Piece = (usize, Range<u64>);

/// So many words in all, in one to three pieces; those of one side do not overlap.
fn pieces(words: u64, rng: &mut Rng) -> Vec<Piece> {
    let (mut left, mut all) = (words, Vec::new());
    let first = rng.below(SIDES as u64) as usize;
    for n in 0..SIDES {
        let here = if n + 1 == SIDES { left } else { rng.below(left + 1) };
        if here > 0 {
            let at = rng.below(WORDS - here);
            all.push(((first + n) % SIDES, at..at + here));
        }
        left -= here;
    }
    all
}

/// What a revoke in the middle left of the piece whose region it took.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Revoked {
    No,
    /// All of it is there: it may have ended before.
    Arrived,
    Missing,
}

/// How a list may end, by what its engine says that it did to it.
fn is_fair(status: Status, failed: u64, refused: u64, revoked: Revoked) -> bool {
    match status {
        Status::Done => failed == 0 && refused == 0,
        Status::Device(5) => failed > 0 && refused == 0,
        // Of its pieces only some were pushed; or the queue was stopped for a piece that ended meanwhile, and the others
        // with it.
        Status::Aborted => refused > 0 || revoked == Revoked::Arrived,
        Status::Revoked => revoked != Revoked::No,
        _ => false,
    }
}

struct Lists<E: Engine> {
    channel: Channel<E>,
    from: Vec<Place>,
    to: Vec<Place>,
    mishaps: Mishaps,
}

impl<E: Engine> Lists<E> {
    /// One list, from its submit to its end. False: it can't go on.
    fn turn(&mut self, world: &World, rng: &mut Rng) -> bool {
        let words = 1 + rng.below(24);
        let (from, to) = (pieces(words, rng), pieces(words, rng));
        let spans = |side: &[Place], pieces: &[Piece]| -> Vec<Span<Shared>> {
            pieces.iter().map(|(place, words)| side[*place].span(words)).collect()
        };
        let list = OpList::copy(&spans(&self.from, &from), &spans(&self.to, &to)).cookie(words);
        let before = self.mishaps.read();
        match self.channel.pin().map(|mut section| section.submit_list(&list)) {
            Ok(Submit::Queued(_)) => {}
            Ok(Submit::Full) => return true,
            other => {
                wrong(Wrong::Other, 1, || format!("a list of {from:?} to {to:?}: {other:?}"));
                return false;
            }
        }
        // The last piece's region, which any other may be before in the list.
        let revoked = rng.one_in(8).then(|| to[to.len() - 1].0);
        let mut gone = None;
        if let Some(at) = revoked {
            let by = Deadline { cancel: Duration::ZERO, force: Duration::from_secs(10) };
            match self.to[at].region.revoke(Cause::User, by).wait() {
                Ok(report) if report.is_clean() => gone = Some(self.to[at].now()),
                other => wrong(Wrong::Other, 1, || format!("a list's revoke: {other:?}")),
            }
            add(&DONE.revokes, 1);
        }
        let Some(end) = self.end(words) else { return false };
        let after = self.mishaps.read();
        let (failed, refused) = (after.0 - before.0, after.1 - before.1);
        let wanted = self.wanted(&from, &to);
        let left = revoked.map_or(Revoked::No, |at| {
            let now = self.to[at].now();
            let arrived = wanted[at].iter().all(|(word, value)| now[*word as usize] == *value);
            if arrived { Revoked::Arrived } else { Revoked::Missing }
        });
        if !is_fair(end.status, failed, refused, left) {
            wrong(Wrong::Other, 1, || {
                format!("{end:?}: {failed} parts failed, {refused} were refused, revoked {revoked:?}")
            });
        }
        if let (Some(at), Some(then)) = (revoked, gone) {
            if self.to[at].now() != then {
                wrong(Wrong::LateWrite, 1, || "a list went on after a region of it was revoked".to_owned());
            }
        }
        self.check(end, words, wanted, || format!("{from:?} to {to:?}"));
        let Some(at) = revoked else { return true };
        let made = Place::new(world, 2 << 32);
        made.map(|place| self.to[at] = place).is_some()
    }

    /// Polls until it has ended.
    fn end(&mut self, cookie: u64) -> Option<Completion> {
        let (begun, mut out) = (Instant::now(), [Completion::EMPTY; 4]);
        while begun.elapsed() < Duration::from_secs(10) {
            let n = self.channel.pin().map_or(0, |mut section| section.poll(&mut out));
            match &out[..n] {
                [] => std::thread::yield_now(),
                [end] if end.cookie == cookie => {
                    add(&DONE.operations, 1);
                    return Some(*end);
                }
                other => {
                    wrong(Wrong::Twice, 1, || format!("of one list: {other:?}"));
                    return None;
                }
            }
        }
        wrong(Wrong::Lost, 1, || format!("a list of {cookie} words never completed"));
        None
    }

    /// By place, the words that a list writes, and what.
    fn wanted(&self, from: &[Piece], to: &[Piece]) -> Vec<Vec<(u64, u64)>> {
        let mut values = from.iter().flat_map(|(place, at)| {
            let (words, at) = (&self.from[*place].words, at.clone());
            at.map(move |word| words[word as usize])
        });
        let mut wanted = vec![Vec::new(); SIDES];
        for (place, at) in to {
            wanted[*place].extend(at.clone().zip(values.by_ref()));
        }
        wanted
    }

    /// Every word is where it belongs, and no other has changed.
    fn check(
        &mut self,
        end: Completion,
        words: u64,
        wanted: Vec<Vec<(u64, u64)>>,
        list: impl Fn() -> String,
    ) {
        let done = end.status == Status::Done;
        if done && u64::from(end.len) != words * 8 {
            wrong(Wrong::Other, 1, || format!("{end:?} of a list of {words} words"));
        }
        for (place, wanted) in self.to.iter_mut().zip(wanted) {
            let now = place.now();
            for (word, value) in wanted {
                let word = word as usize;
                // Of a list that failed any part may have been done.
                if now[word] == value || !done {
                    place.words[word] = now[word];
                }
            }
            if now != place.words {
                wrong(Wrong::Other, 1, || format!("{end:?}: not what {} leaves", list()));
                place.words = now;
            }
        }
    }
}

fn play<E: Engine>(world: &World, engine: E, mishaps: Mishaps, rng: &mut Rng) {
    let reach = if mishaps.is_of_device() { Reach::Shared } else { Reach::Process };
    let seat = Seat { domain: world.domain, reach, gate: None };
    let depth = ChannelConfig::depth(8);
    let made = world.fabric.place_channel(&world.fabric.poller("lists"), engine, depth, seat);
    let places = |first: u64| (0..SIDES as u64).map(|n| Place::new(world, first | n << 16)).collect();
    let sides: (Option<Vec<_>>, Option<Vec<_>>) = (places(1 << 40), places(1 << 32));
    let (Ok(channel), (Some(from), Some(to))) = (made, sides) else { return };
    add(&DONE.channels, 1);
    let mut lists = Lists { channel, from, to, mishaps };
    for _ in 0..100 {
        if world.stopped() || !lists.turn(world, rng) {
            break;
        }
    }
}

/// Lists on every sort of engine: whole, split, and split in the middle.
pub(crate) fn copy(world: &World, stream: u64) {
    let mut rng = world.rng(stream);
    while !world.stopped() {
        let inner = Rng::new(rng.next(), stream);
        match rng.below(3) {
            0 => play(world, Eager::new(inner), Mishaps::default(), &mut rng),
            1 => play(world, Cpu::new(64), Mishaps::default(), &mut rng),
            _ => {
                let engine = Shuffled::clumsy(inner);
                let mishaps = engine.mishaps();
                play(world, engine, mishaps, &mut rng);
            }
        }
        std::thread::yield_now();
    }
}
