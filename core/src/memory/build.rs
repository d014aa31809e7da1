//! Asking for memory.
#![expect(unsafe_code, reason = "memfd_create and its seals; memory/tests.rs")]

use super::error::os;
use super::limits::{SHMEM_ENABLED, left_on, shared_huge_policy, shortage};
use super::map::Map;
use super::{Memlock, Memory, MemoryError, page_size};
use crate::topology::{NodeId, memory_nodes};
use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::sync::Arc;

/// Sizes of huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageSize {
    /// 2 MiB.
    M2,
    /// 1 GiB. Reserve these at boot (`hugepagesz=1G hugepages=N`); later there is seldom an unbroken GiB.
    G1,
}

/// Which pages memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Huge {
    /// The machine's plain pages.
    #[default]
    Off,
    /// hugetlb pages of 2 MiB; else transparent huge pages, where the system lets shared memory have them; else plain
    /// ones. [`Memory::pages`] says what was got and why not more. Rounds up to 2 MiB and populates; less than 2 MiB
    /// is plain.
    Try,
    /// hugetlb pages of this size or an error that says what to set. Rounds up to whole pages and populates.
    Require(PageSize),
}

/// How to ask for memory: [`Memory::builder`].
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is allocated before `build`"]
pub struct MemoryBuilder {
    name: String,
    len: u64,
    huge: Huge,
    node: Option<NodeId>,
    prefault: bool,
    lock: bool,
}

impl PageSize {
    /// Bytes.
    pub fn bytes(self) -> u64 {
        match self {
            PageSize::M2 => 2 << 20,
            PageSize::G1 => 1 << 30,
        }
    }

    fn flag(self) -> u32 {
        match self {
            PageSize::M2 => libc::MFD_HUGE_2MB,
            PageSize::G1 => libc::MFD_HUGE_1GB,
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PageSize::M2 => "2 MiB",
            PageSize::G1 => "1 GiB",
        })
    }
}

