//! Saying it: for people and for programs.

use super::Route;
use super::json::Object;
use std::fmt;

/// A route in words. [`fmt::Display`] prints it with a newline at the end; [`Explanation::json`] is one line.
#[derive(Debug, Clone, Copy)]
pub struct Explanation<'a> {
    route: &'a Route,
}

impl Route {
    /// This route in words: which way, why, and what would change it. Allocates when printed.
    pub fn explain(&self) -> Explanation<'_> {
        Explanation { route: self }
    }

    pub(super) fn fill(&self, object: &mut Object) {
        object.text("initiator", &self.initiator.to_string()).text("target", &self.target.to_string());
        object.text("verdict", self.verdict.name()).text("kernel", self.kernel.name());
        object.number("distance", u64::from(self.distance));
        if let Some(at) = self.meeting {
            object.text("meeting", &at.to_string());
        }
        object.list("reasons", self.reasons.iter().map(super::Reason::json));
        object.list("changes", self.changes.iter().map(super::Change::json));
    }
}

impl Explanation<'_> {
    /// One line of JSON: `initiator`, `target`, `verdict`, `kernel`, `distance`, `meeting` (where there is one),
    /// `reasons` (`code`, `text`, and what it is about), `changes` (`code`, `text`, `commands`, `boot_option`).
    pub fn json(&self) -> String {
        let mut object = Object::new();
        self.route.fill(&mut object);
        object.end()
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route = self.route;
        writeln!(f, "{} -> {}: {}", route.initiator, route.target, route.verdict)?;
        for reason in &route.reasons {
            writeln!(f, "  because {reason}")?;
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
