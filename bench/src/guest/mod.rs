//! What `ci/vm bench` measures in the testbed's guest: figures without goals, since the devices are emulated on the same two
//! CPUs.

mod bounce;
mod import;
mod nvme;

use crate::stats::Sorted;
use std::time::{Duration, Instant};
use tidegate_core::Memory;
use tidegate_p2p::PciAddress;
use tidegate_p2p::vfio::Vfio;
use tidegate_p2p::vfio::handover::Handover;

/// How long a device may take to be let go of.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whatever went wrong, with its reason.
pub type Failure = Box<dyn std::error::Error>;

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was measured.
    pub id: String,
    /// The median.
    pub value: f64,
    /// Of all three.
    pub unit: &'static str,
    /// The smallest and the largest.
    pub spread: (f64, f64),
    /// How many there were.
    pub n: usize,
}

impl Row {
    fn of(id: impl Into<String>, unit: &'static str, figures: Vec<f64>) -> Row {
        let (n, sorted) = (figures.len(), Sorted::new(figures));
        Row { id: id.into(), value: sorted.median(), unit, spread: sorted.spread(), n }
    }

    /// A line of the table.
    pub fn line(&self) -> String {
        let Row { id, value, unit, spread: (low, high), n } = self;
        format!("| {id} | {value:.0} | {unit} | {low:.0} .. {high:.0} | {n} |")
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let spread = [self.spread.0, self.spread.1];
        serde_json::json!({"id": self.id, "value": self.value, "unit": self.unit, "spread": spread, "n": self.n})
    }
}

/// How long to take.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds of NVMe, and repetitions of the bounce.
    pub rounds: usize,
    /// Of one slice of NVMe.
    pub slice: Duration,
    /// Repetitions of an import.
    pub imports: usize,
    /// Bytes through the bounce.
    pub bounced: u64,
}

/// All of it; `each` gets every row as soon as it is there. The devices are with no driver, or with the kernel's own, before and after.
///
/// # Errors
/// The first [`Failure`].
pub fn measure(effort: Effort, mut each: impl FnMut(&Row)) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let groups = [nvme::measure, import::measure, bounce::measure];
    for group in groups {
        let new = group(effort)?;
        new.iter().for_each(&mut each);
        rows.extend(new);
    }
    Ok(rows)
}

/// The testbed's devices of these ids.
fn find(vendor: u16, device: u16, n: usize) -> Result<Vec<PciAddress>, Failure> {
    let found = Vfio::new()?.by_id(vendor, device)?;
    if found.len() < n {
        return Err(format!("{n} of {vendor:04x}:{device:04x} are needed, {} are here", found.len()).into());
    }
    Ok(found)
}

fn first(vendor: u16, device: u16) -> Result<PciAddress, Failure> {
    find(vendor, device, 1)?.first().copied().ok_or_else(|| "no device".into())
}

/// Functions with vfio-pci, until it is dropped.
struct Lent(Vec<PciAddress>);

impl Lent {
    fn take(all: &[PciAddress]) -> Result<Lent, Failure> {
        let mut lent = Lent(Vec::new());
        for at in all {
            let _ = Handover::new().take(*at)?;
            lent.0.push(*at);
        }
        Ok(lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        for at in &self.0 {
            // The last to let go of a device may be the fabric's control thread.
            let since = Instant::now();
            while let Err(why) = Handover::new().give(*at) {
                if since.elapsed() > PATIENCE {
                    say(&format!("{at} could not be given back: {why}"));
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// To whoever started it.
fn say(what: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{what}\n").as_bytes());
}

fn memory(name: &str, len: u64) -> Result<std::sync::Arc<Memory>, Failure> {
    Ok(Memory::allocate(name, len)?)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
