//! `tidegate tdisp requester`: the acceptance cases, put to a command that answers TDISP on a pipe.

use super::super::Ended;
use super::hex::{self, Hex};
use super::number;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;
use tidegate_tdisp::requester::{Transport, TransportError};
use tidegate_tdisp::validator::{CASES, Keys, Terms, Verdict};
use tidegate_tdisp::wire::spdm::Protocol;
use tidegate_tdisp::wire::{FunctionId, LockFlags};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Each message, in and out, begins with the PCI protocol id, 01
    #[arg(long)]
    with_protocol_id: bool,
    /// FUNCTION_ID of the TDI that is asked about
    #[arg(long, value_name = "F", default_value = "0x100", value_parser = number::<u32>)]
    function_id: u32,
    /// The id of its default stream
    #[arg(long, value_name = "N", default_value = "0", value_parser = number::<u8>)]
    stream: u8,
    /// The flags of a LOCK, of which those that the peer does not support are left out
    #[arg(long, value_name = "MASK", default_value = "0x1", value_parser = number::<u16>)]
    flags: u16,
    /// CMD starts a device that has IDE keys or needs none: a LOCK that fails is its failure, and V3.2 is not posed
    #[arg(long, conflicts_with = "without_keys")]
    with_keys: bool,
    /// CMD starts a device that needs IDE and has no keys: a LOCK that succeeds is its failure
    #[arg(long)]
    without_keys: bool,
    /// How long a response may take. A peer whose output goes through a buffer must flush it after each line
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = number::<u32>)]
    timeout: u32,
    /// The command that answers: `tidegate tdisp responder`, or another that speaks as it does
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Puts every case to a new process of the command, and says what came of it.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> io::Result<Ended> {
    let terms = Terms {
        stream: arguments.stream,
        flags: LockFlags::from_bits_truncate(arguments.flags),
        keys: match (arguments.with_keys, arguments.without_keys) {
            (true, _) => Keys::There,
            (_, true) => Keys::Missing,
            _ => Keys::Unknown,
        },
        ..Terms::new(FunctionId::from_bits(arguments.function_id))
    };
    let (mut passed, mut failed, mut not_posed) = (0, 0, 0);
    for case in &CASES {
        let verdict = match Pipe::open(arguments) {
            Ok(pipe) => case.run(pipe, &terms),
            Err(error) => Verdict::NotPosed(format!("{:?} cannot be started: {error}", arguments.command)),
        };
        match &verdict {
            Verdict::Pass => passed += 1,
            Verdict::Fail(_) => failed += 1,
            // Also what may come to be: it is no pass.
            _ => not_posed += 1,
        }
        let (id, promise) = (case.id, case.promise);
        match &verdict {
            Verdict::Pass => writeln!(out, "{id} pass: {promise}")?,
            Verdict::Fail(why) => writeln!(out, "{id} fail: {promise}: {why}")?,
            Verdict::NotPosed(why) => writeln!(out, "{id} not posed: {promise}: {why}")?,
            other => writeln!(out, "{id} not posed: {promise}: {other}")?,
        }
        out.flush()?;
    }
    writeln!(out, "{passed} pass, {failed} fail, {not_posed} not posed")?;
    Ok(if failed == 0 && passed > 0 { Ended::Well } else { Ended::Badly })
}

/// The most bytes of a line: no message of TDISP needs as many digits.
const LONGEST: u64 = 1 << 18;

/// A process of the command, in a group of its own. The group ends with this: what the command started as well.
struct Pipe {
    child: Child,
    requests: ChildStdin,
    /// Lines of its stdout; a thread reads them, because a pipe's read has no time-out.
    responses: Receiver<Result<String, TransportError>>,
    timeout: Duration,
    with_protocol_id: bool,
}

impl Pipe {
    fn open(arguments: &Arguments) -> io::Result<Pipe> {
        let (program, rest) = arguments.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        let command = command.args(rest).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(requests), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        // One response is awaited at a time; a peer that says more waits until somebody looks, or nobody does any more.
        let (lines, responses) = sync_channel(1);
        let mut output = BufReader::new(output);
        std::thread::spawn(move || while lines.send(line(&mut output)).is_ok() {});
        let timeout = Duration::from_secs(arguments.timeout.into());
        Ok(Pipe { child, requests, responses, timeout, with_protocol_id: arguments.with_protocol_id })
    }
}

impl Transport for Pipe {
    fn exchange(&mut self, request: &[u8], response: &mut Vec<u8>) -> Result<(), TransportError> {
        let id: &[u8] = if self.with_protocol_id { &[u8::from(Protocol::Tdisp)] } else { &[] };
        let message = Hex([id, request].concat());
        writeln!(self.requests, "{message}").and_then(|()| self.requests.flush()).map_err(closed)?;
        let line = match self.responses.recv_timeout(self.timeout) {
            Ok(line) => line?,
            Err(RecvTimeoutError::Timeout) => return Err(TransportError::TimedOut),
            Err(RecvTimeoutError::Disconnected) => return Err(TransportError::Closed),
        };
        response.clear();
        if line.trim() == "-" {
            return Err(TransportError::NoResponse);
        }
        let bytes = hex::parse(&line).ok();
        let message = bytes.as_ref().and_then(|Hex(bytes)| bytes.strip_prefix(id)).filter(|m| !m.is_empty());
        response.extend(message.ok_or_else(|| garbled(&line))?);
        Ok(())
    }

    fn pause(&mut self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

/// The next line, without its end.
fn line(output: &mut impl BufRead) -> Result<String, TransportError> {
    let mut line = Vec::new();
    output.take(LONGEST).read_until(b'\n', &mut line).map_err(closed)?;
    let text = String::from_utf8_lossy(&line);
    match line.last() {
        Some(b'\n') => Ok(text.trim_end().into()),
        // The last line may have no end; one that has none yet is too long.
        Some(_) if (line.len() as u64) < LONGEST => Ok(text.into()),
        Some(_) => Err(garbled(&text)),
        None => Err(TransportError::Closed),
    }
}

/// What a line says that is no message: as much of it as tells which.
fn garbled(line: &str) -> TransportError {
    let shown: String = line.chars().take(40).collect();
    let rest = if shown.len() < line.len() { ".." } else { "" };
    TransportError::Garbled { what: format!("{shown:?}{rest}") }
}

fn closed(error: io::Error) -> TransportError {
    match error.raw_os_error() {
        Some(errno) if error.kind() != io::ErrorKind::BrokenPipe => TransportError::Os { op: "pipe", errno },
        _ => TransportError::Closed,
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A group that is gone already is what is wanted. Its number is the child's, which is nobody else's before `wait`.
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.child.wait();
    }
}
