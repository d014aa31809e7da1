//! NVMe against the promises of every engine: with scatter-gather lists, with pages only, with its commands in the
//! controller's memory buffer, and with the admin queues there: commands alone, as QEMU's controller takes them, and both.

use super::{AdminQueues, Nvme, NvmeEngine};
use crate::backend::Backend;
use crate::device::{Driver, DriverError, Resources};
use crate::engine::conformance::rig::{Piece, Rig};
use crate::engine::conformance::{On, Subject, medium};
use crate::pci::PciAddress;
use crate::soft::Builder;
use crate::soft::device::nvme::{self as model, Lists, Takes};
use tidegate_core::Op;

/// With pages only.
pub(super) struct Pages(Nvme);
/// With pages only, and commands in the memory buffer.
pub(super) struct Buffered(Nvme);
/// With all commands in it, the admin queue's too.
pub(super) struct Commands(Nvme);
/// With both admin queues in it, and the commands.
pub(super) struct Admin(Nvme);

/// A controller of 4 MiB in blocks of 512 bytes.
fn controller() -> model::Nvme {
    model::Nvme::new(8192, 9).buffer(1 << 20).buffer_takes(Takes::Queues)
}

macro_rules! subject {
    ($name:ident, $lists:expr, $align:expr, |$depth:ident| $make:expr) => {
        impl Subject for $name {
            const NAME: &'static str = "nvme";
            const LENGTHS: &'static [u64] = &[512, 1024, 4096, 4608, 8192, 12_288, 16_384];
            const FEW_LENGTHS: &'static [u64] = &[512, 8192, 12_800];
            const UNIT: u64 = 512;
            const ALIGN: u64 = $align;
            const TELLS_DEAD: bool = false;

            fn soft(on: Builder, at: PciAddress) -> Builder {
                let model = controller().lists($lists);
                on.device(at, model.description(), model)
            }

            fn make($depth: u32) -> Self {
                $make
            }

            fn refused<B: Backend>(rig: &mut Rig<B, Self>) -> Vec<Op>
            where
                Self: On<B>,
            {
                refused(rig)
            }

            fn stock<B: Backend>(rig: &mut Rig<B, Self>, n: u64, bytes: &[u8])
            where
                Self: On<B>,
            {
                medium::stock(rig, n, bytes);
            }

            fn load<B: Backend>(rig: &mut Rig<B, Self>, n: u64, to: Piece) -> Op
            where
                Self: On<B>,
            {
                medium::load(rig, n, to)
            }

            fn store<B: Backend>(rig: &mut Rig<B, Self>, from: Piece, n: u64) -> Op
            where
                Self: On<B>,
            {
                medium::store(rig, from, n)
            }

            fn stored<B: Backend>(rig: &mut Rig<B, Self>, n: u64, len: u64) -> Vec<u8>
            where
                Self: On<B>,
            {
                medium::stored(rig, n, len)
            }
        }
    };
}

macro_rules! driver {
    ($name:ident) => {
        impl<B: Backend> Driver<B> for $name {
            type Engine = NvmeEngine<B>;

            fn open(self, resources: Resources<B>) -> Result<NvmeEngine<B>, DriverError> {
                self.0.open(resources)
            }
        }
    };
}

subject!(Nvme, Lists::Bytes, 1, |depth| Nvme::namespace(1).depth(depth));
subject!(Pages, Lists::None, 4, |depth| Pages(Nvme::namespace(1).depth(depth).pages_only()));
subject!(Buffered, Lists::None, 4, |depth| {
    Buffered(Nvme::namespace(1).depth(depth).pages_only().commands_in_buffer().queue(3))
});
driver!(Pages);
subject!(Commands, Lists::Bytes, 1, |depth| {
    let driver = Nvme::namespace(1).depth(depth).commands_in_buffer();
    Commands(driver.admin_queues(AdminQueues::CommandsInBuffer))
});
subject!(Admin, Lists::Bytes, 1, |depth| {
    Admin(Nvme::namespace(1).depth(depth).commands_in_buffer().admin_queues(AdminQueues::InBuffer))
});
driver!(Buffered);
driver!(Commands);
driver!(Admin);

/// Copies and fills; what is not whole blocks, or reaches past the end.
fn refused<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) -> Vec<Op> {
    let (block, half) = (rig.host(0, 512).span, rig.host(0, 256).span);
    vec![
        Op::copy(block, rig.host(512, 512).span),
        Op::fill(block, 7),
        Op::read(256, block),
        Op::write(block, 511),
        Op::read(0, half),
        Op::write(half, 0),
        Op::read(1 << 40, block),
        Op::read(u64::MAX - 511, block),
    ]
}

mod lists {
    use super::*;
    on_soft!(Nvme: moves fences shelves confirms flushes);
    in_guest!(Nvme: moves fences shelves confirms flushes);
}

mod pages {
    use super::*;
    on_soft!(Pages: moves fences shelves confirms flushes);
    in_guest!(Pages: moves confirms);
}

mod buffered {
    use super::*;
    on_soft!(Buffered: moves fences shelves confirms flushes);
    in_guest!(Buffered: moves shelves);
}

mod commands {
    use super::*;
    on_soft!(Commands: moves fences shelves confirms flushes);
    in_guest!(Commands: moves shelves confirms);
}

mod admin {
    use super::*;
    on_soft!(Admin: moves fences shelves confirms flushes);
}
