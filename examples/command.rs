//! The command around a story with a picture: options, signals, the trace, the line at the end, the exit code.

use crate::Stage;
use crate::rig::StoryError;
use crate::timeline::Timeline;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate::core::tdi::TrustDomain;
use tidegate::tdisp::platform::PlatformKind;
use tidegate::tdisp::tdi::Provider;

/// What each of them takes.
#[derive(Debug, Args)]
pub struct Options {
    /// Whose order of teardown: tdx, cca or soft.
    #[arg(long, default_value = "tdx")]
    pub platform: PlatformKind,
    /// The modelled fabric, or VFIO and iommufd of the running kernel.
    #[arg(long, value_enum, default_value_t = Stage::Soft)]
    pub backend: Stage,
    /// One line of JSON on stdout; the timeline goes to stderr either way.
    #[arg(long)]
    json: bool,
    /// Writes the timeline as trace events, for chrome://tracing or Perfetto.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

impl Options {
    /// The emulated platform.
    pub fn provider(&self) -> Provider {
        Provider::soft(self.platform, TrustDomain(1), |report| !report.ranges.is_empty())
    }

    /// The backend's name, for the line.
    pub fn backend_name(&self) -> &'static str {
        if self.backend == Stage::Vfio { "vfio" } else { "soft" }
    }
}

/// The line for machines.
pub trait Verdict: Serialize {
    /// Everything that the story promises holds.
    fn holds(&self) -> bool;
    /// The line for people, behind the verdict.
    fn summary(&self) -> String;
}

/// Tells a story: 0 if it holds, 1 if not, 2 if it could not be told, 130 after SIGINT.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command")]
pub fn tell<V: Verdict>(
    name: &str,
    options: &Options,
    story: impl FnOnce(&Arc<AtomicBool>, &mut Timeline) -> Result<V, StoryError>,
) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, interrupted.clone()) {
            eprintln!("{name}: signal handler: {error}");
            return ExitCode::from(2);
        }
    }
    let mut told = Timeline::new(false);
    told.say("tsm: emulated (no trust is claimed; see docs/threat-model.md)");
    let line = story(&interrupted, &mut told);
    if let Some(path) = &options.trace {
        let written = told.trace().map_err(std::io::Error::from).and_then(|text| std::fs::write(path, text));
        if let Err(error) = written {
            eprintln!("{name}: {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    match line {
        Ok(line) => {
            if options.json {
                println!("{}", serde_json::to_string(&line).unwrap_or_default());
            } else {
                println!("{}: {}", if line.holds() { "OK" } else { "FAILED" }, line.summary());
            }
            if line.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(if matches!(error, StoryError::Interrupted) { 130 } else { 2 })
        }
    }
}
