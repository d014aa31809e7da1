//! `unbind [FILE]`: a file streams into a GPU by peer-to-peer DMA, the GPU is unbound in the middle of it, and the
//! rest follows in shared mode. See `unbind.rs` for the story itself. `nvme-gpu`: see `nvme_gpu.rs`; `gpu-nic`: see `gpu_nic/`.

#![allow(missing_docs, unreachable_pub, reason = "a program")]

mod command;
mod display;
mod gpu_nic;
mod interruptions;
mod nvme_gpu;
mod nvme_rig;
mod picture;
mod rig;
mod soft_rig;
mod stream;
mod timeline;
mod unbind;
mod vfio_rig;

use clap::{Parser, ValueEnum};
use rig::{Rig, StoryError};
use sha2::{Digest, Sha256};
use soft_rig::SoftRig;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate::core::Cause;
use tidegate::core::tdi::TrustDomain;
use tidegate::p2p::{Backend, Device};
use tidegate::tdisp::platform::PlatformKind;
use tidegate::tdisp::tdi::Provider;
use timeline::{Line, Tale, Timeline};
use vfio_rig::{TARGETS, Target, VfioRig};

/// edu moves 20 KB/s, one descriptor at a time.
const VFIO_LIMIT: u64 = 1 << 20;
const VFIO_DEFAULT: usize = 64 << 10;
const SOFT_LIMIT: u64 = 256 << 20;

/// Streams FILE into a GPU's VRAM by peer-to-peer DMA, unbinds the GPU in the middle, and goes on in shared mode.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// `unbind` (the story; may be left out), then the file. Default: a file of a few MiB of this machine.
    #[arg(value_name = "[unbind] FILE", num_args = 0..=2)]
    words: Vec<PathBuf>,
    /// Whose order of teardown: tdx, cca or soft.
    #[arg(long, default_value = "tdx")]
    platform: PlatformKind,
    /// The modelled fabric, or VFIO and iommufd of the running kernel.
    #[arg(long, value_enum, default_value_t = Stage::Soft)]
    backend: Stage,
    /// One line of JSON on stdout; the timeline goes to stderr either way.
    #[arg(long)]
    json: bool,
    /// Don't emulate a TSM: on vfio the private import is refused then (exit code 3).
    #[arg(long)]
    no_emulate_tsm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    Soft,
    Vfio,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command")]
fn main() -> ExitCode {
    // Wherever it stands among the options: `--json nvme-gpu` too. A file of such a name is `./nvme-gpu`.
    let mut words: Vec<_> = std::env::args_os().collect();
    type Story = fn(Vec<std::ffi::OsString>) -> ExitCode;
    let stories: [(&str, Story); 3] = [
        (nvme_gpu::NAME, nvme_gpu::main),
        (gpu_nic::NAME, gpu_nic::main),
        (gpu_nic::far_end::NAME, gpu_nic::far_end::main),
    ];
    for (name, story) in stories {
        if let Some(at) = words.iter().skip(1).position(|word| word == name) {
            words.remove(at + 1);
            return story(words);
        }
    }
    let args = Args::parse_from(words);
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, interrupted.clone()) {
            eprintln!("unbind: signal handler: {error}");
            return ExitCode::from(2);
        }
    }
    let data = match read(&args) {
        Ok(data) => data,
        Err(why) => {
            eprintln!("unbind: {why}");
            return ExitCode::from(2);
        }
    };
    match run(&args, data, &interrupted) {
        Ok(line) => {
            if args.json {
                println!("{}", serde_json::to_string(&line).unwrap_or_default());
            } else {
                println!("{}", summary(&line));
            }
            if line.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(StoryError::Interrupted) => {
            eprintln!("unbind: {}", StoryError::Interrupted);
            ExitCode::from(130)
        }
        Err(StoryError::Library(error)) if error.downcast_ref().is_some_and(is_no_tsm) => {
            eprintln!("unbind: {error}");
            ExitCode::from(3)
        }
        Err(error) => {
            eprintln!("unbind: {error}");
            ExitCode::from(2)
        }
    }
}

fn is_no_tsm(error: &tidegate::p2p::ImportError) -> bool {
    *error == tidegate::p2p::ImportError::NoTrustedTable
}

fn summary(line: &Line) -> String {
    format!(
        "{}: {} bytes, {} in flight at unbind = {} drained + {} revoked + {} failed, {} violations, quiesced in {} us, \
         unbound in {} us, {}",
        if line.holds() { "OK" } else { "FAILED" },
        line.bytes,
        line.in_flight_at_unbind,
        line.drained,
        line.revoked,
        line.failed,
        line.violations,
        line.quiesce_us,
        line.unbind_us,
        if line.sha256_ok { "file and VRAM are identical" } else { "file and VRAM DIFFER" }
    )
}

