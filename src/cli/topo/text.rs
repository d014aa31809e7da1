//! The tree and the matrix as text.

use super::{Matrix, VERDICTS, letter, rows, words};
use std::io::{self, Write};
use tidegate::p2p::route::{HostRule, Topology};

/// A host bridge a paragraph, a function a line.
pub(super) fn tree(tree: &Topology, out: &mut impl Write) -> io::Result<()> {
    match tree.iommus() {
        [] => writeln!(out, "no IOMMU is on; {}", tree.cpu())?,
        names => writeln!(out, "IOMMUs: {}; {}", names.join(", "), tree.cpu())?,
    }
    let all = rows(tree);
    for host in tree.hosts() {
        let rule = match host.rule {
            _ if tree.cpu().passes_peers() => "hands peer requests on, as all of this CPU",
            HostRule::Listed => "hands peer requests on, says the kernel's list",
            HostRule::SameHostOnly => "hands peer requests on between its own ports, says the kernel's list",
            HostRule::Unlisted => "not on the kernel's list: nobody knows whether it hands peer requests on",
        };
        writeln!(out, "\n{}  {rule}", host.id)?;
        for (depth, function) in all.iter().filter(|(_, function)| function.host == host.id) {
            writeln!(out, "{:width$}{}", "", words(function), width = 2 + 2 * depth)?;
        }
    }
    Ok(())
}

/// A row an initiator, a column a target.
pub(super) fn matrix(matrix: &Matrix, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nWhose requests (row) reach whose BARs (column), and which way:\n")?;
    let width = matrix.devices.len().to_string().len().max(1) + 1;
    write!(out, "{:>1$}", "", 13 + width)?;
    for number in 1..=matrix.devices.len() {
        write!(out, "{number:>width$}")?;
    }
    writeln!(out)?;
    for (number, (at, verdicts)) in (1..).zip(matrix.rows()) {
        write!(out, "{at} {number:>width$}")?;
        for verdict in verdicts {
            write!(out, "{:>width$}", letter(verdict))?;
        }
        writeln!(out)?;
    }
    let legend: Vec<_> = VERDICTS.iter().map(|verdict| format!("{} {verdict}", letter(*verdict))).collect();
    writeln!(out, "\n{}; `--why` explains each", legend.join(", "))
}
