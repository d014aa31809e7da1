//! The admin queues in the controller memory buffer: what is asked for and not there, who decides, and starts after stops.

use super::{behind, plain, with};
use crate::backend::{Backend, Function, Registers};
use crate::device::{DeviceError, DriverError};
use crate::domain::Want;
use crate::engine::code;
use crate::engine::conformance::On;
use crate::engine::conformance::rig::{AT_ONCE, DEPTH, Rig};
use crate::engine::conformance::soft::DEVICE;
use crate::engine::nvme::{ADMIN_SHARE, AdminQueues, Nvme, QUEUE_SHARE};
use crate::export::ExportError;
use crate::soft::device::nvme::{self as model, Takes};
use crate::soft::{Action, DeviceModel, OwnMemory, Reply, Soft, Turn};
use tidegate_core::{Access, Cause, Memory, Op, Status};

const LEN: u64 = 1 << 20;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const CMBMSC: u64 = 0x50;

fn takes(takes: Takes) -> model::Nvme {
    plain().buffer(LEN).buffer_takes(takes)
}

/// A rig whose channel is closed, so that the next one opens the controller.
fn closed(model: model::Nvme) -> Rig<Soft, Nvme> {
    let (mut rig, _) = with(1, model);
    rig.drop_channel();
    rig.until("nothing is mapped", Rig::is_bare);
    rig
}

