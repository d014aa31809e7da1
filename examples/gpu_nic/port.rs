//! The network controller's queue: rows into VRAM, rows out of it, by a poll-mode thread.
//!
//! A wire may lose and reorder frames, and where a row lands is decided by the buffer that is next, not by its header. So
//! buffers are posted in the order of the rows, and the far end is asked for rows in the order of the buffers. A frame whose
//! header (in host memory: the device splits it off) names another row than its buffer's was put in a wrong place; that
//! buffer's row has to come again. Then no new row's buffer is posted until the wire has been silent for a while, and the far end
//! is asked anew for the rows of all buffers that still wait. Silence means nothing while there is no buffer, since frames wait
//! for one; so if need be a spare one in host memory is posted, and a frame asked for that will end it.

use super::frame::{ASKED, HEADER, Header, Kind, LONGEST, ROW, ROWS, Side, send};
use crate::rig::StoryError;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate::core::{
    Access, Channel, ChannelConfig, Completion, Handle, Memory, Op, OpList, Pinned, Poller, Region, Seized,
    Shared, Span, Status, Submit, Ticket,
};
use tidegate::p2p::engine::igb::{Igb, IgbEngine};
use tidegate::p2p::{Backend, Device, Domain};

/// Buffers posted, and frames being sent, at most.
pub const WINDOW: usize = 32;
/// Requests under way at most.
const REQUESTS: usize = 8;
/// Rows are asked for that many at once, unless fewer are left.
const BATCH: usize = 8;
/// A silence of the wire after which what is missing is asked for again; doubled each time, up to the longest.
const SILENCE: Duration = Duration::from_millis(50);
const LONGEST_SILENCE: Duration = Duration::from_secs(1);
/// After so long without a row the stream gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Host memory: headers that came, headers that go, requests, and the answer of the far end.
const HEADERS_IN: u64 = 0;
const HEADERS_OUT: u64 = HEADERS_IN + (WINDOW * HEADER) as u64;
const REQUEST: u64 = 256;
const REQUESTS_AT: u64 = HEADERS_OUT + (WINDOW * HEADER) as u64;
const ANSWER: u64 = REQUESTS_AT + REQUESTS as u64 * REQUEST;
const HOST: u64 = ANSWER + (HEADER + LONGEST) as u64;

/// The row that a spare buffer gets.
const SPARE: u16 = 0;

/// Cookies: what an operation was, and its slot.
const FRAME_IN: u64 = 1 << 32;
const FRAME_OUT: u64 = 2 << 32;
const ASK: u64 = 3 << 32;

/// Bytes of a window that holds the picture: a buffer must have room for the longest frame.
pub fn window_len() -> u64 {
    (usize::from(ROWS) * ROW + HEADER) as u64
}

/// Which rows of a pass still have to come; shared with whoever interrupts the stream.
pub struct Rows {
    pub pass: u8,
    /// Last first.
    left: Mutex<Vec<u16>>,
    came: AtomicUsize,
    /// Rows that may come in this leg.
    quota: AtomicUsize,
    stop: AtomicBool,
}

impl Rows {
    pub fn new(pass: u8) -> Rows {
        Rows {
            pass,
            left: Mutex::new((0..ROWS).rev().collect()),
            came: AtomicUsize::new(0),
            quota: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Rows that came in this leg so far.
    pub fn came(&self) -> usize {
        self.came.load(Ordering::Acquire)
    }

    pub fn left(&self) -> usize {
        self.lock().len()
    }

    /// A new leg, in which that many rows may come. Buffers are posted for more.
    pub fn begin(&self, quota: usize) {
        self.came.store(0, Ordering::Release);
        self.quota.store(quota, Ordering::Release);
        self.stop.store(false, Ordering::Release);
    }

    /// The leg ends as soon as nothing is in flight.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u16>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn again(&self, rows: impl IntoIterator<Item = u16>) {
        let mut left = self.lock();
        left.extend(rows);
        left.sort_unstable_by(|a, b| b.cmp(a));
    }
}

/// A buffer in the ring.
struct Posted {
    /// `None`: a spare one, in host memory. It gets [`SPARE`].
    row: Option<u16>,
    slot: usize,
    asked: bool,
}

/// The queue, and what of host memory it needs.
pub struct Port<B: Backend> {
    device: Device<B>,
    poller: Arc<Poller>,
    host: Region<Shared>,
    channel: Option<Channel<IgbEngine<B>>>,
    /// What the device said has come in this leg.
    done: Vec<(Ticket, u16)>,
}

impl<B: Backend> Port<B> {
    pub fn new(domain: &Domain<B>, device: &Device<B>) -> Result<Port<B>, StoryError> {
        let memory = Memory::allocate("headers", HOST.next_multiple_of(4096))?;
        let host = domain.register(memory.backing(), Access::ReadWrite)?;
        let poller = domain.fabric().poller("stream");
        Ok(Port { device: device.clone(), poller, host, channel: None, done: Vec::new() })
    }

