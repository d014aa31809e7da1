//! `tidegate topo`: the PCI tree, and which way requests between its devices go. The verdicts are `p2p::route`'s.

mod picture;
mod text;

use super::Ended;
use super::places::Places;
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use tidegate::p2p::PciAddress;
use tidegate::p2p::route::{AcsState, Function, Kind, Route, Topology, Verdict};

/// Draws the PCI tree with BARs and groups, and for each pair of devices which way peer-to-peer requests go.
///
/// A verdict is a forecast from configuration (sysfs, ACS, the kernel's list of host bridges): switch-direct, via-root-complex, unknown
/// (measure it), impossible. An import that the kernel accepts proves nothing about the way.
///
/// Run it as root: for other users config space ends after 64 bytes, so ACS can't be seen and is assumed; the reasons say so.
///
/// Changes nothing; --svg writes a file.
///
/// Next: `--why` explains each verdict and names the commands that would make it better.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only these devices in the matrix; without any: all endpoints
    #[arg(value_name = "BDF")]
    devices: Vec<PciAddress>,
    /// Explains each verdict: what it rests on, and what would change it
    #[arg(long)]
    why: bool,
    /// One JSON document for programs, explanations included
    #[arg(long)]
    json: bool,
    /// Writes the tree and the matrix as a picture, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(crate) fn run(
    arguments: &Arguments,
    places: &Places,
    out: &mut impl Write,
    complaints: &mut impl Write,
) -> io::Result<Ended> {
    let tree = match Topology::read(&places.sysfs) {
        Ok(tree) => tree,
        Err(error) => {
            writeln!(complaints, "no tree: {error}")?;
            return Ok(Ended::Badly);
        }
    };
    if let Some(at) = arguments.devices.iter().find(|at| tree.function(**at).is_none()) {
        writeln!(complaints, "no PCI function {at} here; `tidegate topo` lists them")?;
        return Ok(Ended::Badly);
    }
    let matrix = Matrix::new(&tree, &arguments.devices);
    if arguments.json {
        writeln!(out, "{:#}", document(&tree, &matrix))?;
    } else {
        text::tree(&tree, out)?;
        text::matrix(&matrix, out)?;
        if arguments.why {
            for route in &matrix.routes {
                write!(out, "\n{}", route.explain())?;
            }
        }
    }
    if let Some(file) = &arguments.svg {
        let written = picture::svg(&tree, &matrix)
            .map_err(|error| error.to_string())
            .and_then(|svg| fs::write(file, svg).map_err(|error| error.to_string()));
        if let Err(error) = written {
            writeln!(complaints, "{}: {error}", file.display())?;
            return Ok(Ended::Badly);
        }
    }
    Ok(Ended::Well)
}

/// The devices in question, and the route of each pair.
#[derive(Debug)]
struct Matrix {
    devices: Vec<PciAddress>,
    /// Row by row: of an initiator to each target.
    routes: Vec<Route>,
}

impl Matrix {
    fn new(tree: &Topology, named: &[PciAddress]) -> Matrix {
        let device = |function: &&Function| matches!(function.kind, Kind::Endpoint | Kind::Integrated);
        let devices: Vec<_> = match named.is_empty() {
            true => tree.functions().iter().filter(device).map(|function| function.at).collect(),
            false => named.to_vec(),
        };
        let pairs = devices.iter().flat_map(|from| devices.iter().map(move |to| (*from, *to)));
        // Each is in the tree, so none is missing.
        let routes = pairs.filter_map(|(from, to)| tree.verdict(from, to).ok()).collect();
        Matrix { devices, routes }
    }

    /// A device and its verdicts, in the order of the devices.
    fn rows(&self) -> impl Iterator<Item = (PciAddress, impl Iterator<Item = Verdict>)> {
        let rows = self.routes.chunks(self.devices.len().max(1));
        self.devices.iter().zip(rows).map(|(at, row)| (*at, row.iter().map(|route| route.verdict)))
    }
}

