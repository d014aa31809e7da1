//! `tidegate tdisp responder`: a DSM on a pipe.

use super::super::Ended;
use super::hex::{self, Hex};
use super::{number, refused};
use clap::{Args, ValueEnum};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::str::FromStr;
use tidegate_tdisp::report::{InterfaceInfo, InterfaceReport, MmioRange, PAGE_SIZE, RangeFlags};
use tidegate_tdisp::responder::{
    Device, Entropy, Ide, NoEntropy, Objection, Responder, Scrub, Settings, SystemEntropy,
};
use tidegate_tdisp::state::event::{Event, FunctionEvent, SessionId, StreamEvent};
use tidegate_tdisp::wire::spdm::Protocol;
use tidegate_tdisp::wire::{FunctionId, LockFlags, LockRequest};

/// Bytes of address space for each BAR: as much as 32 bits of pages.
const BAR_SPACE: u64 = 1 << 44;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Each message, in and out, begins with the PCI protocol id, 01
    #[arg(long)]
    pub(super) with_protocol_id: bool,
    /// FUNCTION_ID of the one TDI; bit 24 says that bits 23:16 are its segment
    #[arg(long, value_name = "F", default_value = "0x100", value_parser = number::<u32>)]
    pub(super) function_id: u32,
    /// What protects the TDI's traffic
    #[arg(long, value_enum, default_value = "none")]
    pub(super) ide: Protection,
    /// The one id that a LOCK may name as default stream; without it, any
    #[arg(long, value_name = "N", value_parser = number::<u8>)]
    pub(super) stream: Option<u8>,
    /// The lock flags that are supported
    #[arg(long, value_name = "MASK", default_value = "0x1f", value_parser = number::<u16>)]
    pub(super) flags: u16,
    /// Pages of a BAR, after those that stand before for the same one; repeated for more. Without it `0:16:private` and `2:4:shared`
    #[arg(long, value_name = "N:PAGES:private|shared|msix")]
    pub(super) bar: Vec<Piece>,
    /// Makes the nonces foreseeable: the same seed, the same nonces. For tests only
    #[arg(long, value_name = "S", value_parser = number::<u64>)]
    pub(super) seed: Option<u64>,
}

/// What protects the TDI's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Protection {
    /// IDE is needed, and the stream has no keys: no LOCK succeeds
    Required,
    /// IDE is needed, and the stream has keys, always those of the session that the messages come through
    Keyed,
    /// IDE is not needed
    None,
}

/// Pages of a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    bar: u8,
    pages: u32,
    flags: RangeFlags,
}

impl FromStr for Piece {
    type Err = String;

    fn from_str(text: &str) -> Result<Piece, String> {
        let form = || format!("{text:?} has not the form N:PAGES:private|shared|msix");
        let words: Vec<_> = text.split(':').collect();
        let &[bar, pages, kind] = words.as_slice() else { return Err(form()) };
        let (bar, pages): (u8, u32) = (number(bar)?, number(pages)?);
        let flags = match kind {
            "private" => RangeFlags::empty(),
            "shared" => RangeFlags::NON_TEE,
            "msix" => RangeFlags::MSIX_TABLE,
            _ => return Err(form()),
        };
        match (bar, pages) {
            (6.., _) => Err(format!("a function has BARs 0 to 5, not {bar}")),
            (_, 0) => Err(form()),
            _ => Ok(Piece { bar, pages, flags }),
        }
    }
}

/// Answers the messages on `input` until it ends.
pub(super) fn run(
    arguments: &Arguments,
    input: &mut impl Read,
    out: &mut impl Write,
    complaints: &mut impl Write,
) -> io::Result<Ended> {
    let mut dsm = match Dsm::new(arguments) {
        Ok(dsm) => dsm,
        Err(why) => return refused(complaints, &why),
    };
    for (line, number) in BufReader::new(input).lines().zip(1_u64..) {
        match dsm.line(&line?) {
            Ok(Some(response)) => {
                writeln!(out, "{response}")?;
                // Whoever reads it waits for it.
                out.flush()?;
            }
            Ok(None) => {}
            Err(why) => return refused(complaints, &format!("line {number}: {why}")),
        }
    }
    Ok(Ended::Well)
}

/// A DSM with one TDI, and the session that its messages come through.
pub(super) struct Dsm {
    responder: Responder<Pipe, Nonces>,
    function: FunctionId,
    session: SessionId,
    with_protocol_id: bool,
}

impl Dsm {
    pub(super) fn new(arguments: &Arguments) -> Result<Dsm, String> {
        let function = FunctionId::from_bits(arguments.function_id);
        let session = SessionId(1);
        let ranges = ranges(&arguments.bar)?;
        let settings =
            Settings { lock_flags: LockFlags::from_bits_truncate(arguments.flags), ..Settings::default() };
        let device = Pipe { ide: arguments.ide, stream: arguments.stream, session, ranges };
        let mut responder = Responder::new(settings, device, Nonces(arguments.seed));
        responder.add(function, None).map_err(|error| error.to_string())?;
        Ok(Dsm { responder, function, session, with_protocol_id: arguments.with_protocol_id })
    }