impl MemoryBuilder {
    /// Its name in /proc/PID/maps (`/memfd:NAME`), for people; need not be unique.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.replace('\0', "_");
        self
    }

    /// Bytes; rounded up to whole pages of what is asked for, see [`Memory::len`].
    pub fn len(mut self, bytes: u64) -> Self {
        self.len = bytes;
        self
    }

    /// Which pages.
    pub fn huge(mut self, huge: Huge) -> Self {
        self.huge = huge;
        self
    }

    /// Puts all of it on this node or fails. Binds (mbind), populates, and asks the kernel for the node of every page.
    /// Which node: [`crate::topology::Topology::node_of_pci`] for memory that a device uses,
    /// [`crate::topology::Topology::node_here`] for that of the calling thread.
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// Populates plain pages at once (MADV_POPULATE_WRITE), so that no first touch is a page fault later. Costs what
    /// zeroing the memory costs; running out of memory here starts the OOM killer, as touching it would.
    pub fn prefault(mut self, prefault: bool) -> Self {
        self.prefault = prefault;
        self
    }

    /// Locks it (mlock): neither swapped nor moved. Populates. Charges RLIMIT_MEMLOCK. hugetlb pages are never swapped:
    /// nothing is done for them. Pages that an IOMMU maps are pinned by that mapping, locked or not.
    pub fn lock(mut self, lock: bool) -> Self {
        self.lock = lock;
        self
    }

    /// Allocates it, zeroed. Five system calls; with huge pages, a node or populating some more, and the time to zero
    /// it all.
    ///
    /// # Errors
    /// [`MemoryError`], which says what to set where something can be set; nothing is left behind.
    pub fn build(&self) -> Result<Arc<Memory>, MemoryError> {
        if self.len == 0 {
            return Err(MemoryError::Range { at: 0, len: 0, size: 0 });
        }
        if let Some(node) = self.node {
            let nodes = memory_nodes(Path::new("/"));
            if !nodes.contains(&node) {
                return Err(MemoryError::NoNode { wanted: node, nodes });
            }
        }
        let memory = match self.huge {
            Huge::Off => self.plain(self.prefault)?,
            Huge::Require(size) => self.hugetlb(size)?,
            Huge::Try if self.len < PageSize::M2.bytes() => {
                let small = MemoryError::Small { len: self.len, size: PageSize::M2 };
                Memory { tried: vec![small], ..self.plain(true)? }
            }
            Huge::Try => match self.hugetlb(PageSize::M2) {
                Ok(memory) => memory,
                Err(why) => self.transparent(why)?,
            },
        };
        if self.lock && memory.page == page_size() {
            memory.map.lock().map_err(|error| match error {
                MemoryError::Os { op, errno } => Memlock::explain(op, errno, memory.len()),
                other => other,
            })?;
        }
        if let Some(node) = self.node {
            memory.verify(node)?;
        }
        Ok(Arc::new(memory))
    }

    fn plain(&self, populate: bool) -> Result<Memory, MemoryError> {
        let memory = self.file_and_map(0, page_size(), page_size())?;
        if populate || self.node.is_some() {
            self.room(memory.len())?;
            memory.populate()?;
        }
        Ok(memory)
    }

    /// The mmap reserves the pages, populating takes them: what is missing shows here and not as a SIGBUS later.
    fn hugetlb(&self, size: PageSize) -> Result<Memory, MemoryError> {
        let pages = self.len.div_ceil(size.bytes());
        // Asked first, since a node's shortage shows as EFAULT of populating only, and that after zeroing the rest.
        if let Some(short) = shortage(Path::new("/"), size, self.node, pages) {
            return Err(short);
        }
        // Others took them meanwhile: asked again for the numbers.
        let explain = |error| match error {
            MemoryError::Os { .. } => shortage(Path::new("/"), size, self.node, pages).unwrap_or(error),
            other => other,
        };
        let memory = self.file_and_map(libc::MFD_HUGETLB | size.flag(), size.bytes(), size.bytes());
        let memory = memory.map_err(explain)?;
        memory.map.advise(libc::MADV_POPULATE_WRITE, "MADV_POPULATE_WRITE of hugetlb").map_err(explain)?;
        Ok(memory)
    }

    /// Shared memory aligned to 2 MiB, on transparent huge pages as far as they are to be had. `why` not hugetlb.
    fn transparent(&self, why: MemoryError) -> Result<Memory, MemoryError> {
        let mut memory = self.file_and_map(0, page_size(), PageSize::M2.bytes())?;
        self.room(memory.len())?;
        memory.tried.push(why);
        // Neither is an error: without them the pages are plain, which is what the report is for. MADV_COLLAPSE makes
        // huge pages at once, by compacting memory if need be, where the kernel lets it; populating does the rest.
        let _asked = memory.map.advise(libc::MADV_HUGEPAGE, "MADV_HUGEPAGE");
        let _collapsed = memory.map.advise(libc::MADV_COLLAPSE, "MADV_COLLAPSE");
        memory.populate()?;
        let (huge, len) = (memory.smaps()?.huge, memory.len());
        if huge < len {
            let now = shared_huge_policy(Path::new("/")).unwrap_or_else(|| "(absent)".to_owned());
            let file = SHMEM_ENABLED;
            memory.tried.push(MemoryError::Transparent { huge, len, now, file });
        }
        Ok(memory)
    }

    /// Is there room on the node? Where a policy binds to one node, running out kills.
    pub(super) fn room(&self, needed: u64) -> Result<(), MemoryError> {
        let Some(node) = self.node else { return Ok(()) };
        match left_on(Path::new("/"), node) {
            Some(free) if free < needed => Err(MemoryError::NodeFull { node, needed, free }),
            _ => Ok(()),
        }
    }

    /// A sealed memfd of whole pages, mapped, not inherited, bound to the node; nothing populated.
    fn file_and_map(&self, flags: u32, page: u64, align: u64) -> Result<Memory, MemoryError> {
        let len = self.len.checked_next_multiple_of(align);
        let len = len.and_then(|len| Some((len, usize::try_from(len).ok()?)));
        let Some((size, len)) = len else {
            return Err(MemoryError::Range { at: 0, len: self.len, size: 0 });
        };
        let name = CString::new(self.name.as_str()).unwrap_or_default();
        let flags = flags | libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: 1. `name` is a NUL-terminated string that outlives the call.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd < 0 {
            return Err(os("memfd_create"));
        }
        // SAFETY: 1. the kernel just gave us this fd; nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(size).map_err(|_| os("ftruncate"))?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        // SAFETY: 1. fcntl on a fd we own; F_ADD_SEALS takes an integer.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
            return Err(os("F_ADD_SEALS"));
        }
        let map = Map::new(&file, len, page as usize, align as usize)?;
        map.advise(libc::MADV_DONTFORK, "MADV_DONTFORK")?;
        // A kernel without NUMA has one node and no mbind.
        match self.node.map(|node| (node, map.bind(node))) {
            None | Some((_, Ok(()))) => {}
            Some((NodeId(0), Err(MemoryError::Os { errno: libc::ENOSYS, .. }))) => {}
            Some((_, Err(error))) => return Err(error),
        }
        Ok(Memory { file, map, page, tried: Vec::new() })
    }
}

impl Memory {
    /// All pages, now. Before Linux 5.14, which has no MADV_POPULATE_WRITE: pages of the file first, whose lack is an
    /// errno and no signal, then a touch of each.
    fn populate(&self) -> Result<(), MemoryError> {
        match self.map.advise(libc::MADV_POPULATE_WRITE, "MADV_POPULATE_WRITE") {
            Err(MemoryError::Os { errno: libc::EINVAL, .. }) => self.populate_by_touch(),
            done => done,
        }
    }

    pub(super) fn populate_by_touch(&self) -> Result<(), MemoryError> {
        let len = libc::off_t::try_from(self.len());
        let len = len.map_err(|_| MemoryError::Os { op: "fallocate", errno: libc::EFBIG })?;
        // SAFETY: 1. a fd we own; allocating pages of a file changes none of its bytes.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, len) } != 0 {
            return Err(os("fallocate"));
        }
        self.map.touch();
        Ok(())
    }

    /// Is every page on `node`? Asked of the kernel, not of the policy.
    pub(super) fn verify(&self, node: NodeId) -> Result<(), MemoryError> {
        let Some(nodes) = self.map.nodes(self.page as usize)? else { return Ok(()) };
        let here = nodes.get(&node).copied().unwrap_or(0);
        match self.len().saturating_sub(here) {
            0 => Ok(()),
            elsewhere => Err(MemoryError::Misplaced { wanted: node, elsewhere, len: self.len() }),
        }
    }
}
