//! `nvme-gpu`: a picture on an NVMe namespace streams into a GPU's VRAM, interrupted four times. See `interruptions.rs`
//! for the story; this is the command around it.

use crate::command::{self, Options, Verdict};
use crate::interruptions::{self, COUNT, Frames, Interruption};
use crate::nvme_rig::{Goal, NvmeRig};
use crate::rig::{Rig, StoryError};
use crate::timeline::Timeline;
use crate::{Stage, picture, played};
use clap::Parser;
use serde::Serialize;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate::p2p::Backend;

/// The word that selects this story.
pub const NAME: &str = "nvme-gpu";

/// Reads a picture from an NVMe namespace into a GPU's VRAM by peer-to-peer DMA, then into the memory buffer of another NVMe
/// controller, four times each. In the middle of it the target is unbound, the target is reset, the reading controller is
/// reset, the target's memory decoding is switched off and on.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Args {
    #[command(flatten)]
    options: Options,
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

impl Verdict for Line {
    fn holds(&self) -> bool {
        self.targets.len() == Goal::ALL.len() && self.targets.iter().all(Told::holds)
    }

    fn summary(&self) -> String {
        format!(
            "a picture of {} bytes, {} targets, {} interruptions, {} violations; what a stranger finds is {}",
            self.bytes,
            self.targets.len(),
            self.targets.iter().map(|told| told.interruptions.len()).sum::<usize>(),
            self.violations,
            if self.sha256_ok { "identical each time" } else { "DIFFERENT" }
        )
    }
}

pub fn main(words: Vec<OsString>) -> ExitCode {
    let Args { options } = Args::parse_from(words);
    command::tell(NAME, &options, |interrupted, told| run(&options, interrupted, told))
}

fn run(options: &Options, interrupted: &Arc<AtomicBool>, told: &mut Timeline) -> Result<Line, StoryError> {
    let (picture, negative) = (picture::vram(), picture::negative());
    let data = [&picture[..], &negative[..]].concat();
    let frames =
        Frames { picture: (0..picture.len(), &picture), negative: (picture.len()..data.len(), &negative) };
    let mut targets = Vec::new();
    for goal in Goal::ALL {
        told.say(format!("target: {}", goal.name()));
        let (interruptions, violations) = match options.backend {
            Stage::Soft => tell(options, &NvmeRig::soft(&data, goal, interrupted.clone())?, &frames, told)?,
            Stage::Vfio => tell(options, &NvmeRig::vfio(&data, goal, interrupted.clone())?, &frames, told)?,
        };
        targets.push(Told { target: goal.name(), violations, interruptions });
    }
    Ok(Line {
        v: 1,
        story: NAME,
        backend: options.backend_name(),
        engine: "nvme",
        platform: options.platform.name(),
        tsm: "emulated",
        bytes: picture.len() as u64,
        sha256_ok: targets.iter().flat_map(|told| &told.interruptions).all(|one| one.identical),
        violations: targets.iter().map(|told| told.violations).sum(),
        targets,
    })
}

fn tell<B: Backend>(
    options: &Options,
    rig: &NvmeRig<B>,
    frames: &Frames<'_>,
    told: &mut Timeline,
) -> Result<(Vec<Interruption>, u64), StoryError> {
    let story = interruptions::play(rig, frames, &options.provider(), told);
    let interruptions = played([rig.initiator(), rig.target()], story, told)?;
    Ok((interruptions, rig.violations()))
}