fn refusal<B: Backend>(rig: &Rig<B, Nvme>, driver: Nvme) -> DriverError
where
    Nvme: On<B>,
{
    match rig.another(driver).map(drop) {
        Err(DeviceError::Driver(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn asking(admin: AdminQueues) -> Nvme {
    Nvme::namespace(1).admin_queues(admin)
}

#[test]
fn a_controller_without_such_a_buffer_is_refused_before_it_is_touched() {
    let small = plain().buffer(4096).buffer_takes(Takes::Queues);
    let cases = [
        (plain(), AdminQueues::CommandsInBuffer, "CAP.CMBS"),
        (takes(Takes::Data), AdminQueues::CommandsInBuffer, "SQS"),
        (takes(Takes::Submissions), AdminQueues::InBuffer, "CQS"),
        (takes(Takes::Queues).fixed_buffer(), AdminQueues::InBuffer, "CMBMSC"),
        (small, AdminQueues::InBuffer, "room"),
    ];
    for (model, admin, why) in cases {
        let rig = closed(model);
        // As a former owner may have left it.
        let bar = rig.initiator.function().map_bar(0).unwrap();
        bar.write64(CMBMSC, 0);
        bar.write32(CC, 0x46_0001);
        let before = (bar.read64(CMBMSC), bar.read32(CC));
        let DriverError::Lacks { at, what, .. } = refusal(&rig, asking(admin)) else { panic!("{why}") };
        assert!(at == DEVICE && what.contains(why), "{what}: {why}");
        assert_eq!((bar.read64(CMBMSC), bar.read32(CC)), before, "{why}");
        assert!(rig.is_bare(), "{why}");
    }
}

#[test]
fn who_opens_first_decides_where_the_admin_queues_are() {
    let mut rig = closed(takes(Takes::Queues));
    let first = rig.another(asking(AdminQueues::InBuffer)).unwrap();
    let second = |admin| refusal(&rig, asking(admin).queue(2));
    for admin in [AdminQueues::Host, AdminQueues::CommandsInBuffer] {
        let DriverError::Differs { at, what: "admin queues", has, asked } = second(admin) else { panic!() };
        assert!(at == DEVICE && has == "the memory buffer" && asked != has, "{asked}");
    }
    drop(rig.another(asking(AdminQueues::InBuffer).queue(2)).unwrap());
    drop(rig.another(Nvme::namespace(1).queue(3)).unwrap());
    drop(first);
    rig.until("nothing is mapped", Rig::is_bare);
    rig.open(DEPTH);
    assert!(matches!(refusal(&rig, asking(AdminQueues::InBuffer).queue(2)), DriverError::Differs { .. }));
}

/// The last bytes are the admin queues': an I/O queue's share that would reach into them is none.
#[test]
fn io_queues_have_what_the_admin_queues_leave() {
    let two = || plain().buffer(2 * QUEUE_SHARE).buffer_takes(Takes::Queues);
    let both = |admin| {
        let rig = closed(two());
        let _first = rig.another(asking(admin).queue(1).commands_in_buffer()).unwrap();
        rig.another(Nvme::namespace(1).queue(2).commands_in_buffer()).map(drop)
    };
    assert_eq!(both(AdminQueues::Host), Ok(()));
    let Err(DeviceError::Driver(error)) = both(AdminQueues::InBuffer) else { panic!() };
    assert!(matches!(error, DriverError::Lacks { found, .. } if found == 2 * QUEUE_SHARE), "{error}");
}

#[test]
fn no_peer_gets_a_window_of_queues() {
    let rig = closed(takes(Takes::Queues));
    let export = |range| rig.initiator.export(2, range);
    let admin = LEN - ADMIN_SHARE..LEN;
    let queue = QUEUE_SHARE..2 * QUEUE_SHARE;
    let by = asking(AdminQueues::InBuffer).queue(2).commands_in_buffer();
    let channel = rig.another(by.clone()).unwrap();
    for (range, kept) in [(0..LEN, &admin), (queue.end - 4096..queue.end, &queue), (LEN - 4096..LEN, &admin)]
    {
        let Err(ExportError::Withheld { bar: 2, kept: found, .. }) = export(range.clone()) else { panic!() };
        assert!(found == *kept || range == (0..LEN), "{range:x?}: {found:x?}");
    }
    let beside = export(queue.end..admin.start).unwrap();
    drop(channel);
    rig.until("nothing is mapped", Rig::is_bare);
    // The other way round: who has a window there keeps the queues out.
    let window = export(queue.clone()).unwrap();
    let refused = DriverError::Exported { at: DEVICE, bar: 2, range: queue };
    assert_eq!(refusal(&rig, by.clone()), refused);
    let import = rig.domain.import(&window, Want::default()).unwrap();
    drop(window);
    assert_eq!(refusal(&rig, by.clone()), refused, "a peer still reaches it");
    drop(import);
    rig.until("nothing is mapped", Rig::is_bare);
    drop((rig.another(by).unwrap(), beside));
}

/// What the buffer holds of another life looks like completions until it is cleared.
#[test]
fn queues_in_the_buffer_start_from_cleared_phases_each_time() {
    let mut rig = closed(takes(Takes::Queues));
    let buffer = rig.initiator.function().map_bar(2).unwrap();
    // Completions of the first commands, with a phase that is new, and success.
    (0..LEN).step_by(16).for_each(|at| buffer.write64(at + 8, 1 << 48));
    let by = asking(AdminQueues::InBuffer);
    for round in 0..3 {
        let channel = rig.another(by.clone()).unwrap();
        assert_eq!(by.seen().map(|(_, namespace)| namespace.blocks), Some(8192), "round {round}");
        drop(channel);
        rig.until("nothing is mapped", Rig::is_bare);
    }
    rig.open(DEPTH);
}

/// A former owner let it answer where something else is mapped by now; nobody here uses it.
#[test]
fn a_buffer_that_is_not_used_does_not_answer() {
    // It says that it is larger than its BAR.
    let mut rig: Rig<Soft, Nvme> = behind(1, plain().buffer(4096).description(), plain().buffer(8192));
    rig.drop_channel();
    rig.until("nothing is mapped", Rig::is_bare);
    let bar = rig.initiator.function().map_bar(0).unwrap();
    bar.write64(CMBMSC, 0x10_0003);
    assert!(matches!(refusal(&rig, asking(AdminQueues::InBuffer)), DriverError::Lacks { .. }));
    let _channel = rig.another(Nvme::namespace(1)).unwrap();
    assert_eq!(bar.read64(CMBMSC), 0);
}

/// Somebody stops the controller, and a cancel brings it up again, with its admin queues where they were.
fn a_stopped_controller_finds_its_queues_in_the_buffer_again<B: Backend, S: On<B>>(rig: &mut Rig<B, S>) {
    for _ in 0..3 {
        let memory = Memory::allocate("to be revoked", 4096).unwrap();
        let other = rig.domain.register(memory.backing(), Access::ReadWrite).unwrap();
        let bar = rig.initiator.function().map_bar(0).unwrap();
        bar.write32(CC, 0);
        // As a reset would leave it.
        rig.until("CSTS.RDY", |_| bar.read32(CSTS) & 1 == 0);
        bar.write64(CMBMSC, 0);
        let lost = Op::read(0, other.handle().span(0..512));
        rig.submit(lost);
        (0..70_000).for_each(|_| assert!(rig.poll().is_empty()));
        let late = Op::read(0, rig.host(0, 512).span);
        assert_eq!(rig.run(late).status, Status::Device(code::FAILED));
        let (report, _) = rig.finish(other.revoke(Cause::User, AT_ONCE), false);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(rig.complete(1)[0].status, Status::Revoked);
        let fine = Op::read(0, rig.host(0, 512).span);
        rig.run_well(fine);
        assert_eq!(bar.read64(CMBMSC) & 3, 3);
    }
}

mod soft {
    use super::super::super::conformance::{Admin, Commands};
    use crate::engine::conformance::soft::steps;

    #[test]
    fn a_stopped_controller_finds_its_queues_in_the_buffer_again() {
        steps::<Admin>(super::a_stopped_controller_finds_its_queues_in_the_buffer_again);
        steps::<Commands>(super::a_stopped_controller_finds_its_queues_in_the_buffer_again);
    }
}

mod guest {
    use super::super::super::conformance::Commands;
    use super::{AdminQueues, DriverError, Nvme, asking, refusal};
    use crate::engine::conformance::guest::one;
    use crate::engine::conformance::rig::Rig;

    #[test]
    fn a_stopped_controller_finds_its_queues_in_the_buffer_again() {
        one::<Commands>(super::a_stopped_controller_finds_its_queues_in_the_buffer_again);
    }

    /// QEMU's buffer takes no completion queues.
    #[test]
    fn what_the_buffer_does_not_take_is_refused() {
        one(|rig: &mut Rig<_, Nvme>| {
            rig.drop_channel();
            let error = refusal(rig, asking(AdminQueues::InBuffer));
            assert!(matches!(error, DriverError::Lacks { what, .. } if what.contains("CQS")), "{error}");
            drop(rig.another(asking(AdminQueues::CommandsInBuffer)).unwrap());
        });
    }
}

/// A controller that does not take its buffer's address (CMBSTS.CBAI).
struct Invalid(model::Nvme);

impl DeviceModel for Invalid {
    fn read(&mut self, bar: u8, at: u64, width: u8) -> u64 {
        if at == 0x58 { 1 } else { self.0.read(bar, at, width) }
    }
    fn write(&mut self, bar: u8, at: u64, width: u8, value: u64) {
        self.0.write(bar, at, width, value);
    }
    fn next(&mut self, turn: Turn<'_>) -> Option<Action> {
        self.0.next(turn)
    }
    fn reply(&mut self, tag: u32, reply: Reply) {
        self.0.reply(tag, reply);
    }
    fn reset(&mut self) {
        self.0.reset();
    }
    fn outstanding(&self) -> u64 {
        self.0.outstanding()
    }
    fn own_memory(&mut self, bar: u8, memory: OwnMemory) {
        self.0.own_memory(bar, memory);
    }
}

#[test]
fn a_buffer_whose_address_is_not_taken_is_not_used() {
    let model = takes(Takes::Queues);
    // Its admin queues in host memory it works.
    let mut rig: Rig<Soft, Nvme> = behind(1, model.description(), Invalid(model));
    rig.run_well(Op::read(0, rig.host(0, 512).span));
    let cbai = |error| matches!(error, DriverError::Lacks { what, .. } if what.contains("CBAI"));
    assert!(cbai(refusal(&rig, Nvme::namespace(1).queue(2).commands_in_buffer())));
    rig.drop_channel();
    rig.until("nothing is mapped", Rig::is_bare);
    assert!(cbai(refusal(&rig, asking(AdminQueues::InBuffer))));
    assert!(rig.is_bare());
}
