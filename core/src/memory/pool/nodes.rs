//! A pool on each NUMA node.

use super::{Pool, PoolError};
use crate::memory::{Memory, MemoryBuilder, MemoryError};
use crate::region::Region;
use crate::tag::RegionTag;
use crate::topology::{NodeId, Topology};
use std::sync::Arc;

/// Pools of the same buffers, one on each node with memory.
#[derive(Debug)]
pub struct Pools<T: RegionTag> {
    pools: Vec<(NodeId, Pool<T>)>,
}

impl<T: RegionTag> Pools<T> {
    /// Allocates memory as `each` asks on every node of the machine that has memory, lets `register` make a region of
    /// it (in the fabric, or in a domain), and cuts that into buffers ([`Pool::new`]).
    ///
    /// # Errors
    /// Of the memory, of `register`, of the pool; what was made so far is dropped.
    pub fn new<E: From<MemoryError> + From<PoolError>>(
        topology: &Topology,
        each: &MemoryBuilder,
        (size, magazine): (u64, usize),
        mut register: impl FnMut(NodeId, &Arc<Memory>) -> Result<Region<T>, E>,
    ) -> Result<Pools<T>, E> {
        let mut pools = Vec::new();
        for node in topology.nodes().iter().filter(|node| node.bytes > 0) {
            let memory = each.clone().node(node.id).build()?;
            let region = register(node.id, &memory)?;
            pools.push((node.id, Pool::new([region], size, magazine)?));
        }
        Ok(Pools { pools })
    }

    /// Made otherwise: pools and their nodes.
    pub fn of(pools: impl IntoIterator<Item = (NodeId, Pool<T>)>) -> Pools<T> {
        Pools { pools: pools.into_iter().collect() }
    }

    /// The pool on a node.
    pub fn on(&self, node: NodeId) -> Option<&Pool<T>> {
        self.pools.iter().find(|(id, _)| *id == node).map(|(_, pool)| pool)
    }

    /// The pool nearest to a node, which need not have memory itself. `None` only if there is no pool at all.
    pub fn near(&self, topology: &Topology, node: NodeId) -> Option<&Pool<T>> {
        let nearest = topology.by_distance(node).into_iter().find_map(|id| self.on(id));
        nearest.or(self.pools.first().map(|(_, pool)| pool))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Pool<T>)> {
        self.pools.iter().map(|(node, pool)| (*node, pool))
    }
}
