//! The way back: rows out of VRAM, each a frame of a header in host memory and a payload in the window.
//!
//! What ends well has left the device, which is not to say that it came: at the end the far end is asked which rows it has, and
//! the others go again. So does a row whose frame ended in another way (withdrawn, aborted), although it may have left: then
//! the far end gets it twice.

use super::frame::{HEADER, Header, Kind, LONGEST, ROW, ROWS, Side};
use super::port::{
    ANSWER, ASK, FRAME_IN, FRAME_OUT, HEADERS_OUT, LONGEST_SILENCE, PATIENCE, Port, REQUESTS_AT, SENDING,
    WINDOW, accepted,
};
use super::rows::Rows;
use crate::rig::StoryError;
use std::time::{Duration, Instant};
use tidegate::core::{Channel, Completion, Handle, Op, OpList, Seized, Shared, Status};
use tidegate::p2p::Backend;
use tidegate::p2p::engine::igb::IgbEngine;

impl<B: Backend> Port<B> {
    /// Sends what is left of a pass out of the window, up to the quota. Then a whole window more is accepted within
    /// one section, and in it `struck` is called, which waits until a gate is closed. The doorbell rings when it returns: the
    /// device begins these frames while the drain waits for them. This thread stays away from its queue until the leg is
    /// stopped, so the drain takes it over: it counts what the device has sent by then, and withdraws the rest.
    pub fn send_until(
        &mut self,
        rows: &Rows,
        window: Handle<Shared>,
        struck: &dyn Fn(),
    ) -> Result<(), StoryError> {
        let mut channel = self.channel.take().ok_or(StoryError::Poller)?;
        let result = self.send(&mut channel, rows, window, Some(struck));
        self.channel = Some(channel);
        result.map(drop)
    }

    /// Sends what is left of a pass, until the far end says that it has all of it.
    pub fn send_rest(
        &mut self,
        rows: &Rows,
        window: Handle<Shared>,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), StoryError> {
        let mut channel = self.channel.take().ok_or(StoryError::Poller)?;
        let since = Instant::now();
        let mut until_all = || loop {
            let open = self.send(&mut channel, rows, window, None)?;
            rows.again(self.missing(&mut channel, rows.pass, wanted)?);
            match (rows.left(), open && since.elapsed() < PATIENCE) {
                (0, _) => return Ok(()),
                (left, false) => return Err(StoryError::Silence { pass: rows.pass, left }),
                (_, true) => {}
            }
        };
        let result = until_all();
        self.channel = Some(channel);
        result
    }

    /// `false`: the window or the queue is gone.
    fn send(
        &self,
        channel: &mut Channel<IgbEngine<B>>,
        rows: &Rows,
        window: Handle<Shared>,
        mut struck: Option<&dyn Fn()>,
    ) -> Result<bool, StoryError> {
        let mut slots: Vec<u64> = (0..SENDING as u64).collect();
        let mut sent = [None; SENDING];
        let (mut open, mut out, mut progress) = (true, [Completion::EMPTY; SENDING], Instant::now());
        loop {
            open &= channel.closed().is_none();
            let Ok(mut pinned) = channel.pin().map_err(|Seized| std::thread::yield_now()) else { continue };
            let n = pinned.poll(&mut out);
            for completion in out.iter().take(n) {
                let slot = completion.cookie & !FRAME_OUT;
                slots.push(slot);
                let row = sent.get_mut(slot as usize).and_then(Option::take);
                match completion.status {
                    Status::Done => rows.count(),
                    _ => rows.again(row),
                }
                progress = Instant::now();
            }
            let strike = struck.filter(|_| rows.quota() == 0);
            let spare = if strike.is_some() { 0 } else { SENDING - WINDOW };
            while open && slots.len() > spare {
                let Some(row) = rows.next() else { break };
                let slot = slots.pop().unwrap_or_default();
                let (at, start) = (HEADERS_OUT + slot * HEADER as u64, u64::from(row) * ROW as u64);
                let header = Header { from: Side::Near, pass: rows.pass, kind: Kind::Row(row) };
                self.host.write(at, &header.encode())?;
                let pieces = [self.span(at, HEADER), window.span(start..start + ROW as u64)];
                let list = OpList::write(&pieces, 0).cookie(FRAME_OUT | slot);
                if !accepted(pinned.submit_list(&list), &mut open)? {
                    slots.push(slot);
                    rows.again(Some(row));
                    break;
                }
                if let Some(place) = sent.get_mut(slot as usize) {
                    *place = Some(row);
                }
            }
            if let Some(strike) = strike {
                strike();
                (struck, open) = (None, false);
            }
            drop(pinned);
            while strike.is_some() && !rows.is_stopped() {
                std::thread::sleep(Duration::from_micros(50));
            }
            if slots.len() == SENDING && (!open || rows.left() == 0) {
                return Ok(open);
            }
            if progress.elapsed() > PATIENCE {
                return Err(StoryError::Silence {
                    pass: rows.pass,
                    left: rows.left() + SENDING - slots.len(),
                });
            }
        }
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
        let (mut asking, mut answered) = (false, None);
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
                    answered = Some((0..ROWS).filter(|row| !has(row)).collect());
                }
            }
            // Nothing of this stays in the queue.
            if let Some(missing) = answered.take_if(|_| !asking) {
                return Ok(missing);
            }
            let mut open = true;
            if !posted && answered.is_none() {
                posted = accepted(pinned.submit_list(&buffer), &mut open)?;
            }
            if !asking && answered.is_none() && asked.is_none_or(|since| since.elapsed() > LONGEST_SILENCE) {
                self.host.write(REQUESTS_AT, &question)?;
                asking = accepted(
                    pinned.submit(Op::write(self.span(REQUESTS_AT, HEADER), 0).cookie(ASK)),
                    &mut open,
                )?;
                asked = Some(Instant::now());
            }
            if !open || !wanted() || since.elapsed() > PATIENCE {
                let silence = StoryError::Silence { pass, left: 1 };
                return Err(if wanted() { silence } else { StoryError::Interrupted });
            }
        }
    }
}

fn done(completion: &Completion) -> Result<(), StoryError> {
    match completion.status {
        Status::Done => Ok(()),
        status => Err(StoryError::Ended(status)),
    }
}
