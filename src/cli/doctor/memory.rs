//! What memory the system grants.

use crate::cli::finding::{Finding, Question};
use std::path::Path;
use tidegate::core::memory::{Memlock, Memory, MemoryError, PageSize, shared_huge_policy, shortage};

/// Locks so many bytes for a moment.
pub(super) fn lock(bytes: u64) -> Result<(), MemoryError> {
    Memory::builder().name("doctor").len(bytes).lock(true).build().map(drop)
}

/// May this process lock so many bytes? `process` is its directory of procfs.
pub(super) fn locked(bytes: u64, answer: Result<(), MemoryError>, process: &Path) -> Finding {
    let question = Question::new(
        "memory.locked",
        format!("lock {} MiB", bytes >> 20),
        "memory that devices use is pinned, which counts against the memlock limit; iommufd and io_uring count all processes of the \
         user together",
    );
    let now = match Memlock::of(process) {
        Ok(Memlock { limit: u64::MAX, .. }) => "no limit".to_owned(),
        Ok(now) => format!(
            "the limit is {} KiB, {} KiB are in use",
            now.limit >> 10,
            now.locked.max(now.pinned) >> 10
        ),
        Err(error) => format!("{}: {error}", process.join("limits").display()),
    };
    match answer {
        Ok(()) => question.ok(format!("locked, and let go again; {now}")),
        Err(error @ MemoryError::Memlock { .. }) => {
            let kib = bytes >> 10;
            let fix = format!(
                "printf '* hard memlock {kib}\\n* soft memlock {kib}\\n' >/etc/security/limits.d/tidegate.conf  # then log in again; of a \
                 service: LimitMEMLOCK={}M",
                bytes >> 20
            );
            question.problem(error.to_string(), fix).errno(libc::ENOMEM)
        }
        Err(MemoryError::Os { op, errno }) => {
            let finding = question.problem(
                format!("{op}: {}; {now}", crate::cli::finding::os(errno)),
                "free -m  # is there so much memory?",
            );
            finding.errno(errno)
        }
        Err(error) => question.problem(format!("{error}; {now}"), "free -m  # is there so much memory?"),
    }
}

/// Are there huge pages for so many bytes, of either kind? `root` is where `sys` lies.
pub(super) fn huge(root: &Path, bytes: u64) -> [Finding; 2] {
    let pages = bytes.div_ceil(PageSize::M2.bytes());
    let question = Question::new(
        "memory.huge_pages",
        format!("count free huge pages of 2 MiB ({pages} wanted)"),
        "a huge page is one entry of the IOMMU instead of 512, and is never swapped or split",
    );
    let reserved = match shortage(root, PageSize::M2, None, pages) {
        None => question.ok(format!("{pages} are free")),
        Some(error @ MemoryError::HugePages { .. }) => {
            let MemoryError::HugePages { write, file, .. } = &error else { unreachable!("matched above") };
            let fix = format!(
                "echo {write} >{file} && cat {file}  # fewer than asked for: memory is fragmented, so at boot: hugepages={write}"
            );
            question.warning(error.to_string(), fix)
        }
        Some(error) => question.warning(error.to_string(), "# a kernel with CONFIG_HUGETLBFS"),
    };
    let enough = reserved.fix.is_none();
    let question = Question::new(
        "memory.shared_huge",
        "read /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "where no huge pages are reserved, memfds get transparent ones if this allows it",
    );
    let fix = "echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let transparent = match shared_huge_policy(root).as_deref() {
        Some(word @ ("never" | "deny")) if !enough => {
            question.warning(format!("{word}, and too few huge pages are reserved"), fix)
        }
        Some(word) => question.ok(word),
        None if enough => question.ok("the kernel has none; reserved ones are there"),
        None => question.warning("the kernel has none", "# see memory.huge_pages"),
    };
    [reserved, transparent]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::Status;
    use crate::cli::testing::{Scratch, scratch};

    fn machine() -> Scratch {
        let root = scratch("doctor");
        root.write("proc/self/limits", "Max locked memory  8388608  8388608  bytes\n");
        root.write("proc/self/status", "VmLck:\t 4 kB\n");
        root
    }

    #[test]
    fn a_memlock_limit_that_is_too_low_says_how_to_raise_it() {
        let root = machine();
        let process = root.path().join("proc/self");
        let fine = locked(1 << 20, Ok(()), &process);
        assert_eq!((fine.status, fine.fix.as_deref()), (Status::Ok, None));
        assert!(fine.answered.contains("the limit is 8192 KiB, 4 KiB are in use"), "{}", fine.answered);
        let full = MemoryError::Memlock { op: "mlock", needed: 64 << 20, used: 0, limit: 8 << 20 };
        let full = locked(64 << 20, Err(full), &process);
        assert_eq!((full.status, full.errno), (Status::Problem, Some(libc::ENOMEM)));
        assert!(full.fix.unwrap().contains("soft memlock 65536"));
        let other = locked(64 << 20, Err(MemoryError::Os { op: "mlock", errno: libc::EPERM }), &process);
        assert_eq!((other.status, other.errno), (Status::Problem, Some(libc::EPERM)));
    }

    #[test]
    fn too_few_huge_pages_are_a_warning_that_names_the_number_and_the_file() {
        let root = machine();
        let pool = "sys/kernel/mm/hugepages/hugepages-2048kB";
        let [reserved, transparent] = huge(root.path(), 8 << 20);
        assert_eq!((reserved.status, transparent.status), (Status::Warning, Status::Warning));
        root.write(&format!("{pool}/nr_hugepages"), "3\n");
        root.write(&format!("{pool}/free_hugepages"), "2\n");
        root.write("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always advise [never]\n");
        let [reserved, transparent] = huge(root.path(), 8 << 20);
        assert!(
            reserved
                .fix
                .unwrap()
                .starts_with("echo 5 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
        );
        assert_eq!(transparent.status, Status::Warning);
        root.write(&format!("{pool}/free_hugepages"), "4\n");
        let [reserved, transparent] = huge(root.path(), 8 << 20);
        assert_eq!(
            (reserved.status, transparent.status),
            (Status::Ok, Status::Ok),
            "the second choice is not needed"
        );
        root.write(&format!("{pool}/free_hugepages"), "0\n");
        root.write("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always [advise] never\n");
        assert_eq!(huge(root.path(), 8 << 20)[1].status, Status::Ok);
    }
}
