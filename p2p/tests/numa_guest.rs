//! Memory and topology on a machine of two NUMA nodes: `ci/vm run --numa --env TIDEGATE_GUEST=1 -- <this binary>`.
//!
//! The guest has a CPU, 1 GiB and a PCIe host bridge (pxb-pcie) with an edu behind it on each node, at distance 21.
//! Elsewhere each test says that it is skipped.
#![expect(unsafe_code, reason = "a thread that gives up a capability, and a limit")]

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_core::memory::{Huge, Memory, MemoryError, PageSize, Pages};
use tidegate_core::topology::{NodeId, Topology};
use tidegate_core::{Access, ChannelConfig, Completion, Fabric, Op, Status, Submit};
use tidegate_p2p::backend::BackendError;
use tidegate_p2p::engine::edu::Edu;
use tidegate_p2p::pci::PciAddress;
use tidegate_p2p::vfio::Vfio;
use tidegate_p2p::{Domain, DomainError};

const NODES: [NodeId; 2] = [NodeId(0), NodeId(1)];
const MIB: u64 = 1 << 20;
const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// One test at a time: they share the machine's settings.
fn guest() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    if std::env::var_os("TIDEGATE_GUEST").is_none_or(|value| value != "1") {
        // Past the harness, which swallows what a passing test prints.
        let line = b"\nskipped: not in the testbed guest (TIDEGATE_GUEST is not 1)\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
        return None;
    }
    Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn nr_hugepages(node: NodeId) -> String {
    format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages")
}

/// As many 2 MiB pages on each node from now on.
fn reserve(pages: u64) {
    for node in NODES {
        fs::write(nr_hugepages(node), pages.to_string()).unwrap();
        assert_eq!(fs::read_to_string(nr_hugepages(node)).unwrap().trim(), pages.to_string());
    }
}

/// Waits until what former tests had, which is freed behind them, is free again.
fn all_free(pages: u64) {
    for node in NODES {
        let free = nr_hugepages(node).replace("/nr_", "/free_");
        let since = Instant::now();
        while fs::read_to_string(&free).unwrap().trim() != pages.to_string() {
            assert!(since.elapsed() < Duration::from_secs(60), "somebody holds huge pages of node {node}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn all_on(got: &Pages, node: NodeId, len: u64) {
    assert_eq!(got.resident, len, "{got:?}");
    assert_eq!(got.nodes.clone().unwrap().into_iter().collect::<Vec<_>>(), [(node, len)], "{got:?}");
}

/// The edu behind the host bridge of a node.
fn edu_on(node: NodeId, topology: &Topology) -> PciAddress {
    let all = Vfio::new().unwrap().by_id(0x1234, 0x11e8).unwrap();
    let near: Vec<_> = all.iter().filter(|at| topology.node_of_pci(&at.to_string()) == Some(node)).collect();
    assert_eq!(near.len(), 1, "one of {all:?} is on node {node}");
    *near[0]
}

#[test]
fn both_nodes_are_seen_with_their_cpus_and_their_distance() {
    let Some(_alone) = guest() else { return };
    let topology = Topology::load().unwrap();
    let seen: Vec<_> = topology.nodes().iter().map(|node| (node.id, node.cpus.clone())).collect();
    assert_eq!(seen, [(NODES[0], vec![0]), (NODES[1], vec![1])]);
    assert!(topology.nodes().iter().all(|node| node.bytes > 900 * MIB));
    assert_eq!(topology.distance(NODES[0], NODES[1]), Some(21));
    assert_eq!(topology.by_distance(NODES[1]), [NODES[1], NODES[0]]);
    assert!(NODES.contains(&topology.node_here().unwrap()));
}

#[test]
fn a_device_behind_a_bridge_of_a_node_is_on_that_node() {
    let Some(_alone) = guest() else { return };
    let topology = Topology::load().unwrap();
    for node in NODES {
        let at = edu_on(node, &topology);
        let told = fs::read_to_string(format!("/sys/bus/pci/devices/{at}/numa_node")).unwrap();
        assert_eq!(told.trim(), node.to_string());
    }
    // The root bus's edus are nobody's: no node is made up for them.
    let all = Vfio::new().unwrap().by_id(0x1234, 0x11e8).unwrap();
    let nobody = all.iter().filter(|at| topology.node_of_pci(&at.to_string()).is_none()).count();
    assert_eq!((all.len(), nobody), (4, 2));
}

#[test]
fn plain_memory_asked_for_on_a_node_is_on_that_node() {
    let Some(_alone) = guest() else { return };
    for node in NODES {
        let memory = Memory::builder().name("plain").len(3 * MIB).node(node).build().unwrap();
        all_on(&memory.pages().unwrap(), node, 3 * MIB);
    }
    let two = Memory::builder().name("no such node").len(MIB).node(NodeId(2)).build();
    assert_eq!(two.unwrap_err(), MemoryError::NoNode { wanted: NodeId(2), nodes: NODES.to_vec() });
    let much = Memory::builder().name("too much").len(1100 * MIB).node(NODES[1]).build();
    assert!(matches!(much, Err(MemoryError::NodeFull { node: NodeId(1), .. })), "{much:?}");
}

#[test]
fn pages_that_the_device_side_pulls_in_obey_the_node_too() {
    let Some(_alone) = guest() else { return };
    // The policy is the file's: what a write through the descriptor allocates, as the kernel does for MAP_FILE, is
    // on the node, whatever CPU it runs on. Populating made them already; a hole is made for the proof.
    for node in NODES {
        let memory = Memory::builder().name("by fd").len(MIB).node(node).build().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), memory.fd().as_raw_fd());
        let punched = Command::new("fallocate").args(["--punch-hole", "--length", "1MiB", &path]).status();
        assert!(punched.unwrap().success());
        assert_eq!(memory.pages().unwrap().resident, 0);
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&vec![1; MIB as usize], 0).unwrap();
        // Into the page tables, so that the kernel can be asked where it is.
        memory.read(0, &mut vec![0; MIB as usize]).unwrap();
        all_on(&memory.pages().unwrap(), node, MIB);
    }
}

