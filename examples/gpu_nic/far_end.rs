//! `far-end`: the host's side of the demo in the guest. It is the other end of the guest's wire, and looks at the guest's screen
//! and at what QEMU saw on the wire, when the guest asks for it. Started by `ci/vm run --beside`.

use super::far::{Back, Far, shown};
use super::screen::{Monitor, compare, keep};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Error, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The word that selects this program.
pub const NAME: &str = "far-end";
/// QEMU makes its sockets within that time.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest frame on QEMU's wire.
const LONGEST: usize = 1 << 16;

#[expect(clippy::print_stderr, reason = "a command")]
pub fn main(_: Vec<OsString>) -> ExitCode {
    let (Some(at), Some(out)) = (std::env::var_os("TIDEGATE_BESIDE"), std::env::var_os("TIDEGATE_OUT"))
    else {
        eprintln!("{NAME}: started by ci/vm run --beside, which sets TIDEGATE_BESIDE and TIDEGATE_OUT");
        return ExitCode::from(2);
    };
    match run(&PathBuf::from(at), &PathBuf::from(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(at: &Path, out: &Path) -> std::io::Result<()> {
    let place = at.join("far");
    // Of an earlier boot.
    drop(std::fs::remove_file(&place));
    let wire = UnixDatagram::bind(&place)?;
    let far = Arc::new(Mutex::new(Far::new(0)));
    let mut monitor = Monitor::new(connect(&at.join("monitor"))?)?;
    let guest = connect(&at.join("port"))?;
    let (near, heard) = (at.join("near"), far.clone());
    std::thread::spawn(move || serve(&wire, &near, &heard));
    let mut answers = guest.try_clone()?;
    for question in BufReader::new(guest).lines() {
        let question = question?;
        let answer = match question.split_once(' ').map(|(what, pass)| (what, pass.parse())) {
            Some(("screen", Ok(pass))) => screen(&mut monitor, pass, at, out).map(|()| "same".to_owned()),
            Some(("returned", Ok(pass))) => {
                returned(&far, pass, &at.join("wire.pcap"), out).map(|twice| format!("same {twice}"))
            }
            _ => Err(format!("not understood: {question}")),
        };
        writeln!(answers, "{}", answer.unwrap_or_else(|why| why))?;
    }
    Ok(())
}

/// Connects to a socket that QEMU makes as it starts.
fn connect(at: &Path) -> std::io::Result<UnixStream> {
    let since = Instant::now();
    loop {
        match UnixStream::connect(at) {
            Err(error) if since.elapsed() > PATIENCE => {
                return Err(Error::other(format!("{}: {error}", at.display())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
            connected => return connected,
        }
    }
}

/// The far end, until the program ends. A send waits while the guest takes nothing.
fn serve(wire: &UnixDatagram, near: &Path, far: &Mutex<Far>) {
    let mut frame = vec![0; LONGEST];
    while let Ok(len) = wire.recv(&mut frame) {
        let answers = far.lock().unwrap_or_else(PoisonError::into_inner).hear(&frame[..len]);
        for answer in answers {
            // A wire may lose it: then it is asked for again.
            drop(wire.send_to(&answer, near));
        }
    }
}

fn screen(monitor: &mut Monitor, pass: u8, at: &Path, out: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let pixels = monitor.dump(&at.join("screen.ppm")).map_err(told)?;
    keep(&pixels, &out.join(format!("screen-{pass}.png"))).map_err(told)?;
    compare(&pixels, &shown(pass))
}

/// What the far end got, and apart from it what QEMU's filter saw on the wire. Rows that went over it twice.
fn returned(far: &Mutex<Far>, pass: u8, capture: &Path, out: &Path) -> Result<u64, String> {
    far.lock().unwrap_or_else(PoisonError::into_inner).back().check(pass)?;
    let bytes = std::fs::read(capture).map_err(|error| format!("{}: {error}", capture.display()))?;
    std::fs::copy(capture, out.join("wire.pcap")).map_err(|error| error.to_string())?;
    let mut seen = Back::default();
    frames(&bytes)?.into_iter().for_each(|frame| seen.take(frame));
    seen.check(pass).map_err(|why| format!("in the capture, {why}"))
}

/// The frames of a capture (pcap, microseconds, as QEMU writes it on a little-endian machine).
fn frames(bytes: &[u8]) -> Result<Vec<&[u8]>, String> {
    let word = |at: usize| {
        bytes.get(at..at + 4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    };
    if word(0) != Some(0xa1b2_c3d4) {
        return Err("the capture is no pcap".to_owned());
    }
    let (mut frames, mut at) = (Vec::new(), 24);
    // Time, time, bytes here, bytes on the wire.
    while let Some(len) = word(at + 8) {
        let start = at + 16;
        let end = start + len as usize;
        // QEMU may be writing the last one.
        let Some(frame) = bytes.get(start..end) else { break };
        frames.push(frame);
        at = end;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_read_up_to_its_last_whole_frame() {
        let mut bytes = vec![0; 24];
        bytes[..4].copy_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
        for frame in [&b"one"[..], b"second"] {
            bytes.extend([0; 8]);
            bytes.extend([(frame.len() as u32).to_le_bytes(); 2].concat());
            bytes.extend(frame);
        }
        assert_eq!(frames(&bytes), Ok(vec![&b"one"[..], b"second"]));
        assert_eq!(frames(&bytes[..bytes.len() - 1]), Ok(vec![&b"one"[..]]));
        assert_eq!(frames(&bytes[..24]), Ok(vec![]));
        assert!(frames(&bytes[1..]).is_err() && frames(&[]).is_err());
    }
}
