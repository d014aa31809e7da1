//! The topology by sysfs: what the kernel says without hwloc.
#![expect(unsafe_code, reason = "sched_getcpu; topology's tests")]

use super::{Node, NodeId, Pci, Topology, TopologyError, pci};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The nodes that have memory, ascending; node 0 on a kernel without NUMA. Reads one small file.
pub(crate) fn memory_nodes(root: &Path) -> Vec<NodeId> {
    match fs::read_to_string(root.join("sys/devices/system/node/has_memory")) {
        Ok(text) => list(&text).into_iter().map(NodeId).collect(),
        Err(_) => vec![NodeId(0)],
    }
}

/// The CPU that runs the calling thread.
pub(super) fn cpu_here() -> Option<u32> {
    // SAFETY: 1. takes nothing, gives a number or -1.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// All of it, below `root` ("/").
#[cfg_attr(feature = "numa", allow(dead_code, reason = "the tests compare it with hwloc"))]
pub(super) fn load(root: &Path) -> Result<Topology, TopologyError> {
    let system = root.join("sys/devices/system");
    let read = |path: &str| fs::read_to_string(system.join(path)).unwrap_or_default();
    let online = list(&read("cpu/online"));
    if online.is_empty() {
        return Err(TopologyError::Sysfs);
    }
    let mut nodes: Vec<Node> = list(&read("node/online"))
        .into_iter()
        .map(|id| {
            let mut cpus = list(&read(&format!("node/node{id}/cpulist")));
            cpus.retain(|cpu| online.binary_search(cpu).is_ok());
            Node { id: NodeId(id), cpus, bytes: total(&read(&format!("node/node{id}/meminfo"))) }
        })
        .collect();
    if nodes.is_empty() {
        let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        nodes.push(Node { id: NodeId(0), cpus: online, bytes: total(&meminfo) });
    }
    let mut devices = devices(root);
    // A device of nobody is near to the only node there is.
    if let [only] = nodes.as_slice() {
        for at in addresses(root) {
            devices.entry(at).or_insert(only.id);
        }
    }
    let distances = distances(root, &nodes);
    Ok(Topology { nodes, caches: Vec::new(), devices, distances })
}

/// PCI functions whose node the firmware told.
pub(super) fn devices(root: &Path) -> BTreeMap<Pci, NodeId> {
    let dir = root.join("sys/bus/pci/devices");
    let node = |(domain, bus, device, function): Pci| {
        let name = format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}/numa_node");
        // -1 is "not told".
        fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u32>().ok().map(NodeId)
    };
    addresses(root).into_iter().filter_map(|at| Some((at, node(at)?))).collect()
}

fn addresses(root: &Path) -> Vec<Pci> {
    let entries = fs::read_dir(root.join("sys/bus/pci/devices")).into_iter().flatten().flatten();
    entries.filter_map(|entry| pci(entry.file_name().to_str()?)).collect()
}

/// The kernel's rows of distances; a row has a number for each online node, ascending.
pub(super) fn distances(root: &Path, nodes: &[Node]) -> BTreeMap<NodeId, Vec<u32>> {
    let row = |id: NodeId| {
        let text =
            fs::read_to_string(root.join(format!("sys/devices/system/node/node{id}/distance"))).ok()?;
        let row: Vec<u32> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
        (row.len() == nodes.len()).then_some(row)
    };
    nodes.iter().filter_map(|node| Some((node.id, row(node.id)?))).collect()
}

/// MemTotal in bytes.
fn total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.split_once("MemTotal:"));
    let kib = line.and_then(|(_, rest)| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// `0-2,5` is 0, 1, 2, 5. What is no list is empty.
fn list(text: &str) -> Vec<u32> {
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            all.extend(first..=last);
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn lists_of_sysfs_are_read() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list("3"), [3]);
        assert_eq!(list(""), [0; 0]);
    }

    #[test]
    fn two_nodes_are_read_from_a_sysfs_that_a_test_wrote() {
        let root = std::env::temp_dir().join(format!("tidegate-sysfs-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/devices/system/cpu/online", "0-2\n");
        write("sys/devices/system/node/online", "0,2\n");
        write("sys/devices/system/node/has_memory", "2\n");
        write("sys/devices/system/node/node0/cpulist", "0-1\n");
        write("sys/devices/system/node/node0/distance", "10 31\n");
        write("sys/devices/system/node/node2/cpulist", "2-3\n");
        write("sys/devices/system/node/node2/distance", "31 10\n");
        write(
            "sys/devices/system/node/node2/meminfo",
            "Node 2 MemTotal:       2048 kB\nNode 2 MemFree: 1 kB\n",
        );
        write("sys/bus/pci/devices/0000:41:00.0/numa_node", "2\n");
        write("sys/bus/pci/devices/0000:42:00.0/numa_node", "-1\n");
        let machine = load(&root).unwrap();
        assert_eq!(
            machine.nodes()[1],
            Node { id: NodeId(2), cpus: vec![2], bytes: 2 << 20 },
            "3 is not online"
        );
        assert_eq!(machine.node_of_cpu(1), Some(NodeId(0)));
        assert_eq!(machine.distance(NodeId(0), NodeId(2)), Some(31));
        assert_eq!(machine.node_of_pci("41:00.0"), Some(NodeId(2)));
        assert_eq!(machine.node_of_pci("42:00.0"), None, "nobody told, and there are two nodes");
        assert_eq!(memory_nodes(&root), [NodeId(2)]);
        fs::remove_dir_all(root).unwrap();
    }
}
