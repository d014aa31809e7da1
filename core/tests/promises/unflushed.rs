//! Writes to windows that nobody could flush: whoever revokes the window hears of them.

use crate::common::{CANCEL, Mock, PATIENT, World, poll};
use tidegate_core::drain::{HeldWhy, Outcome, Phase, Progress, Report};
use tidegate_core::engine::{Flush, Outcome as Ended};
use tidegate_core::{Cause, Fabric, Op};

fn why(report: &Report, what: &str) -> Vec<HeldWhy> {
    let Outcome::Forced(held) = &report.outcome else { panic!("clean: {report:?}") };
    held.iter().filter(|h| h.what.contains(what)).map(|h| h.why).collect()
}

#[test]
fn what_a_queue_that_does_not_run_again_wrote_to_other_windows_is_not_taken_for_flushed() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (host, window) = (world.host("r"), world.window("w"));
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    dev.complete(0, Ended::Done);
    assert_eq!(poll(&mut channel).len(), 1);
    let _ = channel.pin().unwrap().submit(Op::read(0, host.span()));
    dev.set(|s| s.resumes = false);
    assert!(host.revoke(Cause::User, CANCEL).wait().unwrap().is_clean());
    assert!(channel.closed().is_some());
    drop(channel);
    let report = window.revoke(Cause::User, PATIENT).wait().unwrap();
    assert_eq!(why(&report, "region"), [HeldWhy::NotFlushed]);
    assert!(world.log.at("unmap w") < world.log.at("cpu read w"), "the forced path");
}

#[test]
fn a_window_that_a_closed_channel_could_not_flush_is_not_clean_when_it_goes() {
    let world = World::new();
    let (dev, window) = (world.dev(), world.window("w"));
    let mut channel = world.channel_of(Mock::<false>(dev.clone()), 8);
    dev.set(|s| (s.auto, s.flush) = (true, Flush::Impossible));
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    let quiet = world.nic.quiesce(Cause::Reset, PATIENT).unwrap().wait().unwrap();
    assert_eq!(why(quiet.report(), channel.name()), [HeldWhy::NotFlushed]);
    drop(channel);
    let target = world.gpu.quiesce(Cause::Reset, PATIENT).unwrap().wait().unwrap();
    assert_eq!(why(target.report(), "region"), [HeldWhy::NotFlushed]);
    // Told once: the next region in its slot is another.
    drop(window);
    let _ = target.restore();
    assert!(world.window("next").revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
}

#[test]
fn a_revoke_under_way_hears_that_the_drain_which_closed_a_channel_could_not_flush_its_window() {
    let world = World::new();
    let (dev, (mut slow, slow_dev)) = (world.dev(), world.channel(8));
    let window = world.window("w");
    let mut channel = world.channel_of(Mock::<false>(dev.clone()), 8);
    dev.set(|s| (s.auto, s.flush) = (true, Flush::Impossible));
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    let _ = slow.pin().unwrap().submit(Op::write(window.span(), 0));
    let mut revoke = window.revoke(Cause::User, PATIENT);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    let name = channel.name().to_owned();
    drop(channel);
    while world.log.count("engine dropped") == 0 {
        world.fabric.turn();
    }
    slow_dev.complete(0, Ended::Done);
    assert_eq!(poll(&mut slow).len(), 1);
    assert_eq!(why(&revoke.wait().unwrap(), &name), [HeldWhy::NotFlushed]);
}

#[test]
fn a_channel_that_wrote_more_windows_than_it_remembers_and_closed_in_order_leaves_them_flushed() {
    let world = World::on(Fabric::builder().manual().regions(16).build().unwrap());
    let (mut channel, dev) = world.channel(16);
    let windows: Vec<_> = (0..12).map(|n| world.window(&format!("w{n}"))).collect();
    dev.set(|s| s.auto = true);
    for window in &windows {
        let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
        assert_eq!(poll(&mut channel).len(), 1);
    }
    drop(channel);
    while world.fabric.turn() {}
    assert!(world.gpu.quiesce(Cause::Reset, PATIENT).unwrap().wait().unwrap().report().is_clean());
    world.assert_no_violation();
}
