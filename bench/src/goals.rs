//! The table of goals, as data: which figure is held against what, and where the line is.

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Against {
    /// A peer's figure of the same round (`ID@PEER`).
    Peer(&'static str),
    /// The cache-line round trip of the same round.
    Line,
    /// A number.
    Bound(f64),
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// The id, and the variant behind a slash.
    pub id: &'static str,
    /// Against what.
    pub against: Against,
    /// Of both figures.
    pub unit: &'static str,
    /// Ours divided by theirs may be this at most; `None`: shown only.
    pub most: Option<f64>,
}

const fn peer(id: &'static str, peer: &'static str, most: f64) -> Goal {
    Goal { id, against: Against::Peer(peer), unit: "ns", most: Some(most) }
}

const fn shown(id: &'static str, peer: &'static str) -> Goal {
    Goal { id, against: Against::Peer(peer), unit: "ns", most: None }
}

const fn shown_in(id: &'static str, peer: &'static str, unit: &'static str) -> Goal {
    Goal { id, against: Against::Peer(peer), unit, most: None }
}

const fn line(id: &'static str, most: f64) -> Goal {
    Goal { id, against: Against::Line, unit: "ns", most: Some(most) }
}

/// At most `value`, in `unit`.
const fn bound(id: &'static str, value: f64, unit: &'static str) -> Goal {
    Goal { id, against: Against::Bound(value), unit, most: Some(1.0) }
}

/// Every line. Ids of one group (what stands before the slash) are measured together.
pub const GOALS: &[Goal] = &[
    peer("pin", "crossbeam-epoch", 0.06),
    peer("pin", "liburcu-memb", 0.5),
    shown("pin", "seize"),
    shown("pin", "haphazard"),
    shown("pin", "arc-swap"),
    peer("grace-busy/p50", "rte_rcu_qsbr", 1.3),
    peer("grace-busy/p50", "crossbeam-epoch", 0.5),
    peer("grace-busy/p50", "seize", 0.02),
    shown("grace-busy/p50", "liburcu-memb"),
    shown("grace-busy/p50", "haphazard"),
    shown("grace-busy/p99", "rte_rcu_qsbr"),
    line("grace-busy/p99", 8.0),
    peer("grace-idle/asleep", "liburcu-memb", 0.6),
    peer("grace-idle/spinning", "liburcu-memb", 0.6),
    peer("grace-batch/busy", "one-by-one", 0.02),
    bound("grace-batch/membarriers", 1.0, "calls"),
    bound("grace-batch/idle-each", 3.0, "ns"),
    shown("grace-batch/idle", "one-region"),
    peer("tax/burst-32", "unchecked", 1.10),
    bound("tax/more", 0.6, "ns"),
    peer("telemetry/burst-32", "uncounted", 1.03),
    shown("telemetry/burst-1", "uncounted"),
    peer("inline/burst-32", "dma_skeleton-caller", 0.3),
    peer("inline/unchecked", "dma_skeleton-caller", 0.3),
    peer("worker/pipelined-32", "dma_skeleton", 0.2),
    peer("worker/window-32", "dma_skeleton", 0.2),
    peer("worker/burst-1", "dma_skeleton", 0.65),
    line("worker/burst-1", 1.3),
    peer("worker-copy/64", "dma_skeleton", 0.4),
    peer("worker-copy/4k", "dma_skeleton", 0.55),
    peer("worker-copy/64k", "dma_skeleton", 0.95),
    peer("cross/burst-32", "rte_ring", 0.5),
    peer("cross/burst-32", "rtrb", 1.1),
    peer("cross/burst-1", "rte_ring", 0.3),
    shown("cross/burst-1", "rtrb"),
    shown("cross/burst-32", "crossbeam-queue"),
    shown("cross/burst-1", "crossbeam-queue"),
    bound("copy/hot-64-more", 1.5, "ns"),
    bound("copy/hot-256-more", 1.5, "ns"),
    bound("copy/hot-1k-more", 1.5, "ns"),
    bound("copy/hot-2k-more", 1.5, "ns"),
    bound("copy/cold-64-more", 1.5, "ns"),
    bound("copy/cold-256-more", 1.5, "ns"),
    bound("copy/cold-1k-more", 1.5, "ns"),
    bound("copy/cold-2k-more", 1.5, "ns"),
    peer("copy/hot-4k", "best-kernel", 1.08),
    peer("copy/hot-16k", "best-kernel", 1.08),
    peer("copy/hot-64k", "best-kernel", 1.08),
    peer("copy/hot-256k", "best-kernel", 1.08),
    peer("copy/hot-1m", "best-kernel", 1.08),
    peer("copy/hot-4m", "best-kernel", 1.08),
    peer("copy/cold-4k", "best-kernel", 1.08),
    peer("copy/cold-16k", "best-kernel", 1.08),
    peer("copy/cold-64k", "best-kernel", 1.08),
    peer("copy/cold-256k", "best-kernel", 1.08),
    peer("copy/cold-1m", "best-kernel", 1.08),
    peer("copy/cold-4m", "best-kernel", 1.08),
    peer("copy-cold/64k", "dma_skeleton", 0.75),
    peer("copy-cold/1m", "dma_skeleton", 0.75),
    peer("revoke-loaded", "chunk-and-line", 2.0),
    Goal { id: "lost/operations", against: Against::Bound(64.0), unit: "operations", most: Some(0.0) },
    shown_in("lost/operations", "dma_skeleton", "operations"),
    peer("lost/time", "rte_dma_stop", 0.1),
    peer("uring/read-4k", "io-uring", 1.05),
    peer("uring/read-4k", "fio", 0.95),
    peer("uring/nop", "io-uring", 1.05),
    peer("register", "register_buffers", 1.1),
    peer("scale/8", "1-channel", 1.05),
    peer("scale/64", "1-channel", 1.05),
    peer("scale/1024", "1-channel", 1.05),
    shown("regions/random", "64-regions"),
    peer("regions/operand", "cache-miss", 1.0),
    shown("regions/operand", "independent-miss"),
    shown("tdisp/lock", "memcpy"),
    shown("tdisp/tags-64", "memcpy"),
];

impl Goal {
    /// What stands before the slash.
    pub fn group(&self) -> &'static str {
        self.id.split('/').next().unwrap_or(self.id)
    }

    /// The peer as the report names it.
    pub fn peer(&self) -> &'static str {
        match self.against {
            Against::Peer(name) => name,
            Against::Line => "cache-line",
            Against::Bound(_) => "bound",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_stands_twice() {
        for (i, goal) in GOALS.iter().enumerate() {
            let twice = GOALS[..i].iter().any(|g| g.id == goal.id && g.peer() == goal.peer());
            assert!(!twice, "{} against {}", goal.id, goal.peer());
        }
    }

    #[test]
    fn every_group_is_measured() {
        for goal in GOALS {
            let known = crate::ids::NAMES.contains(&goal.group());
            assert!(known, "nothing measures {}", goal.id);
        }
    }
}
