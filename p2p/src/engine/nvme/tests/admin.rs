//! Admin commands over stops of the controller.

use super::{plain, with};
use crate::device::{Claim, DeviceError, Driver, DriverError, Resources};
use crate::engine::conformance::rig::Rig;
use crate::engine::nvme::command::Command;
use crate::engine::nvme::controller::{Controller, PATIENCE, Turn};
use crate::engine::nvme::{AdminQueues, Nvme, NvmeEngine};
use crate::soft::Soft;

/// A driver that is none: it tries the controller, and refuses.
struct Tries(fn(&Controller<Soft>, &Resources<Soft>));

impl Driver<Soft> for Tries {
    type Engine = NvmeEngine<Soft>;
    fn open(self, resources: Resources<Soft>) -> Result<Self::Engine, DriverError> {
        let _queue: Claim = resources.claim(1)?;
        (self.0)(&Controller::open(&resources, AdminQueues::Host)?, &resources);
        Err(DriverError::Unresponsive { at: resources.address(), what: "be a driver" })
    }
}

/// What is tried on a controller that nobody else has open.
fn tries(what: fn(&Controller<Soft>, &Resources<Soft>)) {
    let (mut rig, _): (Rig<Soft, Nvme>, _) = with(1, plain());
    rig.drop_channel();
    rig.until("nothing is mapped", Rig::is_bare);
    let end = rig.another(Tries(what)).map(drop);
    assert!(
        matches!(end, Err(DeviceError::Driver(DriverError::Unresponsive { what: "be a driver", .. }))),
        "{end:?}"
    );
}

#[test]
fn a_command_that_a_stop_forgot_is_not_ended_by_one_of_now() {
    tries(|controller, resources| {
        let core = || controller.try_lock().unwrap();
        let begin = || core().begin(Command::queues(1)).unwrap();
        let old = begin();
        assert!(resources.wait(PATIENCE, || controller.turn_down(&mut core()) == Turn::Done));
        assert!(resources.wait(PATIENCE, || controller.turn_up(&mut core()) == Turn::Done));
        let new = begin();
        assert!(resources.wait(PATIENCE, || {
            assert_eq!(core().ended(old), None, "its identifier is the new one's");
            core().ended(new).is_some()
        }));
        // Nor is its place taken from under another.
        let next = begin();
        core().abandon(old);
        assert!(resources.wait(PATIENCE, || core().ended(next).is_some()));
    });
}

#[test]
fn identify_data_is_not_read_while_a_command_that_was_given_up_may_still_write_it() {
    tries(|controller, resources| {
        let late = controller.try_lock().unwrap().begin(Command::queues(1)).unwrap();
        controller.try_lock().unwrap().abandon(late);
        let refused = controller.namespace(resources, 1);
        assert!(matches!(refused, Err(DriverError::Unresponsive { .. })), "{refused:?}");
        // Until it ended.
        assert!(resources.wait(PATIENCE, || controller.namespace(resources, 1).is_ok()));
    });
}
