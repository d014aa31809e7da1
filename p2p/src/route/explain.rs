//! Saying it: for people and for programs.

use super::choice::{Choice, Path};
use super::json::Object;
use super::verdict::Route;
use crate::probe::{Rate, Report};
use std::fmt;

/// A route and what was chosen for it, in words. [`fmt::Display`] prints lines with a newline at the end;
/// [`Explanation::json`] is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    choice: Choice<'a>,
}

impl Route {
    /// This route in words, unmeasured: as [`Route::choose`] with nothing, and [`Choice::explain`].
    pub fn explain(&self) -> Explanation<'_> {
        self.choose(None, None).explain()
    }
}

impl<'a> Explanation<'a> {
    pub(super) fn new(choice: Choice<'a>) -> Explanation<'a> {
        Explanation { choice }
    }

    /// One line of JSON: `initiator`, `target`, `verdict`, `kernel`, `distance`, `meeting` (where there is one), `path`,
    /// `node` (of a bounce, where it is known), `measured` (where there is a probe), `reasons` (`code`, `text`, and what
    /// each is about), `rejected` (`path`, `because`), `changes` (`code`, `text`, `commands`, `boot_option`).
    pub fn json(&self) -> String {
        let Choice { route, path, measured, rejected } = &self.choice;
        let mut object = Object::new();
        object.text("initiator", &route.initiator.to_string()).text("target", &route.target.to_string());
        object.text("verdict", route.verdict.name()).text("kernel", route.kernel.name());
        object.number("distance", u64::from(route.distance));
        if let Some(at) = route.meeting {
            object.text("meeting", &at.to_string());
        }
        object.text("path", path.name());
        if let Path::Bounce { node: Some(node) } = path {
            object.number("node", u64::from(node.0));
        }
        if let Some(report) = measured {
            object.raw("measured", &measurement(report));
        }
        object.list("reasons", route.reasons.iter().map(super::Reason::json));
        object.list(
            "rejected",
            rejected.iter().map(|rejected| {
                let mut object = Object::new();
                let because = rejected.because.iter().map(|why| super::json::string(&why.to_string()));
                object.text("path", rejected.path.name()).list("because", because);
                object.end()
            }),
        );
        object.list("changes", route.changes.iter().map(super::Change::json));
        object.end()
    }
}

fn measurement(report: &Report) -> String {
    let mut object = Object::new();
    object.raw("works", if report.works() { "true" } else { "false" });
    object.text("outcome", &report.outcome.to_string());
    for (name, rate) in [("write", report.write), ("read", report.read)] {
        if let Some(Rate { bytes, time }) = rate {
            let mut rate = Object::new();
            rate.number("bytes", bytes).number("nanoseconds", time.as_nanos() as u64);
            object.raw(name, &rate.end());
        }
    }
    object.end()
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choice { route, path, measured, rejected } = &self.choice;
        writeln!(f, "{} -> {}: {}", route.initiator, route.target, route.verdict)?;
        for reason in &route.reasons {
            writeln!(f, "  because {reason}")?;
        }
        writeln!(f, "  chosen: {path}")?;
        match measured {
            Some(report) => {
                writeln!(f, "    measured: {}", report.outcome)?;
                for (name, rate) in [("write", report.write), ("read", report.read)] {
                    if let Some(rate) = rate {
                        writeln!(f, "    {name}: {} bytes in {:?}", rate.bytes, rate.time)?;
                    }
                }
            }
            None if matches!(path, Path::Switch | Path::RootComplex) => {
                writeln!(f, "    not measured: probe it before you rely on it")?;
            }
            None => {}
        }
        for rejected in rejected {
            writeln!(f, "  rejected: {}", rejected.path)?;
            for why in &rejected.because {
                writeln!(f, "    because {why}")?;
            }
        }
        for change in &route.changes {
            writeln!(f, "  change: {change}")?;
            for command in change.commands() {
                writeln!(f, "    # {command}")?;
            }
            if let Some(option) = change.boot_option() {
                writeln!(f, "    kernel command line: {option}")?;
            }
        }
        Ok(())
    }
}
