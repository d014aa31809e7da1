//! What memory was really got: read back from the kernel.

use super::limits::kib;
use super::{Memory, MemoryError};
use crate::topology::NodeId;
use std::collections::BTreeMap;
use std::ops::Range;

/// What the kernel says about a [`Memory`] now, and what was tried before it was made this way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pages {
    /// Bytes of a page of the file: a huge page's with hugetlb, else the machine's.
    pub page: u64,
    /// Bytes that are there (smaps `Rss`, or all of the huge ones).
    pub resident: u64,
    /// Bytes of them that are mapped by huge pages, hugetlb or transparent (`ShmemPmdMapped`, `FilePmdMapped`).
    /// Transparent pages smaller than a PMD (64 KiB and the like) do not show here.
    pub huge: u64,
    /// Bytes locked by mlock (`Locked`). hugetlb pages are never swapped and do not count.
    pub locked: u64,
    /// A child that is forked does not get the mapping (`VmFlags: dc`).
    pub dont_fork: bool,
    /// Bytes on each node; `None` where the kernel has no NUMA or does not let this process ask (move_pages(2)).
    pub nodes: Option<BTreeMap<NodeId, u64>>,
    /// What [`super::Huge::Try`] tried first, and why it did not work: each message says what to set. Empty if the
    /// first try was good.
    pub tried: Vec<MemoryError>,
}

/// Sums over the parts of an address range in smaps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Smaps {
    /// Bytes of the range that smaps knows.
    pub(super) size: u64,
    pub(super) resident: u64,
    pub(super) huge: u64,
    pub(super) locked: u64,
    /// All parts have it.
    pub(super) dont_fork: bool,
}

impl Memory {
    /// Asks the kernel where this memory is and on which pages. Reads all of /proc/self/smaps (its length grows with
    /// the mappings of the process; the kernel walks their page tables) and asks for the node of every page, one system
    /// call per 1024: for set-up and for reports, not for pollers.
    ///
    /// # Errors
    /// errno of reading /proc/self/smaps, which a kernel without CONFIG_PROC_PAGE_MONITOR lacks.
    pub fn pages(&self) -> Result<Pages, MemoryError> {
        let smaps = self.smaps()?;
        let nodes = self.map.nodes(self.page as usize).unwrap_or(None);
        Ok(Pages {
            page: self.page,
            resident: smaps.resident,
            huge: smaps.huge,
            locked: smaps.locked,
            dont_fork: smaps.dont_fork,
            nodes,
            tried: self.tried.clone(),
        })
    }

    pub(super) fn smaps(&self) -> Result<Smaps, MemoryError> {
        let text = std::fs::read_to_string("/proc/self/smaps").map_err(|error| MemoryError::Os {
            op: "read /proc/self/smaps",
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })?;
        let start = self.map.base().as_ptr() as u64;
        Ok(sum(&text, start..start + self.len()))
    }
}

/// Adds up the mappings that lie within `range`.
fn sum(smaps: &str, range: Range<u64>) -> Smaps {
    let mut all = Smaps { dont_fork: true, ..Smaps::default() };
    // Are the lines about a mapping of ours?
    let mut ours = false;
    for line in smaps.lines() {
        if let Some(mapping) = header(line) {
            ours = range.start <= mapping.start && mapping.end <= range.end;
            if ours {
                all.size += mapping.end - mapping.start;
            }
            continue;
        }
        let Some((name, rest)) = line.split_once(':') else { continue };
        if !ours {
            continue;
        }
        let bytes = kib(rest).unwrap_or(0);
        match name {
            "Rss" => all.resident += bytes,
            "ShmemPmdMapped" | "FilePmdMapped" => all.huge += bytes,
            // hugetlb pages count here and not in Rss.
            "Shared_Hugetlb" | "Private_Hugetlb" => {
                all.resident += bytes;
                all.huge += bytes;
            }
            "Locked" => all.locked += bytes,
            "VmFlags" => all.dont_fork &= rest.split_whitespace().any(|flag| flag == "dc"),
            _ => {}
        }
    }
    all.dont_fork &= all.size > 0;
    all
}

/// The addresses of a mapping's first line, `7f0c32400000-7f0c32c00000 rw-s …`.
fn header(line: &str) -> Option<Range<u64>> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(hex(start)?..hex(end)?)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000400000 rw-s 00000000 00:01 613607                     /memfd:x (deleted)
Size:               4096 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                3072 kB
AnonHugePages:         0 kB
ShmemPmdMapped:     2048 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Locked:             3072 kB
VmFlags: rd wr sh mr mw me ms dc hg
7f0000400000-7f0000600000 rw-s 00400000 00:01 613607                     /memfd:x (deleted)
KernelPageSize:        4 kB
Rss:                1024 kB
VmFlags: rd wr sh mr mw me ms
7f0000a00000-7f0000e00000 rw-s 00000000 00:10 5                          /memfd:huge (deleted)
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
Rss:                   0 kB
Private_Hugetlb:    4096 kB
VmFlags: rd wr sh mr mw me ms de ht dc
";

    #[test]
    fn smaps_is_summed_over_the_range_and_nothing_else() {
        let first = sum(SMAPS, 0x7f00_0000_0000..0x7f00_0040_0000);
        let (m, dont_fork) = (1 << 20, true);
        assert_eq!(first, Smaps { size: 4 * m, resident: 3 * m, huge: 2 * m, locked: 3 * m, dont_fork });
        let both = sum(SMAPS, 0x7f00_0000_0000..0x7f00_0060_0000);
        assert_eq!(
            (both.size, both.resident, both.dont_fork),
            (6 * m, 4 * m, false),
            "one part can be forked"
        );
        let huge = sum(SMAPS, 0x7f00_00a0_0000..0x7f00_00e0_0000);
        assert_eq!(huge, Smaps { size: 4 * m, resident: 4 * m, huge: 4 * m, locked: 0, dont_fork });
        assert_eq!(
            sum(SMAPS, 0..4096),
            Smaps::default(),
            "what is not there is not forked either, but unproved"
        );
    }
}
