//! The other end of the wire: the soft fabric's, or a second 82576 that is driven by the same engine.

use crate::backend::Backend;
use crate::domain::Domain;
use crate::engine::conformance::rig::{Rig, World};
use crate::engine::igb::{Igb, IgbEngine};
use crate::reattach::attach;
use crate::vfio::Vfio;
use std::time::{Duration, Instant};
use tidegate_core::{
    Access, Channel, ChannelConfig, Completion, Fabric, Memory, Op, Region, Shared, Status, Submit,
};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest frame here.
const ROOM: u64 = 2048;

/// A second device with a fabric of its own, so that nothing of it shows in the first one's.
struct Peer<B: Backend> {
    channel: Channel<IgbEngine<B>>,
    memory: Region<Shared>,
    _rest: (Domain<B>, Fabric),
}

impl<B: Backend> Peer<B> {
    fn new(rig: &Rig<B, Igb>) -> Peer<B> {
        let fabric = Fabric::builder().build().unwrap();
        let domain = Domain::new(&fabric, rig.domain.0.backend.clone()).unwrap();
        let all = Vfio::new().unwrap().by_id(0x8086, 0x10c9).unwrap();
        let other = all.into_iter().find(|at| *at != rig.initiator.address()).expect("the testbed has two");
        let device = attach(&domain, other);
        let memory = Memory::allocate("peer", 2 * ROOM).unwrap();
        let memory = domain.register(memory.backing(), Access::ReadWrite).unwrap();
        let driver = Igb::queue(0).entries(64).frames(ROOM as u32);
        let channel = device.channel(&fabric.poller("peer"), driver, ChannelConfig::default()).unwrap();
        Peer { channel, memory, _rest: (domain, fabric) }
    }

    fn run(&mut self, op: Op) -> u64 {
        assert!(matches!(self.channel.pin().unwrap().submit(op), Submit::Queued(_)));
        let (since, mut out) = (Instant::now(), [Completion::EMPTY]);
        while self.channel.pin().unwrap().poll(&mut out) == 0 {
            assert!(since.elapsed() < PATIENCE, "the peer waits for {op:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(out[0].status, Status::Done);
        u64::from(out[0].len)
    }

    fn send(&mut self, frame: &[u8]) {
        self.memory.write(0, frame).unwrap();
        self.run(Op::write(self.memory.handle().span(0..frame.len() as u64), 0));
    }

    fn recv(&mut self) -> Vec<u8> {
        let len = self.run(Op::read(0, self.memory.handle().span(ROOM..2 * ROOM)));
        let mut frame = vec![0; len as usize];
        self.memory.read(ROOM, &mut frame).unwrap();
        frame
    }
}

/// Calls `by` with the rig's peer, which is made first if there is none yet.
fn with<B: Backend, T>(rig: &mut Rig<B, Igb>, by: impl FnOnce(&mut Peer<B>) -> T) -> T {
    if rig.kept.is_none() {
        rig.kept = Some(Box::new(Peer::new(rig)));
    }
    by(rig.kept.as_mut().unwrap().downcast_mut().unwrap())
}

/// Puts a frame on the wire.
pub(super) fn send<B: Backend>(rig: &mut Rig<B, Igb>, frame: &[u8]) {
    if matches!(rig.world, World::Guest) {
        return with(rig, |peer| peer.send(frame));
    }
    rig.world.soft().wire(rig.initiator.address()).unwrap().send(frame).unwrap();
}

/// The next frame that comes.
pub(super) fn recv<B: Backend>(rig: &mut Rig<B, Igb>) -> Vec<u8> {
    if matches!(rig.world, World::Guest) {
        return with(rig, Peer::recv);
    }
    let (since, wire) = (Instant::now(), rig.world.soft().wire(rig.initiator.address()).unwrap());
    loop {
        if let Some(frame) = wire.recv() {
            return frame;
        }
        assert!(since.elapsed() < PATIENCE, "no frame came");
        rig.world.pass();
    }
}