    /// Opens the queue if it is not open. After a quiesce of the device its channel is over, and a new one has to be made.
    pub fn open(&mut self) -> Result<(), StoryError> {
        if self.channel.as_mut().is_some_and(|channel| channel.closed().is_some()) {
            self.channel = None;
        }
        if self.channel.is_none() {
            let since = Instant::now();
            while self.device.gate().channels() > 0 {
                if since.elapsed() > PATIENCE {
                    return Err(StoryError::Reset(
                        "the network controller's former queue does not end".to_owned(),
                    ));
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            // Both stages route by the root complex, and nobody else resets the target.
            let driver = Igb::queue(0).frames(LONGEST as u32).split(HEADER as u32).through_root_complex();
            self.channel = Some(self.device.channel(&self.poller, driver, ChannelConfig::depth(255))?);
        }
        Ok(())
    }

    fn span(&self, at: u64, len: usize) -> Span<Shared> {
        self.host.handle().span(at..at + len as u64)
    }

    /// Receives what is left of a pass into the window, until all of it is there, the quota is used up and somebody says
    /// stop, or the window or the queue is taken away. `wanted`: does the user want to go on?
    pub fn receive(
        &mut self,
        rows: &Rows,
        window: Handle<Shared>,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), StoryError> {
        let mut channel = self.channel.take().ok_or(StoryError::Poller)?;
        let result = self.receive_on(&mut channel, rows, window, wanted);
        self.channel = Some(channel);
        result
    }

    fn receive_on(
        &mut self,
        channel: &mut Channel<IgbEngine<B>>,
        rows: &Rows,
        window: Handle<Shared>,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), StoryError> {
        let mut posted: VecDeque<Posted> = VecDeque::new();
        let mut slots: Vec<usize> = (0..WINDOW).collect();
        let mut requests: Vec<u64> = (0..REQUESTS as u64).collect();
        let (mut open, mut astray) = (true, false);
        let (mut heard, mut silence, mut progress) = (Instant::now(), SILENCE, Instant::now());
        let mut out = [Completion::EMPTY; WINDOW];
        loop {
            let channel_is_open = channel.closed().is_none();
            open &= wanted() && channel_is_open;
            let Ok(mut pinned) = channel.pin().map_err(|Seized| std::thread::yield_now()) else { continue };
            let n = pinned.poll(&mut out);
            for completion in out.iter().take(n) {
                let slot = completion.cookie as u32 as usize;
                if completion.cookie & !0xffff_ffff != FRAME_IN {
                    requests.push(slot as u64);
                    continue;
                }
                let Some(at) = posted.iter().position(|posted| posted.slot == slot) else { continue };
                let Some(Posted { row, .. }) = posted.remove(at) else { continue };
                slots.push(slot);
                if completion.status != Status::Done {
                    rows.again(row);
                    continue;
                }
                heard = Instant::now();
                if !self.is_row(slot, rows.pass, row.unwrap_or(SPARE), completion.len)? {
                    rows.again(row);
                    astray = true;
                } else if let Some(row) = row {
                    self.done.push((completion.ticket, row));
                    rows.came.fetch_add(1, Ordering::Release);
                    (silence, progress) = (SILENCE, heard);
                }
            }
            let waits = astray || posted.iter().any(|posted| posted.asked || posted.row.is_none());
            if waits && !posted.is_empty() && heard.elapsed() > silence {
                posted.iter_mut().for_each(|posted| posted.asked = false);
                (astray, silence, heard) = (false, (2 * silence).min(LONGEST_SILENCE), Instant::now());
            }
            while open && !slots.is_empty() {
                let row = match astray {
                    true if !posted.is_empty() => break,
                    true => None,
                    false => rows.lock().pop(),
                };
                if row.is_none() && !astray {
                    break;
                }
                let slot = slots.pop().unwrap_or_default();
                let list = OpList::read(0, &self.buffer(slot, row, window)).cookie(FRAME_IN | slot as u64);
                if !accepted(pinned.submit_list(&list), &mut open)? {
                    slots.push(slot);
                    rows.again(row);
                    break;
                }
                posted.push_back(Posted { row, slot, asked: false });
            }
            if !astray && channel_is_open {
                self.ask(&mut pinned, rows, &mut posted, &mut requests)?;
            }
            pinned.ring();
            let stop = !open || rows.stop.load(Ordering::Acquire);
            if posted.is_empty() && requests.len() == REQUESTS && (stop || rows.left() == 0) {
                return Ok(());
            }
            if progress.elapsed() > PATIENCE {
                return Err(StoryError::Silence { pass: rows.pass, left: rows.left() + posted.len() });
            }
        }
    }

    /// A buffer's header and payload.
    fn buffer(&self, slot: usize, row: Option<u16>, window: Handle<Shared>) -> [Span<Shared>; 2] {
        let header = self.span(HEADERS_IN + (slot * HEADER) as u64, HEADER);
        let payload = row.map(|row| u64::from(row) * ROW as u64);
        let payload = payload.map(|start| window.span(start..start + LONGEST as u64));
        [header, payload.unwrap_or_else(|| self.span(ANSWER + HEADER as u64, LONGEST))]
    }

    /// Asks for what posted buffers wait for, in their order, as far as the quota goes.
    fn ask(
        &self,
        pinned: &mut Pinned<'_, IgbEngine<B>>,
        rows: &Rows,
        posted: &mut VecDeque<Posted>,
        requests: &mut Vec<u64>,
    ) -> Result<(), StoryError> {
        let under_way = posted.iter().filter(|posted| posted.asked && posted.row.is_some()).count();
        // What was asked for in vain does not count.
        let mut quota = rows.quota.load(Ordering::Acquire).saturating_sub(rows.came() + under_way);
        let none_is_asked = posted.iter().all(|posted| !posted.asked);
        let asked: Vec<u16> = posted
            .iter()
            .filter(|posted| !posted.asked)
            .map_while(|posted| match posted.row {
                None => Some(SPARE),
                row if quota > 0 => {
                    quota -= 1;
                    row
                }
                _ => None,
            })
            .take(ASKED)
            .collect();
        if asked.is_empty() || (asked.len() < BATCH && !none_is_asked && rows.left() > 0) {
            return Ok(());
        }
        let Some(slot) = requests.pop() else { return Ok(()) };
        let frame = send(rows.pass, &asked);
        let at = REQUESTS_AT + slot * REQUEST;
        self.host.write(at, &frame)?;
        let op = Op::write(self.span(at, frame.len()), 0).cookie(ASK | slot);
        // Where the channel closes its buffers end too.
        if !accepted(pinned.submit(op), &mut false)? {
            requests.push(slot);
            return Ok(());
        }
        posted
            .iter_mut()
            .filter(|posted| !posted.asked)
            .take(asked.len())
            .for_each(|posted| posted.asked = true);
        Ok(())
    }

    /// Is what came in that slot that row of that pass?
    fn is_row(&self, slot: usize, pass: u8, row: u16, len: u32) -> Result<bool, StoryError> {
        let mut header = [0; HEADER];
        self.host.read(HEADERS_IN + (slot * HEADER) as u64, &mut header)?;
        let expected = Header { from: Side::Far, pass, kind: Kind::Row(row) };
        Ok(len as usize == LONGEST && Header::decode(&header) == Some(expected))
    }

    /// What an interrupted leg leaves: rows that nothing confirms come again. Rows that stay.
    pub fn settle(&mut self, rows: &Rows) -> usize {
        let confirmed = self.channel.as_mut().map_or(Ticket(0), Channel::confirmed);
        let (real, doubtful): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.done).into_iter().partition(|(ticket, _)| *ticket <= confirmed);
        rows.again(doubtful.into_iter().map(|(_, row)| row));
        real.len()
    }

    /// All rows of a pass were compared on the screen: that confirms them.
    pub fn forget(&mut self) {
        self.done.clear();
    }

    /// Sends every row out of the window, until the far end says that it has them all.
    pub fn send(
        &mut self,
        pass: u8,
        window: Handle<Shared>,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), StoryError> {
        let mut channel = self.channel.take().ok_or(StoryError::Poller)?;
        let mut missing: Vec<u16> = (0..ROWS).collect();
        let (since, mut result) = (Instant::now(), Ok(()));
        while result.is_ok() && !missing.is_empty() {
            result = self.send_rows(&mut channel, pass, &missing, window).and_then(|()| {
                missing = self.missing(&mut channel, pass, wanted)?;
                match (wanted(), since.elapsed() > PATIENCE) {
                    (false, _) => Err(StoryError::Interrupted),
                    (true, true) => Err(StoryError::Silence { pass, left: missing.len() }),
                    (true, false) => Ok(()),
                }
            });
        }
        self.channel = Some(channel);
        result
    }

    fn send_rows(
        &self,
        channel: &mut Channel<IgbEngine<B>>,
        pass: u8,
        rows: &[u16],
        window: Handle<Shared>,
    ) -> Result<(), StoryError> {
        let (mut slots, mut rows) = ((0..WINDOW as u64).collect::<Vec<_>>(), rows.iter().copied().peekable());
        let mut out = [Completion::EMPTY; WINDOW];
        while rows.peek().is_some() || slots.len() < WINDOW {
            let Ok(mut pinned) = channel.pin().map_err(|Seized| std::thread::yield_now()) else { continue };
            let n = pinned.poll(&mut out);
            for completion in out.iter().take(n) {
                done(completion)?;
                slots.push(completion.cookie & !FRAME_OUT);
            }
            while let (Some(row), Some(slot)) = (rows.peek().copied(), slots.last().copied()) {
                let (at, start) = (HEADERS_OUT + slot * HEADER as u64, u64::from(row) * ROW as u64);
                self.host.write(at, &Header { from: Side::Near, pass, kind: Kind::Row(row) }.encode())?;
                let pieces = [self.span(at, HEADER), window.span(start..start + ROW as u64)];
                let list = OpList::write(&pieces, 0).cookie(FRAME_OUT | slot);
                let mut open = true;
                if !accepted(pinned.submit_list(&list), &mut open)? {
                    break;
                }
                if !open {
                    return Err(StoryError::Poller);
                }
                rows.next();
                slots.pop();
            }
        }
        Ok(())
    }

    /// Asks the far end which rows it has; those it has not.
    fn missing(
        &self,
        channel: &mut Channel<IgbEngine<B>>,
        pass: u8,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<u16>, StoryError> {
        let question = Header { from: Side::Near, pass, kind: Kind::Which }.encode();
        let answer = Header { from: Side::Far, pass, kind: Kind::Have };
        let header = self.span(ANSWER, HEADER);
        let payload = ANSWER + HEADER as u64;
        let buffer = OpList::read(0, &[header, self.span(payload, LONGEST)]).cookie(FRAME_IN);
        let (mut posted, mut asked, since) = (false, None::<Instant>, Instant::now());
        let mut out = [Completion::EMPTY; 2];
        let mut asking = false;
        loop {
            let Ok(mut pinned) = channel.pin().map_err(|Seized| std::thread::yield_now()) else { continue };
            let n = pinned.poll(&mut out);
            for completion in out.iter().take(n) {
                done(completion)?;
                if completion.cookie == ASK {
                    asking = false;
                    continue;
                }
                posted = false;
                let mut bytes = [0; HEADER];
                self.host.read(ANSWER, &mut bytes)?;
                let mut bits = [0; ROWS.div_ceil(8) as usize];
                // Another frame: a row that was late.
                if Header::decode(&bytes) == Some(answer) && completion.len as usize == HEADER + bits.len() {
                    self.host.read(payload, &mut bits)?;
                    let has = |row: &u16| bits[usize::from(row / 8)] & 1 << (row % 8) != 0;
                    return Ok((0..ROWS).filter(|row| !has(row)).collect());
                }
            }
            let mut open = true;
            if !posted {
                posted = accepted(pinned.submit_list(&buffer), &mut open)?;
            }
            if !asking && asked.is_none_or(|since| since.elapsed() > LONGEST_SILENCE) {
                self.host.write(REQUESTS_AT, &question)?;
                asking = accepted(
                    pinned.submit(Op::write(self.span(REQUESTS_AT, HEADER), 0).cookie(ASK)),
                    &mut open,
                )?;
                asked = Some(Instant::now());
            }
            if !open || !wanted() || since.elapsed() > PATIENCE {
                return Err(if wanted() {
                    StoryError::Silence { pass, left: 1 }
                } else {
                    StoryError::Interrupted
                });
            }
        }
    }
}

/// Was it accepted? `open` falls where the window or the channel is gone.
fn accepted(answer: Submit, open: &mut bool) -> Result<bool, StoryError> {
    match answer {
        Submit::Queued(_) => return Ok(true),
        Submit::Full => {}
        Submit::Stale(_) | Submit::Closed(_) => *open = false,
        Submit::Denied(flow) => return Err(StoryError::Denied(flow)),
    }
    Ok(false)
}

fn done(completion: &Completion) -> Result<(), StoryError> {
    match completion.status {
        Status::Done => Ok(()),
        status => Err(StoryError::Ended(status)),
    }
}
