//! The network controller's queue: rows into VRAM, by a poll-mode thread. Out of it: `send.rs`.
//!
//! A wire may lose and reorder frames, and where a row lands is decided by the buffer that is next, not by its header. So
//! buffers are posted in the order of the rows, and the far end is asked for rows in the order of the buffers. A frame whose
//! header (in host memory: the device splits it off) names another row than its buffer's was put in a wrong place; that
//! buffer's row has to come again. Then no new row's buffer is posted until the wire has been silent for a while, and the far end
//! is asked anew for the rows of all buffers that still wait. Silence means nothing while there is no buffer, since frames wait
//! for one; so if need be a spare one in host memory is posted, and a frame asked for that will end it.

use super::frame::{ASKED, HEADER, Header, Kind, LONGEST, ROW, ROWS, Side, send};
use super::rows::Rows;
use crate::rig::StoryError;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate::core::{
    Access, Channel, ChannelConfig, Completion, Handle, Memory, Op, OpList, Pinned, Poller, Region, Seized,
    Shared, Span, Status, Submit, Ticket,
};
use tidegate::p2p::engine::igb::{Igb, IgbEngine};
use tidegate::p2p::{Backend, Device, Domain};

/// Buffers posted at most, and frames being sent while nothing interrupts.
pub const WINDOW: usize = 32;
/// Frames being sent at most.
pub(super) const SENDING: usize = 2 * WINDOW;
/// Requests under way at most.
const REQUESTS: usize = 8;
/// Rows are asked for that many at once, unless fewer are left.
const BATCH: usize = 8;
/// A silence of the wire after which what is missing is asked for again; doubled each time, up to the longest.
const SILENCE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_SILENCE: Duration = Duration::from_secs(1);
/// After so long without a row the stream gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Host memory: headers that came, headers that go, requests, and the answer of the far end.
const HEADERS_IN: u64 = 0;
pub(super) const HEADERS_OUT: u64 = HEADERS_IN + (WINDOW * HEADER) as u64;
const REQUEST: u64 = 256;
pub(super) const REQUESTS_AT: u64 = HEADERS_OUT + (SENDING * HEADER) as u64;
pub(super) const ANSWER: u64 = REQUESTS_AT + REQUESTS as u64 * REQUEST;
const HOST: u64 = ANSWER + (HEADER + LONGEST) as u64;

/// The row that a spare buffer gets.
const SPARE: u16 = 0;

/// Cookies: what an operation was, and its slot.
pub(super) const FRAME_IN: u64 = 1 << 32;
pub(super) const FRAME_OUT: u64 = 2 << 32;
pub(super) const ASK: u64 = 3 << 32;

/// Bytes of a window that holds the picture: a buffer must have room for the longest frame.
pub fn window_len() -> u64 {
    (usize::from(ROWS) * ROW + HEADER) as u64
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
    pub(super) host: Region<Shared>,
    pub(super) channel: Option<Channel<IgbEngine<B>>>,
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

    pub(super) fn span(&self, at: u64, len: usize) -> Span<Shared> {
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
                    rows.count();
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
                    false => rows.next(),
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
            let stop = !open || rows.is_stopped();
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
        let mut quota = rows.quota().saturating_sub(under_way);
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
}

/// Was it accepted? `open` falls where the window or the channel is gone.
pub(super) fn accepted(answer: Submit, open: &mut bool) -> Result<bool, StoryError> {
    match answer {
        Submit::Queued(_) => return Ok(true),
        Submit::Full => {}
        Submit::Stale(_) | Submit::Closed(_) => *open = false,
        Submit::Denied(flow) => return Err(StoryError::Denied(flow)),
    }
    Ok(false)
}
