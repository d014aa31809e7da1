//! `nvme-gpu`: a picture on an NVMe namespace streams into a GPU's VRAM, interrupted four times. See `interruptions.rs`
//! for the story; this is the command around it.

use crate::interruptions::{self, COUNT, Frames, Interruption};
use crate::nvme_rig::{Goal, NvmeRig};
use crate::rig::StoryError;
use crate::timeline::Timeline;
use crate::{Stage, picture, played};
use clap::Parser;
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate::core::tdi::TrustDomain;
use tidegate::p2p::Backend;
use tidegate::tdisp::platform::PlatformKind;
use tidegate::tdisp::tdi::Provider;

/// The word that selects this story.
pub const NAME: &str = "nvme-gpu";

/// Reads a picture from an NVMe namespace into a GPU's VRAM by peer-to-peer DMA, then into the memory buffer of another NVMe
/// controller, four times each. In the middle of it the target is unbound, the target is reset, the reading controller is
/// reset, the target's memory decoding is switched off and on.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Args {
    /// Whose order of teardown: tdx, cca or soft.
    #[arg(long, default_value = "tdx")]
    platform: PlatformKind,
    /// The modelled fabric, or VFIO and iommufd of the running kernel.
    #[arg(long, value_enum, default_value_t = Stage::Soft)]
    backend: Stage,
    /// One line of JSON on stdout; the timeline goes to stderr either way.
    #[arg(long)]
    json: bool,
    /// Writes the timeline as trace events, for chrome://tracing or Perfetto.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// The line for machines.
#[derive(Debug, Serialize)]
struct Line {
    v: u32,
    story: &'static str,
    backend: &'static str,
    engine: &'static str,
    platform: &'static str,
    tsm: &'static str,
    bytes: u64,
    sha256_ok: bool,
    violations: u64,
    targets: Vec<Told>,
}

/// What was told of one target.
#[derive(Debug, Serialize)]
struct Told {
    target: &'static str,
    violations: u64,
    interruptions: Vec<Interruption>,
}

impl Told {
    fn holds(&self) -> bool {
        self.violations == 0
            && self.interruptions.len() == COUNT
            && self.interruptions.iter().all(Interruption::holds)
    }
}

impl Line {
    fn holds(&self) -> bool {
        self.targets.len() == Goal::ALL.len() && self.targets.iter().all(Told::holds)
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command")]
pub fn main(words: Vec<OsString>) -> ExitCode {
    let args = Args::parse_from(words);
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, interrupted.clone()) {
            eprintln!("nvme-gpu: signal handler: {error}");
            return ExitCode::from(2);
        }
    }
    let mut told = Timeline::new(false);
    let line = run(&args, &interrupted, &mut told);
    if let Some(path) = &args.trace {
        let written = told.trace().map_err(std::io::Error::from).and_then(|text| std::fs::write(path, text));
        if let Err(error) = written {
            eprintln!("nvme-gpu: {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    match line {
        Ok(line) => {
            if args.json {
                println!("{}", serde_json::to_string(&line).unwrap_or_default());
            } else {
                println!(
                    "{}: a picture of {} bytes, {} targets, {} interruptions, {} violations; what a stranger finds is {}",
                    if line.holds() { "OK" } else { "FAILED" },
                    line.bytes,
                    line.targets.len(),
                    line.targets.iter().map(|told| told.interruptions.len()).sum::<usize>(),
                    line.violations,
                    if line.sha256_ok { "identical each time" } else { "DIFFERENT" }
                );
            }
            if line.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("nvme-gpu: {error}");
            ExitCode::from(if matches!(error, StoryError::Interrupted) { 130 } else { 2 })
        }
    }
}

fn run(args: &Args, interrupted: &Arc<AtomicBool>, told: &mut Timeline) -> Result<Line, StoryError> {
    told.say("tsm: emulated (no trust is claimed; see docs/threat-model.md)");
    let (picture, negative) = (picture::vram(), picture::negative());
    let data = [&picture[..], &negative[..]].concat();
    let frames =
        Frames { picture: (0..picture.len(), &picture), negative: (picture.len()..data.len(), &negative) };
    let mut targets = Vec::new();
    for goal in Goal::ALL {
        told.say(format!("target: {}", goal.name()));
        let (interruptions, violations) = match args.backend {
            Stage::Soft => tell(args, &NvmeRig::soft(&data, goal, interrupted.clone())?, &frames, told)?,
            Stage::Vfio => tell(args, &NvmeRig::vfio(&data, goal, interrupted.clone())?, &frames, told)?,
        };
        targets.push(Told { target: goal.name(), violations, interruptions });
    }
    Ok(Line {
        v: 1,
        story: NAME,
        backend: if args.backend == Stage::Vfio { "vfio" } else { "soft" },
        engine: "nvme",
        platform: args.platform.name(),
        tsm: "emulated",
        bytes: picture.len() as u64,
        sha256_ok: targets.iter().flat_map(|told| &told.interruptions).all(|one| one.identical),
        violations: targets.iter().map(|told| told.violations).sum(),
        targets,
    })
}

fn tell<B: Backend>(
    args: &Args,
    rig: &NvmeRig<B>,
    frames: &Frames<'_>,
    told: &mut Timeline,
) -> Result<(Vec<Interruption>, u64), StoryError> {
    let provider = Provider::soft(args.platform, TrustDomain(1), |report| !report.ranges.is_empty());
    let interruptions = played(rig, interruptions::play(rig, frames, &provider, told), told)?;
    Ok((interruptions, rig.violations()))
}
