//! The shortest use of the crate.
use tidegate_core::engine::cpu::Cpu;
use tidegate_core::{Access, Cause, ChannelConfig, Completion, Deadline, Fabric, Memory, Op, Status, Submit};

#[test]
fn a_copy_completes_and_a_revoked_region_is_stale() {
    let fabric = Fabric::builder().build().unwrap();
    let memory = Memory::allocate("smoke", 8192).unwrap();
    let a = fabric.register(memory.slice(0..4096).unwrap(), Access::ReadWrite).unwrap();
    let b = fabric.register(memory.slice(4096..8192).unwrap(), Access::ReadWrite).unwrap();
    a.write(0, b"hello").unwrap();
    let poller = fabric.poller("test");
    let mut channel = fabric.channel(&poller, Cpu::new(8), ChannelConfig::default()).unwrap();
    let mut out = [Completion::EMPTY; 4];
    {
        let mut pinned = channel.pin().unwrap();
        assert!(
            matches!(pinned.submit(Op::copy(a.span(), b.span()).cookie(7)), Submit::Queued(t) if t.0 == 1)
        );
    }
    assert_eq!(channel.pin().unwrap().poll(&mut out), 1);
    assert_eq!((out[0].cookie, out[0].status, out[0].len), (7, Status::Done, 4096));
    let mut back = [0; 5];
    b.read(0, &mut back).unwrap();
    assert_eq!(&back, b"hello");
    let report = b.revoke(Cause::User, Deadline::default()).wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    let answer = channel.pin().unwrap().submit(Op::copy(a.span(), b.span()));
    assert!(matches!(answer, Submit::Stale(_)), "{answer:?}");
    assert!(b.read(0, &mut back).is_err());
}
