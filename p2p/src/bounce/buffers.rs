//! The host memory between the legs.

use crate::backend::Backend;
use crate::domain::{Domain, DomainError};
use std::sync::Arc;
use tidegate_core::memory::{Buffer, Memory, MemoryBuilder, Pool};
use tidegate_core::topology::NodeId;
use tidegate_core::{Access, MemoryError, Region, Shared, Span, page_size};

/// Equal pieces of host memory that both legs reach.
#[derive(Debug)]
pub struct Buffers {
    place: Place,
    size: u64,
}

#[derive(Debug)]
enum Place {
    /// One memory, registered with the first leg's domain, and with the second's where that is another.
    Own { first: Region<Shared>, second: Option<Region<Shared>>, count: usize },
    /// Of a pool of the one domain that both legs are in.
    Pool(Vec<Buffer<Shared>>),
}

/// The buffers could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuffersError {
    /// Fewer than two, or of no bytes, or too many bytes in all: with one buffer the legs would take turns.
    #[error("{count} buffers of {size} bytes: at least two are needed, of 1 byte to 1 GiB")]
    Shape {
        /// How many.
        count: usize,
        /// Bytes of each.
        size: u64,
    },
    /// The pool has too few.
    #[error("the pool had {had} of {count} buffers")]
    Pool {
        /// How many were asked for.
        count: usize,
        /// How many there were.
        had: usize,
    },
    /// Host memory could not be had; of a node: not on that node.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// It could not be registered.
    #[error(transparent)]
    Domain(Box<DomainError>),
}

impl From<DomainError> for BuffersError {
    fn from(error: DomainError) -> Self {
        BuffersError::Domain(Box::new(error))
    }
}

impl Buffers {
    /// Allocates `count` buffers of `size` bytes (rounded up to whole pages) on `node`, where one is named
    /// ([`crate::route::Topology::node_between`]), and registers them with the domains of both legs: once, if they are
    /// one. vfio: one MAP_FILE a domain.
    ///
    /// # Errors
    /// [`BuffersError`].
    pub fn new<A: Backend, B: Backend>(
        first: &Domain<A>,
        second: &Domain<B>,
        count: usize,
        size: u64,
        node: Option<NodeId>,
    ) -> Result<Buffers, BuffersError> {
        check(count, size)?;
        let size = size.next_multiple_of(page_size());
        let len = size.checked_mul(count as u64).ok_or(BuffersError::Shape { count, size })?;
        let builder: MemoryBuilder = Memory::builder().name("bounce").len(len).prefault(true);
        let memory = match node {
            Some(node) => builder.node(node).build()?,
            None => builder.build()?,
        };
        // By place: of two fabrics both may have the same ids, and the backends may be of two types.
        let one = Arc::as_ptr(&first.0).cast::<()>() == Arc::as_ptr(&second.0).cast::<()>();
        let region = first.register(memory.backing(), Access::ReadWrite)?;
        let other = if one { None } else { Some(second.register(memory.backing(), Access::Read)?) };
        Ok(Buffers { place: Place::Own { first: region, second: other, count }, size })
    }

    /// Takes `count` buffers of a pool whose regions are in the domain of both legs. They go back when this is dropped,
    /// unless a device may still be using them: then they are leaked. Takes the depot's lock.
    ///
    /// # Errors
    /// [`BuffersError`]; what was taken goes back.
    pub fn of_pool(pool: &Pool<Shared>, count: usize) -> Result<Buffers, BuffersError> {
        let size = pool.buffer_len();
        check(count, size)?;
        let buffers: Vec<_> = std::iter::from_fn(|| pool.get()).take(count).collect();
        if buffers.len() < count {
            return Err(BuffersError::Pool { count, had: buffers.len() });
        }
        Ok(Buffers { place: Place::Pool(buffers), size })
    }

    /// How many.
    pub fn count(&self) -> usize {
        match &self.place {
            Place::Own { count, .. } => *count,
            Place::Pool(buffers) => buffers.len(),
        }
    }

    /// Bytes of each.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first `len` bytes of a buffer, as the first leg (`into`) or the second sees them.
    pub(super) fn span(&self, index: usize, len: u64, into: bool) -> Span<Shared> {
        let start = index as u64 * self.size;
        match &self.place {
            Place::Own { first, second, .. } => {
                let region = if into { first } else { second.as_ref().unwrap_or(first) };
                region.handle().span(start..start + len)
            }
            Place::Pool(buffers) => match buffers.get(index) {
                Some(buffer) => buffer.span(0..len),
                None => unreachable!("an index is below `count`"),
            },
        }
    }

    /// A device may still write them: they must not be handed out again. Regions see to that by themselves: a drop
    /// revokes them, and what does not stop goes to quarantine.
    pub(super) fn keep(&mut self) {
        if let Place::Pool(buffers) = &mut self.place {
            let count = buffers.len();
            tracing::warn!(
                count,
                "a bounce is dropped while its devices are at work: its buffers are leaked"
            );
            buffers.drain(..).for_each(std::mem::forget);
        }
    }
}

fn check(count: usize, size: u64) -> Result<(), BuffersError> {
    let fits = count >= 2 && (1..=1 << 30).contains(&size);
    if fits { Ok(()) } else { Err(BuffersError::Shape { count, size }) }
}