    /// What to say to a line: `None` to an event.
    fn line(&mut self, line: &str) -> Result<Option<String>, String> {
        if let Some(event) = line.trim().strip_prefix('!') {
            self.event(event)?;
            return Ok(None);
        }
        let Hex(message) = hex::parse(line)?;
        Ok(Some(self.answer(&message).map_or("-".into(), |response| Hex(response).to_string())))
    }

    fn answer(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let (id, request) = match self.with_protocol_id {
            true => message.split_at_checked(1)?,
            false => (&[][..], message),
        };
        // IDE_KM, and what nobody knows, are not for a DSM's TDISP.
        if id.iter().any(|&id| id != u8::from(Protocol::Tdisp)) {
            return None;
        }
        let mut response = Vec::new();
        self.responder.handle(self.session, request, &mut response);
        (!response.is_empty()).then(|| [id, &response].concat())
    }

    fn event(&mut self, name: &str) -> Result<(), String> {
        let of = |event| Event::Function(self.function, event);
        let event = match name {
            "flr" => of(FunctionEvent::FunctionReset),
            "mse-clear" => of(FunctionEvent::MemorySpaceCleared),
            "bme-clear" => of(FunctionEvent::BusMasterCleared),
            "ide-fail" => match self.responder.locked(self.function) {
                Some(lock) => Event::Stream(lock.stream, StreamEvent::CheckFailed),
                // No stream is bound, so none of its events hits the TDI.
                None => return Ok(()),
            },
            "session-end" => Event::SessionEnded(self.session),
            _ => {
                let known = "!flr, !mse-clear, !bme-clear, !ide-fail and !session-end";
                return Err(format!("!{name} is none of the events {known}"));
            }
        };
        self.responder.event(event);
        if let Event::SessionEnded(SessionId(ended)) = event {
            // What comes now comes through the next one, whose keys the stream has.
            self.session = SessionId(ended.wrapping_add(1));
            self.responder.device_mut().session = self.session;
        }
        Ok(())
    }
}

/// The pieces as ranges, BAR by BAR.
fn ranges(pieces: &[Piece]) -> Result<Vec<MmioRange>, String> {
    let default = [
        Piece { bar: 0, pages: 16, flags: RangeFlags::empty() },
        Piece { bar: 2, pages: 4, flags: RangeFlags::NON_TEE },
    ];
    let mut pieces = if pieces.is_empty() { default.to_vec() } else { pieces.to_vec() };
    pieces.sort_by_key(|piece| piece.bar);
    let mut used = [0_u64; 6];
    let mut place = |piece: &Piece| {
        let used = used.get_mut(usize::from(piece.bar)).ok_or("a function has BARs 0 to 5")?;
        let first_page = (u64::from(piece.bar) + 1) * (BAR_SPACE / PAGE_SIZE) + *used;
        *used += u64::from(piece.pages);
        if *used > BAR_SPACE / PAGE_SIZE {
            return Err(format!("BAR {} has more than {BAR_SPACE:#x} bytes", piece.bar));
        }
        Ok(MmioRange { first_page, pages: piece.pages, flags: piece.flags, id: piece.bar.into() })
    };
    pieces.iter().map(&mut place).collect()
}

/// The device behind the DSM: nothing is ever in flight.
struct Pipe {
    ide: Protection,
    stream: Option<u8>,
    session: SessionId,
    ranges: Vec<MmioRange>,
}

impl Device for Pipe {
    fn ide(&self, _: FunctionId) -> Ide {
        match (self.ide, self.stream) {
            (Protection::Required, _) => Ide::Unkeyed,
            (Protection::Keyed, Some(stream)) => Ide::Keyed { stream, session: self.session },
            // Every stream has the keys of every session.
            (Protection::Keyed, None) | (Protection::None, _) => Ide::NotRequired,
        }
    }

    fn check_lock(&self, _: FunctionId, lock: &LockRequest) -> Result<(), Objection> {
        match self.stream {
            Some(stream) if stream != lock.stream => Err(Objection::Request),
            _ => Ok(()),
        }
    }

    fn describe(&self, _: FunctionId, flags: LockFlags) -> InterfaceReport {
        let mut info = InterfaceInfo::DMA_WITHOUT_PASID;
        info.set(InterfaceInfo::NO_FW_UPDATE, flags.contains(LockFlags::NO_FW_UPDATE));
        let msix = self.ranges.iter().any(|range| range.flags.contains(RangeFlags::MSIX_TABLE));
        InterfaceReport {
            info,
            // MSI-X enabled, with one entry. The DSM leaves it out where the table is not locked.
            msix_control: if msix { 0x8000 } else { 0 },
            ranges: self.ranges.clone(),
            device_info: b"tidegate".to_vec(),
            ..InterfaceReport::default()
        }
    }

    fn outstanding(&self, _: FunctionId) -> u64 {
        0
    }

    fn scrub(&mut self, _: FunctionId) -> Scrub {
        Scrub::Done
    }
}

/// The nonces: the system's, or those of a seed (SplitMix64).
struct Nonces(Option<u64>);

impl Entropy for Nonces {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        let Some(state) = &mut self.0 else { return SystemEntropy.fill(out) };
        for chunk in out.chunks_mut(8) {
            *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            chunk.iter_mut().zip((mixed ^ (mixed >> 31)).to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
