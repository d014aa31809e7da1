//! Builds of our own library with something left out, as programs of their own.

use crate::missing::Missing;
use crate::probe::Probe;
use crate::rig::Rig;
use crate::round::Round;
use crate::stats::Sorted;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Starts of each child a round: each has another layout of its memory.
const STARTS: usize = 5;

/// Paths of the program `probe` as it is, without checks, and without counters.
#[derive(Debug, Default)]
pub struct Children {
    /// As users get it.
    pub plain: Option<PathBuf>,
    /// `--cfg tidegate_unchecked`.
    pub unchecked: Option<PathBuf>,
    /// `--cfg tidegate_uncounted`.
    pub uncounted: Option<PathBuf>,
}

/// One child's figure for a series.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Where it is put.
    pub series: &'a str,
    /// Which program; `None`: not built.
    pub program: Option<&'a Path>,
    /// What.
    pub probe: Probe,
}

impl Ask<'_> {
    fn once(&self, rig: &Rig) -> Result<f64, Missing> {
        let program =
            self.program.ok_or_else(|| Missing::new("its build was not given (ci/bench makes it)"))?;
        let millis = if rig.quick { "60" } else { "150" };
        let ran = Command::new(program).args([self.probe.name(), &rig.caller.to_string(), millis]).output();
        let ran = ran.map_err(|error| Missing::new(format!("{}: {error}", program.display())))?;
        let said = String::from_utf8_lossy(&ran.stdout);
        said.trim().parse().map_err(|_| {
            Missing::new(format!(
                "{} said: {}",
                program.display(),
                String::from_utf8_lossy(&ran.stderr).trim()
            ))
        })
    }
}

/// Asks all of them in turn, five times; puts the medians.
pub fn ask(rig: &Rig, round: &mut Round<'_>, asks: &[Ask<'_>]) {
    let mut figures = vec![Vec::new(); asks.len()];
    for _ in 0..STARTS {
        for (ask, figures) in asks.iter().zip(&mut figures) {
            match ask.once(rig) {
                Ok(figure) => figures.push(figure),
                Err(why) => round.miss(ask.series, &why),
            }
        }
    }
    for (ask, figures) in asks.iter().zip(figures) {
        if figures.len() == STARTS {
            round.put(ask.series, Sorted::new(figures).median());
        }
    }
}
