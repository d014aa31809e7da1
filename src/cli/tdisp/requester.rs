//! `tidegate tdisp requester`: the acceptance cases, put to a command that answers TDISP on a pipe.

use super::super::Ended;
use super::hex::{self, Hex};
use super::number;
use clap::Args;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;
use tidegate_tdisp::requester::{Transport, TransportError};
use tidegate_tdisp::validator::{CASES, Terms, Verdict};
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
    /// CMD starts a device that needs IDE and has no keys: V3.2 is posed, and what needs a lock is not
    #[arg(long)]
    without_keys: bool,
    /// How long a response may take
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
        keys: !arguments.without_keys,
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

/// A process of the command. It ends with this.
struct Pipe {
    child: Child,
    requests: ChildStdin,
    /// Lines of its stdout; a thread reads them, because a pipe's read has no time-out.
    responses: Receiver<io::Result<String>>,
    timeout: Duration,
    with_protocol_id: bool,
}

impl Pipe {
    fn open(arguments: &Arguments) -> io::Result<Pipe> {
        let (program, rest) = arguments.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        let mut child = command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(requests), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        // One response is awaited at a time; a peer that says more waits until somebody looks, or nobody does any more.
        let (lines, responses) = sync_channel(1);
        std::thread::spawn(move || BufReader::new(output).lines().try_for_each(|line| lines.send(line)));
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
            Ok(line) => line.map_err(closed)?,
            Err(RecvTimeoutError::Timeout) => return Err(TransportError::TimedOut),
            Err(RecvTimeoutError::Disconnected) => return Err(TransportError::Closed),
        };
        response.clear();
        // `-` is a message of no bytes, which no response is; a line that is no hex is none either.
        if let Ok(Hex(bytes)) = hex::parse(&line) {
            response.extend(bytes.strip_prefix(id).unwrap_or(&[]));
        }
        Ok(())
    }

    fn pause(&mut self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

fn closed(error: io::Error) -> TransportError {
    match error.raw_os_error() {
        Some(errno) if error.kind() != io::ErrorKind::BrokenPipe => TransportError::Os { op: "pipe", errno },
        _ => TransportError::Closed,
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A process that is gone already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
