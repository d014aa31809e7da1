//! The topology by hwloc.

use super::{Cache, Node, NodeId, Topology, TopologyError};
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::{CacheType, ObjectType};
use hwlocality::topology::builder::{TopologyBuilder, TypeFilter};

fn failed(error: impl std::fmt::Display) -> TopologyError {
    TopologyError::Hwloc(error.to_string())
}

pub(super) fn load() -> Result<Topology, TopologyError> {
    let builder = TopologyBuilder::new().with_io_type_filter(TypeFilter::KeepAll).map_err(failed)?;
    Ok(copy(&builder.build().map_err(failed)?))
}

pub(super) fn synthetic(description: &str) -> Result<Topology, TopologyError> {
    let builder = TopologyBuilder::new().from_synthetic(description).map_err(failed)?;
    Ok(copy(&builder.build().map_err(failed)?))
}

/// What we use of it, by value.
fn copy(hwloc: &hwlocality::Topology) -> Topology {
    let mut all = Topology::default();
    for object in hwloc.objects_with_type(ObjectType::NUMANode) {
        let Some(id) = object.os_index() else { continue };
        let bytes = match object.attributes() {
            Some(ObjectAttributes::NUMANode(node)) => node.local_memory().map_or(0, u64::from),
            _ => 0,
        };
        all.nodes.push(Node { id: NodeId(id as u32), cpus: cpus(object), bytes });
    }
    all.nodes.sort_by_key(|node| node.id);
    for object in hwloc.objects() {
        match object.attributes() {
            Some(ObjectAttributes::Cache(cache)) if cache.cache_type() != CacheType::Instruction => {
                let bytes = cache.size().map_or(0, u64::from);
                all.caches.push(Cache { level: cache.depth() as u32, bytes, cpus: cpus(object) });
            }
            Some(ObjectAttributes::PCIDevice(device)) => {
                let at =
                    (u32::from(device.domain()), device.bus_id(), device.bus_device(), device.function());
                if let Some(node) = only_node(object) {
                    all.devices.insert(at, node);
                }
            }
            _ => {}
        }
    }
    all.caches.sort_by_key(|cache| cache.level);
    all
}

fn cpus(object: &TopologyObject) -> Vec<u32> {
    let Some(set) = object.cpuset() else { return Vec::new() };
    set.iter_set().map(|cpu| usize::from(cpu) as u32).collect()
}

/// The node that a device is near to, if it is one.
fn only_node(device: &TopologyObject) -> Option<NodeId> {
    let set = device.first_non_io_ancestor()?.nodeset()?;
    let mut nodes = set.iter_set().map(|node| NodeId(usize::from(node) as u32));
    let first = nodes.next()?;
    nodes.next().is_none().then_some(first)
}