#[test]
fn huge_pages_asked_for_on_a_node_are_on_that_node() {
    let Some(_alone) = guest() else { return };
    reserve(16);
    all_free(16);
    let huge = |node, len| {
        let memory = Memory::builder().name("huge").len(len).huge(Huge::Require(PageSize::M2)).lock(true);
        memory.node(node).build()
    };
    for node in NODES {
        let memory = huge(node, 7 * MIB).unwrap();
        assert_eq!(memory.len(), 8 * MIB, "whole pages");
        let got = memory.pages().unwrap();
        assert_eq!((got.page, got.huge, got.dont_fork, got.tried.len()), (2 * MIB, 8 * MIB, true, 0));
        all_on(&got, node, 8 * MIB);
        // 16 in all, 4 taken here: the machine has more, but not this node.
        let file = nr_hugepages(node);
        let short = huge(node, 26 * MIB).unwrap_err();
        assert_eq!(
            short,
            MemoryError::HugePages { size: PageSize::M2, needed: 13, free: 12, write: 17, file }
        );
        // What the message says to write is enough.
        fs::write(nr_hugepages(node), "17").unwrap();
        all_on(&huge(node, 26 * MIB).unwrap().pages().unwrap(), node, 26 * MIB);
        reserve(16);
    }
}

#[test]
fn transparent_pages_come_where_the_system_allows_them_and_else_the_file_is_named() {
    let Some(_alone) = guest() else { return };
    reserve(0);
    let policy = |word| fs::write(SHMEM_ENABLED, word).unwrap();
    let built = || {
        let memory =
            Memory::builder().name("try").len(8 * MIB).huge(Huge::Try).node(NODES[1]).build().unwrap();
        let got = memory.pages().unwrap();
        all_on(&got, NODES[1], 8 * MIB);
        got
    };
    policy("never");
    let never = built();
    let short = &never.tried[0];
    assert!(matches!(short, MemoryError::HugePages { needed: 4, free: 0, write: 4, .. }), "{short}");
    let refused =
        MemoryError::Transparent { huge: 0, len: 8 * MIB, now: "never".to_owned(), file: SHMEM_ENABLED };
    assert_eq!((never.huge, never.tried.get(1)), (0, Some(&refused)));
    assert!(refused.to_string().contains("echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled"));
    policy("advise");
    let advise = built();
    assert_eq!((advise.page, advise.huge, advise.tried.len()), (4096, 8 * MIB, 1), "{advise:?}");
    // As the message says: hugetlb before all.
    reserve(4);
    assert_eq!((built().page, built().tried), (2 * MIB, vec![]));
    policy("never");
    reserve(16);
}

