//! Which way to go: direct, or through host memory.

use super::explain::Explanation;
use super::reason::Reason;
use super::verdict::{Route, Verdict};
use crate::probe::{Outcome, Report};
use std::fmt;
use tidegate_core::topology::NodeId;

/// A way for bytes from one device to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// By peer-to-peer DMA, turning around in a switch (or in the device that both functions are of).
    Switch,
    /// By peer-to-peer DMA through the root complex.
    RootComplex,
    /// Through host memory, with a [`crate::bounce::Bounce`].
    Bounce {
        /// Where its buffers should lie; `None`: not known.
        node: Option<NodeId>,
    },
    /// There is none.
    None,
}

/// What was chosen for a route, and what not. Made by [`Route::choose`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Choice<'a> {
    /// The route.
    pub route: &'a Route,
    /// The way to go.
    pub path: Path,
    /// What a probe found, if there was one.
    pub measured: Option<Report>,
    /// The other ways, the better ones first.
    pub rejected: Vec<Rejected<'a>>,
}

/// A way that was not chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected<'a> {
    /// Which one.
    pub path: Path,
    /// Why not.
    pub because: Vec<Objection<'a>>,
}

/// Why a way was not chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Objection<'a> {
    /// Something that the verdict rests on.
    Reason(&'a Reason),
    /// A probe found that it does not work.
    Measured(Outcome),
    /// Nobody knows whether it works, and it was not measured.
    NotMeasured,
    /// A better way is there; a bounce takes every byte to host memory and back.
    Better,
    /// One of the two makes no requests, so there is nobody for its leg.
    NoEngine,
}

impl Path {
    /// `switch`, `root-complex`, `bounce`, `none`.
    pub const fn name(self) -> &'static str {
        match self {
            Path::Switch => "switch",
            Path::RootComplex => "root-complex",
            Path::Bounce { .. } => "bounce",
            Path::None => "none",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Switch => f.write_str("direct, turning around below the root complex"),
            Path::RootComplex => f.write_str("direct, through the root complex"),
            Path::Bounce { node: Some(node) } => write!(f, "bounce through host memory on node {node}"),
            Path::Bounce { node: None } => f.write_str("bounce through host memory"),
            Path::None => f.write_str("none"),
        }
    }
}

impl fmt::Display for Objection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::Reason(reason) => reason.fmt(f),
            Objection::Measured(outcome) => write!(f, "measured: {outcome}"),
            Objection::NotMeasured => f.write_str("nobody knows whether it works, and it was not measured"),
            Objection::Better => f.write_str("a better way is there"),
            Objection::NoEngine => f.write_str("one of the two makes no requests: nobody does its leg"),
        }
    }
}

impl Route {
    /// Chooses: what was measured goes before what the verdict says. A probe that found it working: direct; one that found
    /// anything else: bounce. Without a probe: direct where the verdict vouches for it, else bounce. `node`: where host
    /// memory lies best ([`super::Topology::node_between`]).
    ///
    /// A bounce needs an engine at both ends: the initiator's (or the one of whatever reads its bytes), and one that
    /// takes them from host memory. A target without a BAR can do that itself.
    pub fn choose(&self, measured: Option<&Report>, node: Option<NodeId>) -> Choice<'_> {
        let works = measured.map(Report::works);
        let direct = match self.verdict {
            _ if works == Some(false) => None,
            Verdict::Impossible => None,
            Verdict::SwitchDirect => Some(Path::Switch),
            Verdict::ViaRootComplex => Some(Path::RootComplex),
            // That it works is known now, and which way only where it had to go up.
            Verdict::Unknown if works == Some(true) && self.stays_below() => Some(Path::Switch),
            Verdict::Unknown => works.map(|_| Path::RootComplex),
        };
        let bounce = Path::Bounce { node };
        let path = direct.unwrap_or(if self.both_ask { bounce } else { Path::None });
        let others = [Path::Switch, Path::RootComplex, bounce];
        let rejected = others.into_iter().filter(|other| *other != path);
        let rejected =
            rejected.map(|other| Rejected { path: other, because: self.against(other, path, measured) });
        Choice { route: self, path, measured: measured.cloned(), rejected: rejected.collect() }
    }

    /// The requests never had to go up: functions of one device, or one function.
    fn stays_below(&self) -> bool {
        let up = |reason: &Reason| {
            matches!(reason, Reason::Back { .. } | Reason::RootPorts { .. } | Reason::Hosts { .. })
        };
        !self.reasons.iter().any(up)
    }

    fn against(&self, path: Path, chosen: Path, measured: Option<&Report>) -> Vec<Objection<'_>> {
        let rank = |path: Path| match path {
            Path::Switch => 0,
            Path::RootComplex => 1,
            Path::Bounce { .. } => 2,
            Path::None => 3,
        };
        if rank(path) > rank(chosen) {
            return vec![Objection::Better];
        }
        if matches!(path, Path::Bounce { .. }) {
            return vec![Objection::NoEngine];
        }
        let of_path = |reason: &&Reason| match path {
            Path::Switch => reason.is_against_switch(),
            _ => reason.is_against_root_complex(),
        };
        let mut why: Vec<_> = self.reasons.iter().filter(of_path).map(Objection::Reason).collect();
        match measured {
            Some(report) if !report.works() => why.push(Objection::Measured(report.outcome)),
            None if self.verdict == Verdict::Unknown => why.push(Objection::NotMeasured),
            _ => {}
        }
        why
    }
}

impl<'a> Choice<'a> {
    /// The choice in words: the way, what speaks against the others, what would change it.
    pub fn explain(self) -> Explanation<'a> {
        Explanation::new(self)
    }
}
