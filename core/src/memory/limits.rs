//! What the system grants: huge pages, locked memory, memory of a node.

use super::{MemoryError, PageSize};
use crate::topology::NodeId;
use std::io;
use std::path::Path;

/// Where the policy for shared memory (memfds too) stands.
pub(super) const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// The memlock limit of this process and what counts against it.
///
/// mlock charges it per process; iommufd's mappings and io_uring's registered buffers charge it per *user*, so what
/// other processes of the user pinned counts too, which this can't see. With CAP_IPC_LOCK none of them is held to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memlock {
    /// The soft limit in bytes; `u64::MAX` is no limit.
    pub limit: u64,
    /// Bytes of this process locked by mlock now (`VmLck` of /proc/self/status).
    pub locked: u64,
    /// Bytes of this process pinned for devices and rings now (`VmPin`).
    pub pinned: u64,
}

impl Memlock {
    /// This process's, from /proc/self; without a procfs nothing is limited or locked, as far as this can say. Two small
    /// files.
    pub fn now() -> Memlock {
        let unknown = Memlock { limit: u64::MAX, locked: 0, pinned: 0 };
        Memlock::of(Path::new("/proc/self")).unwrap_or(unknown)
    }

    /// Those of the process whose directory of procfs this is. Reads two small files.
    ///
    /// # Errors
    /// errno of reading `limits` or `status`; `InvalidData` where `limits` has no line for locked memory.
    pub fn of(process: &Path) -> io::Result<Memlock> {
        let limits = std::fs::read_to_string(process.join("limits"))?;
        let soft = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max locked memory")?.split_ascii_whitespace().next());
        let limit = match soft {
            Some("unlimited") => Some(u64::MAX),
            other => other.and_then(|bytes| bytes.parse().ok()),
        };
        let status = std::fs::read_to_string(process.join("status"))?;
        let field = |name: &str| status.lines().find_map(|line| kib(line.strip_prefix(name)?)).unwrap_or(0);
        Ok(Memlock {
            limit: limit.ok_or(io::ErrorKind::InvalidData)?,
            locked: field("VmLck:"),
            pinned: field("VmPin:"),
        })
    }

    /// The error for a call that wanted to lock or pin `needed` more bytes and got `errno`: [`MemoryError::Memlock`]
    /// where the limit explains it, else the errno. For device layers and engines whose calls charge the limit.
    pub fn explain(op: &'static str, errno: i32, needed: u64) -> MemoryError {
        let now = Memlock::now();
        let used = now.locked.max(now.pinned);
        let beyond = used.saturating_add(needed) > now.limit;
        match errno {
            libc::ENOMEM | libc::EPERM | libc::EAGAIN if beyond => {
                MemoryError::Memlock { op, needed, used, limit: now.limit }
            }
            _ => MemoryError::Os { op, errno },
        }
    }
}

