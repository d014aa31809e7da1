//! `gpu-nic`: a picture comes off a network wire into a display's VRAM and goes back, interrupted four times each way. See
//! `story.rs` for the story; this is the command around it.

mod far;
pub mod far_end;
mod frame;
mod kernel;
mod port;
mod rows;
mod screen;
mod send;
mod stage;
mod story;

use crate::command::{self, Options, Verdict};
use crate::interruptions::{COUNT, Interruption};
use crate::rig::StoryError;
use crate::timeline::Timeline;
use crate::{Stage, picture, played};
use clap::Parser;
use kernel::KernelStage;
use serde::Serialize;
use stage::{SoftStage, Theatre};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use story::{Tale, Way};

/// The word that selects this story.
pub const NAME: &str = "gpu-nic";

/// Receives a picture as packets into a display's VRAM by peer-to-peer DMA, and sends it back from there, four times. In the
/// middle of each way the display's TDI is unbound, the display is reset, the network controller is reset, or the display's
/// memory decoding is switched off and on.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// On the modelled fabric: of N rows, either way, the wire delays, loses and repeats one each, on average. 0: a good wire.
    #[arg(long, value_name = "N", default_value_t = 0)]
    spoil: u64,
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
    vram_mappings: u64,
    register_mappings: u64,
    interruptions: Vec<Interruption>,
}

impl Verdict for Line {
    fn holds(&self) -> bool {
        self.sha256_ok
            && self.violations == 0
            && self.vram_mappings == 0
            // On the kernel the controller's registers are mapped: a look that does not see them is blind.
            && (self.register_mappings > 0 || self.backend == "soft")
            && self.interruptions.len() == Way::ALL.len() * COUNT
            && self.interruptions.iter().all(Interruption::holds)
    }

    fn summary(&self) -> String {
        format!(
            "a picture of {} bytes, {} interruptions, half of them on the way back, {} violations, {} mappings of VRAM; what the \
             screen showed and what went back is {}",
            self.bytes,
            self.interruptions.len(),
            self.violations,
            self.vram_mappings,
            if self.sha256_ok { "identical each time" } else { "DIFFERENT" }
        )
    }
}

pub fn main(words: Vec<OsString>) -> ExitCode {
    let args = Args::parse_from(words);
    command::tell(NAME, &args.options, |interrupted, told| match args.options.backend {
        Stage::Soft => run(&SoftStage::new(args.spoil)?, &args.options, interrupted, told),
        Stage::Vfio => run(&KernelStage::new()?, &args.options, interrupted, told),
    })
}

fn run<S: Theatre>(
    stage: &S,
    options: &Options,
    interrupted: &AtomicBool,
    told: &mut Timeline,
) -> Result<Line, StoryError> {
    let tale = story::play(stage, &options.provider(), interrupted, told);
    let tale = played([stage.controller(), stage.display()], tale, told)?;
    let Tale { interruptions, looks, vram_mappings, register_mappings } = tale;
    told.say(format!(
        "/proc/self/maps was read {looks} times mid-stream: {vram_mappings} mappings of VRAM, {register_mappings} of other BARs"
    ));
    Ok(Line {
        v: 1,
        story: NAME,
        backend: options.backend_name(),
        engine: "igb",
        platform: options.platform.name(),
        tsm: "emulated",
        bytes: u64::from(picture::WIDTH * picture::HEIGHT * picture::PIXEL),
        sha256_ok: interruptions.iter().all(|one| one.identical),
        violations: stage.violations(),
        vram_mappings,
        register_mappings,
        interruptions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_that_interrupts_one_way_only_does_not_hold() {
        let told = |interruptions| Line {
            v: 1,
            story: NAME,
            backend: "soft",
            engine: "igb",
            platform: "tdx",
            tsm: "emulated",
            bytes: 1,
            sha256_ok: true,
            violations: 0,
            vram_mappings: 0,
            register_mappings: 0,
            interruptions,
        };
        let some = |count| (0..count).map(|_| Interruption::that_holds()).collect();
        assert!(told(some(2 * COUNT)).holds());
        assert!(!told(some(COUNT)).holds());
    }
}
