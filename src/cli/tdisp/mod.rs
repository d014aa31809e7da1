//! `tidegate tdisp`: messages of TDISP and IDE_KM for people and for programs.

mod field;
mod frame;
mod hex;
mod ide_km;
mod layer;
mod message;
mod requester;
mod responder;
#[cfg(test)]
mod tests;

use super::Ended;
use clap::{Args, Subcommand};
use frame::Framing;
use hex::Hex;
use serde_json::Value;
use std::io::{self, Read, Write};

/// Shows messages of TDISP and IDE_KM, writes them, and speaks TDISP as a device or as its host does.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Prints a message of TDISP or IDE_KM as JSON.
    ///
    /// HEX is the message with the PCI protocol id in front (01 for TDISP, 00 for IDE_KM), or with --doe or --spdm what is around it. A
    /// code that has no name is shown as a number; what is reserved and not zero is shown under `reserved`, by its offset. A message
    /// whose length is wrong is refused with exit code 1. Nonces and keys are shown. `-` in place of HEX reads the hex from stdin, where it
    /// may be longer than an argument.
    ///
    /// Changes nothing. Next: `tidegate tdisp encode` makes the same bytes of the JSON again.
    Decode {
        /// The bytes; spaces between them do not matter. `-` for those on stdin
        #[arg(value_name = "HEX", value_parser = given)]
        bytes: Given,
        /// A data object of a DOE mailbox: discovery, SPDM in the clear, or a sealed record
        #[arg(long, conflicts_with = "spdm")]
        doe: bool,
        /// An SPDM message
        #[arg(long)]
        spdm: bool,
    },
    /// Reads what `decode` printed on stdin and prints the same bytes again, in hex.
    ///
    /// Several documents one after the other give a line each. A field that is missing, or that no such message has, is refused with
    /// exit code 1.
    ///
    /// Changes nothing. Next: `tidegate tdisp decode` shows what the bytes say.
    Encode,
    /// Answers TDISP on a pipe, as a device does: one message in hex a line on stdin, its response a line on stdout.
    ///
    /// `-` stands where there is no response. The device has one TDI, in CONFIG_UNLOCKED; nothing of it is ever in flight. The lines
    /// `!flr`, `!mse-clear`, `!bme-clear`, `!ide-fail` and `!session-end` make that event happen and are answered by no line; messages
    /// after `!session-end` come through a new session. A line that is neither a message nor an event ends it with exit code 1.
    ///
    /// Changes nothing. Next: `tidegate tdisp decode` shows what the responses say.
    Responder(responder::Arguments),
    /// Puts the acceptance cases of the public TEE-IO validator (V1.1 to V7.3) to a command that answers TDISP on a pipe, as
    /// `tidegate tdisp responder` does.
    ///
    /// CMD is started anew for each case and ended after it, with all that it started; it must be a device with its TDI in
    /// CONFIG_UNLOCKED. Each case gives a line: `pass`, `fail` with the reason, or `not posed` where the peer could not be brought to the
    /// question. Exit code 0 where something passes and nothing fails.
    ///
    /// V3.2 needs a device without IDE keys, and no message on the pipe takes keys away or programs them. So it is posed where the
    /// fresh device refuses a LOCK with INVALID_REQUEST and no other stream id can be locked either; V3.1 and what needs a lock is not
    /// posed then. A device that has keys and cannot be locked looks the same: --with-keys makes it fail. One that can be locked has
    /// keys or needs none: V3.2 is not posed, unless --without-keys says that it should not have been locked.
    ///
    /// Changes nothing but what CMD does. Next: `tidegate tdisp decode` shows what a message says.
    Requester(requester::Arguments),
}

/// Where the bytes of a message come from.
#[derive(Debug, Clone)]
enum Given {
    Here(Hex),
    OnStdin,
}

fn given(text: &str) -> Result<Given, String> {
    if text == "-" { Ok(Given::OnStdin) } else { hex::parse(text).map(Given::Here) }
}

pub(crate) fn run(
    arguments: &Arguments,
    input: &mut impl Read,
    out: &mut impl Write,
    complaints: &mut impl Write,
) -> io::Result<Ended> {
    match &arguments.verb {
        Verb::Decode { bytes, doe, spdm } => {
            let framing = match (doe, spdm) {
                (true, _) => Framing::Doe,
                (_, true) => Framing::Spdm,
                _ => Framing::Protocol,
            };
            let bytes = match bytes {
                Given::Here(bytes) => bytes.clone(),
                Given::OnStdin => match hex::parse(&io::read_to_string(input)?) {
                    Ok(bytes) => bytes,
                    Err(why) => return refused(complaints, &why),
                },
            };
            match frame::decode(&bytes.0, framing) {
                Ok(document) => writeln!(out, "{document:#}")?,
                Err(problem) => return refused(complaints, &problem.0),
            }
        }
        Verb::Encode => {
            for document in serde_json::Deserializer::from_reader(input).into_iter::<Value>() {
                let bytes = match document {
                    Ok(document) => frame::encode(&document),
                    Err(error) => return refused(complaints, &format!("this is no JSON: {error}")),
                };
                match bytes {
                    Ok(bytes) => writeln!(out, "{}", Hex(bytes))?,
                    Err(problem) => return refused(complaints, &problem.0),
                }
            }
        }
        Verb::Requester(arguments) => return requester::run(arguments, out),
        Verb::Responder(arguments) => return responder::run(arguments, input, out, complaints),
    }
    Ok(Ended::Well)
}

/// A number in decimal or, with 0x in front, in hexadecimal.
fn number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let number = parsed.map_err(|error| format!("{text:?}: {error}"))?;
    T::try_from(number).map_err(|_| format!("{text} is too large"))
}

fn refused(complaints: &mut impl Write, why: &str) -> io::Result<Ended> {
    writeln!(complaints, "{why}")?;
    Ok(Ended::Badly)
}
