//! Host memory for DMA: memfds, mapped once, seen only through volatile copies; on huge pages and NUMA nodes where
//! that is asked for; and pools of equal buffers.
//!
//! [`Memory::allocate`] is the short form: plain pages, no placement. [`Memory::builder`] asks for more, and
//! [`Memory::pages`] reads back what was really got:
//!
//! ```
//! use tidegate_core::memory::{Huge, Memory};
//!
//! let memory = Memory::builder().name("rx").len(4 << 20).huge(Huge::Try).build()?;
//! let got = memory.pages()?;
//! assert_eq!(got.resident, memory.len()); // `Try` populates at once
//! for reason in &got.tried {
//!     eprintln!("{reason}"); // "… as root: echo 2 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
//! }
//! # Ok::<(), tidegate_core::MemoryError>(())
//! ```
//!
//! # Which pages
//!
//! * *hugetlb* ([`Huge::Require`], and the first choice of [`Huge::Try`]): reserved by the administrator, never split,
//!   never swapped, one IOMMU entry each. What is missing is an error of `build`, with the file to write.
//! * *transparent* (the second choice of `Try`): a memfd gets them only where
//!   `/sys/kernel/mm/transparent_hugepage/shmem_enabled` allows it, which by default it does not; and the kernel may
//!   split them. `MADV_COLLAPSE` is refused there too (EINVAL on 6.18 and 7.3, the kernels tried).
//! * *plain*: everything else.
//!
//! # Which node
//!
//! [`crate::topology::Topology`] knows the node of a device or a CPU; [`MemoryBuilder::node`] puts memory there, with
//! `mbind(MPOL_BIND)`, and `build` fails if a page lies elsewhere. hwlocality's memory binding takes a Rust reference
//! to the area, which memory that devices write must not have (M1); so the topology is hwloc's and the call is our own.
//!
//! # Pools
//!
//! [`Pool`], [`PoolCache`] (a poller's own part of a pool), [`Pools`] (one a node).

mod build;
mod bytes;
mod error;
mod limits;
mod map;
mod pages;
mod pool;

pub use build::{Huge, MemoryBuilder, PageSize};
pub use bytes::{Backing, Memory, page_size};
pub use error::MemoryError;
pub use limits::{Memlock, shared_huge_policy, shortage};
pub use pages::Pages;
pub use pool::{Buffer, Pool, PoolCache, PoolError, PoolState, Pools};

#[cfg(all(test, not(loom)))]
mod tests;