/// The file to stream; what is wrong with it otherwise.
fn read(args: &Args) -> Result<Vec<u8>, String> {
    let mut words = args.words.as_slice();
    if words.first().is_some_and(|w| w == Path::new("unbind")) {
        words = &words[1..];
    }
    if words.len() > 1 {
        return Err(format!("one file, not {}: see --help", words.len()));
    }
    let limit = if args.backend == Stage::Vfio { VFIO_LIMIT } else { SOFT_LIMIT };
    let (path, keep) = match words.first() {
        Some(path) => (path.clone(), usize::MAX),
        None => (default_file()?, if args.backend == Stage::Vfio { VFIO_DEFAULT } else { 8 << 20 }),
    };
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let size = std::fs::metadata(&path).map_err(at)?.len();
    if size == 0 {
        return Err(format!("{}: empty", path.display()));
    }
    if size > limit && keep == usize::MAX {
        let why =
            if args.backend == Stage::Vfio { ": edu moves 20 KB/s, one descriptor at a time" } else { "" };
        return Err(format!("{}: {size} bytes, at most {limit} are taken{why}", path.display()));
    }
    let mut data = std::fs::read(&path).map_err(at)?;
    data.truncate(keep);
    Ok(data)
}

/// A real file of a few MiB: this program.
fn default_file() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("no default file: {error}"))
}

fn run(args: &Args, data: Vec<u8>, interrupted: &Arc<AtomicBool>) -> Result<Line, StoryError> {
    let mut told = Timeline::new(false);
    told.say(match (args.backend, args.no_emulate_tsm) {
        (Stage::Vfio, true) => "tsm: none (private windows will be refused)",
        _ => "tsm: emulated (no trust is claimed; see docs/threat-model.md)",
    });
    let provider = || Provider::soft(args.platform, TrustDomain(1), |report| !report.ranges.is_empty());
    let sha = hex(&data);
    let bytes = data.len() as u64;
    match args.backend {
        Stage::Soft => {
            let rig = SoftRig::new(data.clone(), interrupted.clone())?;
            let tale = unbind::play(&rig, &data, &provider(), &mut told);
            let tale = played([rig.initiator(), rig.target()], tale, &mut told)?;
            let same = outside(&rig.outside(), data.len()) == Some(sha);
            told.say(if same {
                "an outside reader finds the file in VRAM"
            } else {
                "an outside reader finds other bytes"
            });
            Ok(line(args, "softnic", bytes, same, rig.violations(), tale))
        }
        Stage::Vfio => {
            let mut lines = Vec::new();
            for target in TARGETS {
                told.say(format!("target: {}", target.name));
                lines.push(vfio(args, &data, &sha, target, &provider(), interrupted, &mut told)?);
            }
            let other = lines.pop();
            let mut first = lines.pop().ok_or(StoryError::Poller)?;
            if let Some(other) = other {
                // One line for both targets: the steps are the first one's, the verdicts both's.
                first.sha256_ok &= other.holds();
                first.violations += other.violations;
            }
            Ok(first)
        }
    }
}

/// A story that ended early (SIGINT, an error) leaves quiet devices behind all the same.
fn played<B: Backend, T>(
    devices: [&Device<B>; 2],
    result: Result<T, StoryError>,
    told: &mut Timeline,
) -> Result<T, StoryError> {
    if result.is_err() {
        for device in devices {
            match device.quiesce(Cause::User, unbind::BY).map(|quiesce| quiesce.wait()) {
                Ok(Ok(quiet)) => told.quiesced(&device.address().to_string(), quiet.report()),
                // Closed already, by the part of the story that was told.
                Ok(Err(_)) | Err(_) => told.say(format!("{} was quiet already", device.address())),
            }
        }
    }
    result
}

fn vfio(
    args: &Args,
    data: &[u8],
    sha: &str,
    target: Target,
    provider: &Provider,
    interrupted: &Arc<AtomicBool>,
    told: &mut Timeline,
) -> Result<Line, StoryError> {
    let faults = vfio_rig::dmar_faults();
    let rig = VfioRig::new(data, target, !args.no_emulate_tsm, interrupted.clone())?;
    let tale = unbind::play(&rig, data, provider, told);
    let tale = played([rig.initiator(), rig.target()], tale, told)?;
    let same = outside(&rig.outside(), data.len()).as_deref() == Some(sha);
    told.say(if same {
        "an outside reader finds the file in the BAR"
    } else {
        "an outside reader finds other bytes"
    });
    let violations = vfio_rig::dmar_faults().saturating_sub(faults) + u64::from(!same);
    Ok(line(args, "edu", data.len() as u64, same, violations, tale))
}

fn line(args: &Args, engine: &'static str, bytes: u64, sha256_ok: bool, violations: u64, tale: Tale) -> Line {
    let (steps, step_us) = tale.steps.into_iter().unzip();
    Line {
        v: 1,
        story: "unbind",
        backend: if args.backend == Stage::Vfio { "vfio" } else { "soft" },
        engine,
        platform: args.platform.name(),
        tsm: "emulated",
        bytes,
        sha256_ok,
        in_flight_at_unbind: tale.in_flight,
        drained: tale.drained,
        revoked: tale.revoked,
        failed: tale.failed,
        violations,
        steps,
        step_us,
        quiesce_us: tale.quiesce_us,
        unbind_us: tale.unbind_us,
        recovered: tale.recovered,
    }
}

fn hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

/// What a program that uses nothing of the library reads there.
fn outside(path: &str, len: usize) -> Option<String> {
    let reader = std::env::current_exe().ok()?.with_file_name("bar-digest");
    let output = Command::new(reader).arg(path).arg(len.to_string()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
