//! `nvme-gpu`: a picture on an NVMe namespace streams into a GPU's VRAM, interrupted four times. See `interruptions.rs`
//! for the story; this is the command around it.

use crate::interruptions::{self, Interruption};
use crate::nvme_rig::NvmeRig;
use crate::rig::StoryError;
use crate::timeline::Timeline;
use crate::{hex, outside, played};
use clap::Parser;
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate::core::tdi::TrustDomain;
use tidegate::tdisp::platform::PlatformKind;
use tidegate::tdisp::tdi::Provider;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;

/// The word that selects this story.
pub const NAME: &str = "nvme-gpu";

/// Reads a picture from an NVMe namespace into a GPU's VRAM by peer-to-peer DMA, on the modelled fabric. In the middle of
/// it the GPU is unbound, the GPU is reset, the controller is reset, the GPU's memory decoding is switched off and on.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Args {
    /// Whose order of teardown: tdx, cca or soft.
    #[arg(long, default_value = "tdx")]
    platform: PlatformKind,
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
    interruptions: Vec<Interruption>,
}

impl Line {
    fn holds(&self) -> bool {
        self.sha256_ok
            && self.violations == 0
            && self.interruptions.len() == 4
            && self.interruptions.iter().all(Interruption::holds)
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
                let verdict = if line.holds() { "OK" } else { "FAILED" };
                let same = if line.sha256_ok { "identical" } else { "DIFFERENT" };
                println!(
                    "{verdict}: {} bytes, {} interruptions, {} violations; namespace and VRAM are {same}",
                    line.bytes,
                    line.interruptions.len(),
                    line.violations
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
    let data = picture();
    let rig = NvmeRig::new(&data, interrupted.clone())?;
    let provider = Provider::soft(args.platform, TrustDomain(1), |report| !report.ranges.is_empty());
    let story = interruptions::play(&rig, data.len(), &provider, told);
    let interruptions = played(&rig, story, told)?;
    let sha256_ok = rig.vram_path().is_some_and(|path| outside(&path, data.len()) == Some(hex(&data)));
    told.say(if sha256_ok {
        "an outside reader finds the picture in VRAM"
    } else {
        "an outside reader finds other bytes"
    });
    Ok(Line {
        v: 1,
        story: "nvme-gpu",
        backend: "soft",
        engine: "nvme",
        platform: args.platform.name(),
        tsm: "emulated",
        bytes: data.len() as u64,
        sha256_ok,
        violations: rig.violations(),
        interruptions,
    })
}

/// Rings on a slope of colours, 16 bits a pixel (5 red, 6 green, 5 blue), row by row.
fn picture() -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let (dx, dy) = (x.abs_diff(WIDTH / 2), y.abs_diff(HEIGHT / 3));
        let ring = (dx * dx + dy * dy) / 512 % 32;
        ((x * 31 / WIDTH) << 11 | (y * 63 / HEIGHT) << 5 | ring) as u16
    };
    (0..HEIGHT).flat_map(|y| (0..WIDTH).flat_map(move |x| pixel(x, y).to_le_bytes())).collect()
}