#[test]
fn a_device_moves_bytes_between_huge_pages_of_its_own_node_and_those_of_the_other() {
    let Some(_alone) = guest() else { return };
    reserve(16);
    let topology = Topology::load().unwrap();
    let at = edu_on(NODES[1], &topology);
    let fabric = Fabric::builder().build().unwrap();
    let domain = Domain::new(&fabric, Vfio::new().unwrap()).unwrap();
    let device = domain.attach(at).unwrap();
    let node = topology.node_of_pci(&at.to_string()).unwrap();
    let huge = Memory::builder().name("dma").len(4 * MIB).huge(Huge::Require(PageSize::M2));
    let (near, far) = (huge.clone().node(node).build().unwrap(), huge.node(NODES[0]).build().unwrap());
    // Across the border of two pages.
    let (place, bytes) = (2 * MIB - 1000..2 * MIB + 1000, [0xa7; 2000]);
    near.write(place.start, &bytes).unwrap();
    let from = domain.register(near.backing(), Access::Read).unwrap();
    let to = domain.register(far.backing(), Access::Write).unwrap();
    let poller = fabric.poller("numa");
    let mut channel =
        device.channel(&poller, Edu::default().address_bits(48), ChannelConfig::default()).unwrap();
    let copy = Op::copy(from.handle().span(place.clone()), to.handle().span(place.clone()));
    assert!(matches!(channel.pin().unwrap().submit(copy), Submit::Queued(_)));
    let mut done = [Completion::EMPTY; 1];
    while channel.pin().unwrap().poll(&mut done) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!((done[0].status, done[0].len), (Status::Done, 2000));
    let mut back = [0; 2000];
    far.read(place.start, &mut back).unwrap();
    assert_eq!(back, bytes);
}

/// The calling thread has no CAP_IPC_LOCK from here on (capabilities are each thread's own).
fn give_up_ipc_lock() {
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: 1. version 3 has a header of two words and two sets of three words, which the arrays hold.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) }, 0);
    sets[0] &= !(1 << 14);
    // SAFETY: 1. as above.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) }, 0);
}

fn memlock(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: 1. a valid limit, for this process.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
}

#[test]
fn memory_that_a_device_pins_beyond_the_memlock_limit_is_refused_with_what_to_set() {
    let Some(_alone) = guest() else { return };
    let topology = Topology::load().unwrap();
    let fabric = Fabric::builder().build().unwrap();
    let domain = Domain::new(&fabric, Vfio::new().unwrap()).unwrap();
    let _device = domain.attach(edu_on(NODES[0], &topology)).unwrap();
    memlock(MIB);
    let register = || {
        give_up_ipc_lock();
        let memory = |len| Memory::allocate("pinned", len).unwrap().backing();
        let held = domain.register(memory(MIB / 2), Access::ReadWrite).unwrap();
        let refused = domain.register(memory(MIB), Access::ReadWrite).unwrap_err();
        (held, refused)
    };
    let (held, refused) = std::thread::scope(|scope| scope.spawn(register).join().unwrap());
    memlock(libc::RLIM_INFINITY);
    let DomainError::Backend(BackendError::Limit(error)) = refused else { panic!("{refused:?}") };
    let op = "IOMMU_IOAS_MAP_FILE";
    assert_eq!(error, MemoryError::Memlock { op, needed: MIB, used: MIB / 2, limit: MIB });
    drop(held);
}