/// One letter.
fn letter(verdict: Verdict) -> char {
    match verdict {
        Verdict::SwitchDirect => 'S',
        Verdict::ViaRootComplex => 'R',
        Verdict::Unknown => '?',
        Verdict::Impossible => 'x',
    }
}

const VERDICTS: [Verdict; 4] =
    [Verdict::SwitchDirect, Verdict::ViaRootComplex, Verdict::Unknown, Verdict::Impossible];

/// All functions with their depth below the host bridge, each behind its parent.
fn rows(tree: &Topology) -> Vec<(usize, &Function)> {
    fn below<'a>(tree: &'a Topology, of: &'a Function, depth: usize, rows: &mut Vec<(usize, &'a Function)>) {
        rows.push((depth, of));
        for child in tree.children(of.host, Some(of.at)) {
            below(tree, child, depth + 1, rows);
        }
    }
    let mut rows = Vec::new();
    for host in tree.hosts() {
        for top in tree.children(host.id, None) {
            below(tree, top, 0, &mut rows);
        }
    }
    rows
}

/// What a function's line says: ids, kind, driver, group, node, ACS, BARs.
fn words(function: &Function) -> String {
    let mut words = vec![
        format!("{} {:04x}:{:04x} {}", function.at, function.vendor, function.device, function.kind),
        format!("[{}]", function.driver.as_deref().unwrap_or("no driver")),
    ];
    words.extend(function.group.map(|group| format!("group {group}")));
    words.extend(function.node.map(|node| format!("node {node}")));
    match function.acs {
        AcsState::With(acs) if acs.on.is_empty() => words.push("ACS off".to_owned()),
        AcsState::With(acs) => words.push(format!("ACS {}", acs.on)),
        AcsState::Unreadable if function.kind.is_port() => words.push("ACS ?".to_owned()),
        AcsState::Unreadable | AcsState::Without => {}
    }
    for bar in function.bars.iter().filter(|bar| bar.is_memory()) {
        let place = if bar.is_assigned() { "" } else { " without an address" };
        words.push(format!("BAR{} {}{place}", bar.index, super::finding::size(bar.bytes())));
    }
    if function.decode.memory == Some(false) && function.reachable().next().is_some() {
        words.push("decoding off".to_owned());
    }
    words.join("  ")
}

fn document(tree: &Topology, matrix: &Matrix) -> Value {
    let function = |function: &Function| {
        let bars: Vec<_> = function
            .bars
            .iter()
            .map(|bar| {
                json!({
                    "bar": bar.index, "bytes": bar.bytes(), "memory": bar.is_memory(), "assigned": bar.is_assigned(),
                    "prefetchable": bar.is_prefetchable(),
                })
            })
            .collect();
        let acs = match function.acs {
            AcsState::Unreadable => json!("unreadable"),
            AcsState::Without => Value::Null,
            AcsState::With(acs) => json!({ "able": acs.able.to_string(), "on": acs.on.to_string() }),
        };
        json!({
            "at": function.at.to_string(), "parent": function.parent.map(|at| at.to_string()), "host": function.host.to_string(),
            "kind": function.kind.name(), "vendor": function.vendor, "device": function.device, "class": function.class,
            "driver": function.driver, "group": function.group, "node": function.node.map(|node| node.0),
            "decode": function.decode.memory, "master": function.decode.master, "acs": acs, "bars": bars,
        })
    };
    // Route writes its own JSON; a line of it is an object.
    let route = |route: &Route| serde_json::from_str(&route.explain().json()).unwrap_or(Value::Null);
    json!({
        "tidegate": "topo",
        "format": 1,
        "iommus": tree.iommus(),
        "hosts": tree.hosts().iter().map(|host| host.id.to_string()).collect::<Vec<_>>(),
        "functions": tree.functions().iter().map(function).collect::<Vec<_>>(),
        "routes": matrix.routes.iter().map(route).collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests;
