//! Prints the SHA-256 of the first N bytes of a file, a memfd (`/proc/PID/fd/N`) or a BAR
//! (`/sys/bus/pci/devices/BDF/resourceN`). It uses nothing of the library: an independent reader.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::process::ExitCode;

#[expect(unsafe_code, reason = "reads memory that devices write, word by word")]
fn digest(path: &str, len: usize) -> Result<String, String> {
    let file = File::options().read(true).write(true).open(path).map_err(|e| format!("{path}: {e}"))?;
    let map =
        memmap2::MmapOptions::new().len(len).map_raw(&file).map_err(|e| format!("{path}: mmap: {e}"))?;
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < len {
        // A BAR is read in aligned words, whatever the length; a mapping is whole pages.
        // SAFETY: 1. `at < len`, a multiple of 4, and the mapping's last page is whole.
        let word = unsafe { map.as_ptr().add(at) }.cast::<u32>();
        // SAFETY: 1. in the mapping and aligned; volatile, no reference is made.
        let bytes = unsafe { word.read_volatile() }.to_ne_bytes();
        hash.update(&bytes[..(len - at).min(4)]);
        at += 4;
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(path), Some(len)) = (args.first(), args.get(1).and_then(|n| n.parse().ok())) else {
        eprintln!("usage: bar-digest PATH BYTES: SHA-256 of the first BYTES of a file, memfd or BAR");
        return ExitCode::from(2);
    };
    match digest(path, len) {
        Ok(hex) => {
            println!("{hex}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("bar-digest: {why}");
            ExitCode::from(2)
        }
    }
}