/// `  1234 kB` in bytes.
pub(super) fn kib(field: &str) -> Option<u64> {
    field.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The error that says what to write where, if fewer than `needed` huge pages are free below `root` ("/"), on `node` where one
/// is named; `None`: there are enough. What [`super::MemoryBuilder::build`] asks before it takes some. Reads some five small
/// files.
pub fn shortage(root: &Path, size: PageSize, node: Option<NodeId>, needed: u64) -> Option<MemoryError> {
    let pool = format!("hugepages-{}kB", size.bytes() / 1024);
    let global = format!("sys/kernel/mm/hugepages/{pool}");
    if !root.join(&global).is_dir() {
        return Some(MemoryError::NoSuchPages { size, file: format!("/{global}") });
    }
    let number = |dir: &str, name: &str| -> u64 {
        let text = std::fs::read_to_string(root.join(dir).join(name)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    // A node's directory has no reservations and no overcommit: those are the machine's.
    let promised = number(&global, "resv_hugepages");
    let room =
        number(&global, "nr_overcommit_hugepages").saturating_sub(number(&global, "surplus_hugepages"));
    let machine = (number(&global, "free_hugepages") + room).saturating_sub(promised);
    let (dir, free) = match node {
        None => (global, machine),
        Some(node) => {
            let dir = format!("sys/devices/system/node/node{node}/hugepages/{pool}");
            let free = number(&dir, "free_hugepages").min(machine);
            (dir, free)
        }
    };
    let write = number(&dir, "nr_hugepages").saturating_add(needed.saturating_sub(free));
    let file = format!("/{dir}/nr_hugepages");
    (free < needed).then_some(MemoryError::HugePages { size, needed, free, write, file })
}

/// Bytes of a node that are free or can be had without swapping: free pages and clean file pages. `None`: unknown.
pub(super) fn left_on(root: &Path, node: NodeId) -> Option<u64> {
    let text =
        std::fs::read_to_string(root.join(format!("sys/devices/system/node/node{node}/meminfo"))).ok()?;
    let field = |name: &str| {
        text.lines().find_map(|line| kib(line.split_once(name)?.1.strip_prefix(':')?)).unwrap_or(0)
    };
    let clean = field("FilePages").saturating_sub(field("Shmem") + field("Dirty") + field("Mapped"));
    Some(field("MemFree") + clean)
}

/// What is set below `root` ("/") for transparent huge pages of shared memory, memfds too: `never`, `advise`, `always` and
/// others (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`); `None`: the kernel has none. Reads a small file.
pub fn shared_huge_policy(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join(SHMEM_ENABLED.trim_start_matches('/'))).ok()?;
    let (word, _) = text.split_once('[')?.1.split_once(']')?;
    Some(word.to_owned())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// A sysfs with one page size: global numbers, and those of node 1.
    fn sysfs(name: &str, global: &[(&str, u64)], node1: &[(&str, u64)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("tidegate-limits-{name}-{}", std::process::id()));
        let dirs = ["sys/kernel/mm/hugepages", "sys/devices/system/node/node1/hugepages"];
        for (dir, values) in dirs.iter().zip([global, node1]) {
            let dir = root.join(dir).join("hugepages-2048kB");
            fs::create_dir_all(&dir).unwrap();
            for (file, value) in values {
                fs::write(dir.join(file), format!("{value}\n")).unwrap();
            }
        }
        root
    }

    #[test]
    fn a_shortage_of_huge_pages_says_which_number_to_write_where() {
        let global = [("nr_hugepages", 10), ("free_hugepages", 6), ("resv_hugepages", 2)];
        let root = sysfs("global", &global, &[("nr_hugepages", 5), ("free_hugepages", 1)]);
        assert_eq!(shortage(&root, PageSize::M2, None, 4), None, "6 free, 2 promised to others");
        let short = shortage(&root, PageSize::M2, None, 8).unwrap();
        assert_eq!(
            short.to_string(),
            "8 huge pages of 2 MiB are needed, 4 are free; as root: echo 14 >\
             /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
        );
        let node = shortage(&root, PageSize::M2, Some(NodeId(1)), 2).unwrap();
        let file = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages".to_owned();
        assert_eq!(node, MemoryError::HugePages { size: PageSize::M2, needed: 2, free: 1, write: 6, file });
        assert!(matches!(shortage(&root, PageSize::G1, None, 1), Some(MemoryError::NoSuchPages { .. })));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn overcommitted_huge_pages_count_as_free_until_they_are_used() {
        let global = [("nr_overcommit_hugepages", 4), ("surplus_hugepages", 3), ("free_hugepages", 0)];
        let root = sysfs("overcommit", &global, &[]);
        assert_eq!(shortage(&root, PageSize::M2, None, 1), None);
        assert!(matches!(
            shortage(&root, PageSize::M2, None, 2),
            Some(MemoryError::HugePages { free: 1, .. })
        ));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_left_on_a_node_counts_clean_file_pages_and_no_shared_memory() {
        let root = std::env::temp_dir().join(format!("tidegate-limits-node-{}", std::process::id()));
        let dir = root.join("sys/devices/system/node/node0");
        fs::create_dir_all(&dir).unwrap();
        let text = "Node 0 MemTotal: 900 kB\nNode 0 MemFree:  100 kB\nNode 0 Dirty: 1 kB\nNode 0 FilePages: 50 kB\n\
                    Node 0 Mapped: 2 kB\nNode 0 Shmem: 7 kB\n";
        fs::write(dir.join("meminfo"), text).unwrap();
        assert_eq!(left_on(&root, NodeId(0)), Some((100 + 50 - 7 - 1 - 2) * 1024));
        assert_eq!(left_on(&root, NodeId(3)), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_limit_of_a_process_is_read_from_its_directory() {
        let root = std::env::temp_dir().join(format!("tidegate-limits-memlock-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let limits = |soft: &str| {
            let text = format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max locked memory         {soft}              9437184              bytes     \n"
            );
            fs::write(root.join("limits"), text).unwrap();
        };
        fs::write(root.join("status"), "Name:\tx\nVmLck:\t      12 kB\nVmPin:\t       8 kB\n").unwrap();
        limits("8388608");
        assert_eq!(
            Memlock::of(&root).unwrap(),
            Memlock { limit: 8 << 20, locked: 12 << 10, pinned: 8 << 10 }
        );
        limits("unlimited");
        assert_eq!(Memlock::of(&root).unwrap().limit, u64::MAX);
        fs::write(root.join("limits"), "Max open files 1 1 files\n").unwrap();
        assert_eq!(Memlock::of(&root).unwrap_err().kind(), io::ErrorKind::InvalidData);
        fs::remove_dir_all(&root).unwrap();
        assert!(Memlock::of(&root).is_err());
        assert_eq!(Memlock::now().limit, Memlock::of(Path::new("/proc/self")).unwrap().limit);
    }

    #[test]
    fn the_policy_for_shared_memory_is_the_word_in_brackets() {
        let root = std::env::temp_dir().join(format!("tidegate-limits-policy-{}", std::process::id()));
        assert_eq!(shared_huge_policy(&root), None);
        let file = root.join(SHMEM_ENABLED.trim_start_matches('/'));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "always within_size [advise] never deny force\n").unwrap();
        assert_eq!(shared_huge_policy(&root).as_deref(), Some("advise"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_refused_lock_is_explained_by_the_limit_only_where_the_limit_explains_it() {
        let now = Memlock::now();
        if now.limit != u64::MAX {
            let refused = Memlock::explain("mlock", libc::ENOMEM, now.limit + 1);
            assert!(matches!(refused, MemoryError::Memlock { limit, .. } if limit == now.limit));
        }
        let other = MemoryError::Os { op: "mlock", errno: libc::EINVAL };
        assert_eq!(Memlock::explain("mlock", libc::EINVAL, u64::MAX), other);
        let full = MemoryError::Memlock { op: "mlock", needed: 4096, used: 1024, limit: 2048 };
        assert!(full.to_string().contains("`ulimit -l 5`"), "{full}");
    }
}
