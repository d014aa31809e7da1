//! Why memory was refused, and what to set.

use super::PageSize;
use crate::topology::NodeId;

/// Memory could not be made, placed or reached. Each message says what to set, where something can be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A system call failed.
    #[error("{op}: errno {errno}")]
    Os {
        /// The call.
        op: &'static str,
        /// The errno.
        errno: i32,
    },
    /// Out of bounds, or zero bytes.
    #[error("{at:#x}+{len:#x} is outside memory of {size:#x} bytes, or empty")]
    Range {
        /// Start.
        at: u64,
        /// Bytes.
        len: u64,
        /// Bytes there are.
        size: u64,
    },
    /// Fewer huge pages are free than are needed. The kernel may reserve fewer than are written to the file (memory is
    /// fragmented): read it back, or reserve them at boot (`hugepagesz=2M hugepages=N`).
    #[error("{needed} huge pages of {size} are needed, {free} are free; as root: echo {write} >{file}")]
    HugePages {
        /// Their size.
        size: PageSize,
        /// Pages needed.
        needed: u64,
        /// Pages that were free and not promised to others.
        free: u64,
        /// The number that would do, counting the pages that others use.
        write: u64,
        /// The file to write it to; a node's own where a node was asked for.
        file: String,
    },
    /// The kernel or the CPU has no pages of that size.
    #[error("no huge pages of {size} here: no {file} (1 GiB needs the CPU flag pdpe1gb)")]
    NoSuchPages {
        /// Their size.
        size: PageSize,
        /// The directory that would be there.
        file: String,
    },
    /// Transparent huge pages were not got for all of it.
    #[error(
        "transparent huge pages for {huge:#x} of {len:#x} bytes, {file} says '{now}'; where it says never or deny, as \
         root: echo advise >{file}; else memory is fragmented: echo 1 >/proc/sys/vm/compact_memory"
    )]
    Transparent {
        /// Bytes that are in huge pages.
        huge: u64,
        /// Bytes wanted.
        len: u64,
        /// What is set now.
        now: String,
        /// Where.
        file: &'static str,
    },
    /// Less than one huge page: none was tried.
    #[error("{len:#x} bytes are less than one huge page: ask for at least {size}")]
    Small {
        /// Bytes asked for.
        len: u64,
        /// One page.
        size: PageSize,
    },
    /// The memlock limit (RLIMIT_MEMLOCK) is in the way.
    #[error(
        "{op} of {needed} bytes goes beyond the memlock limit of {limit} bytes ({used} in use): `ulimit -l {kib}` \
         before the start, LimitMEMLOCK= in the systemd unit, memlock in /etc/security/limits.conf, or CAP_IPC_LOCK",
        kib = used.saturating_add(*needed).div_ceil(1024)
    )]
    Memlock {
        /// The call.
        op: &'static str,
        /// Bytes to lock or pin.
        needed: u64,
        /// Bytes that this process has locked or pinned already.
        used: u64,
        /// The soft limit in bytes.
        limit: u64,
    },
    /// There is no such node, or it has no memory.
    #[error("NUMA node {wanted} has no memory here; the nodes with memory are {nodes:?}")]
    NoNode {
        /// Asked for.
        wanted: NodeId,
        /// The nodes that have memory.
        nodes: Vec<NodeId>,
    },
    /// The node has too little memory left. Asked before populating, since a node that runs out starts the OOM killer.
    #[error("NUMA node {node} has about {free} bytes left, {needed} are needed")]
    NodeFull {
        /// The node.
        node: NodeId,
        /// Bytes needed.
        needed: u64,
        /// Bytes free there, or reclaimable without swapping.
        free: u64,
    },
    /// Pages lie on other nodes than the one asked for, although they were bound to it.
    #[error("{elsewhere} of {len} bytes are not on NUMA node {wanted}")]
    Misplaced {
        /// Asked for.
        wanted: NodeId,
        /// Bytes elsewhere or absent.
        elsewhere: u64,
        /// Bytes in all.
        len: u64,
    },
}

/// The errno of the call that just failed.
pub(super) fn os(op: &'static str) -> MemoryError {
    MemoryError::Os { op, errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
}
