//! What `confirmed` may say, and what a drain may call clean.

use crate::common::{Mock, PATIENT, World, poll};
use tidegate_core::drain::{FlushUsed, HeldWhy, Outcome as Ended};
use tidegate_core::engine::{Flush, Outcome};
use tidegate_core::{Cause, Channel, Op, Status, Submit, Ticket, Unconfirmable};

#[test]
fn confirmed_moves_only_by_a_checked_read_back() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let window = world.window("w");
    dev.set(|s| s.auto = true);
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel)[0].status, Status::Done);
    assert_eq!(channel.confirmed(), Ticket(0), "done is not confirmed");
    let rounds = [
        (Outcome::Unchecked, Status::Unconfirmed, 0),
        (Outcome::Device(3), Status::Device(3), 0),
        (Outcome::Done, Status::Done, 3),
    ];
    for (read_back, status, confirmed) in rounds {
        dev.set(|s| s.read_back = read_back);
        assert!(matches!(channel.pin().unwrap().confirm(), Ok(Submit::Queued(_))));
        let ended = poll(&mut channel);
        assert_eq!((ended.len(), ended[0].status), (1, status));
        assert_eq!(channel.confirmed(), Ticket(confirmed));
    }
}

#[test]
fn a_confirm_of_several_windows_completes_once_and_when_done_covers_what_had_completed() {
    let world = World::new();
    let (mut channel, dev) = world.channel(16);
    let windows = [world.window("a"), world.window("b"), world.window("c")];
    dev.set(|s| (s.auto, s.read_back_hangs) = (true, true));
    for window in &windows {
        let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    }
    assert_eq!(poll(&mut channel).len(), 3);
    let Ok(Submit::Queued(ticket)) = channel.pin().unwrap().confirm() else { panic!("not queued") };
    for n in [2, 0, 0] {
        assert_eq!(channel.confirmed(), Ticket(0));
        assert!(poll(&mut channel).is_empty());
        dev.complete(n, Outcome::Done);
    }
    let ended = poll(&mut channel);
    assert_eq!((ended.len(), ended[0].ticket, ended[0].status), (1, ticket, Status::Done));
    assert_eq!(channel.confirmed(), Ticket(3));
}

#[test]
fn a_confirm_that_does_not_fit_is_rung_and_heard_of_no_more() {
    let world = World::new();
    let (mut channel, dev) = world.channel(16);
    let windows = [world.window("a"), world.window("b")];
    dev.set(|s| s.auto = true);
    for window in &windows {
        let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    }
    assert_eq!(poll(&mut channel).len(), 2);
    dev.set(|s| s.room = 1);
    assert_eq!(channel.pin().unwrap().confirm(), Ok(Submit::Full));
    assert_eq!(dev.see(|s| s.running.len()), 0, "the one that fitted was rung, and ended");
    assert!(poll(&mut channel).is_empty(), "nobody was told its ticket");
    assert_eq!((channel.in_flight(), channel.confirmed()), (0, Ticket(0)));
    dev.set(|s| s.room = 9);
    assert!(matches!(channel.pin().unwrap().confirm(), Ok(Submit::Queued(_))));
    assert_eq!(poll(&mut channel).len(), 1);
    assert_eq!(channel.confirmed(), Ticket(3));
}

#[test]
fn an_engine_without_a_checked_read_back_never_confirms_and_says_so() {
    let world = World::new();
    let dev = world.dev();
    let mut channel = world.channel_of(Mock::<false>(dev.clone()), 8);
    let window = world.window("w");
    dev.set(|s| s.auto = true);
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    assert_eq!(channel.pin().unwrap().confirm(), Err(Unconfirmable::Engine));
    assert_eq!(channel.confirmed(), Ticket(0));
    // Its own way of flushing ends a clean drain, and that does confirm.
    dev.set(|s| s.posted.clear());
    let report = window.revoke(Cause::User, PATIENT).wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.flushes, [(channel.name().to_owned(), FlushUsed::Engine)]);
    assert_eq!(channel.confirmed(), Ticket(1));
}

#[test]
fn a_window_that_can_not_be_flushed_is_not_clean_and_stops_confirmed_for_good() {
    let world = World::new();
    let dev = world.dev();
    let mut channel = world.channel_of(Mock::<false>(dev.clone()), 8);
    let (window, second) = (world.window("w"), world.window("second"));
    dev.set(|s| (s.auto, s.flush) = (true, Flush::Impossible));
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    let report = window.revoke(Cause::User, PATIENT).wait().unwrap();
    let Ended::Forced(held) = &report.outcome else { panic!("{report:?}") };
    assert_eq!(held[0].why, HeldWhy::NotFlushed);
    assert_eq!(report.unconfirmed, [(channel.name().to_owned(), Ticket(1), Ticket(1))]);
    // The forced path: unmapped first, then read by the CPU.
    assert!(world.log.at("unmap w") < world.log.at("cpu read w"));
    // The next window is flushed all the same, and proves nothing of the first.
    dev.set(|s| (s.flush, s.posted) = (Flush::Flushed, Default::default()));
    let _ = channel.pin().unwrap().submit(Op::fill(second.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    assert!(second.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
    assert_eq!(channel.confirmed(), Ticket(0));
    // Slots of regions that were forced and proved are not lost.
    drop((window, second));
    let more: Vec<_> = (0..8).map(|n| world.host(&format!("{n}"))).collect();
    assert_eq!(more.len(), 8);
}

#[test]
fn a_read_back_that_proves_nothing_flushes_but_confirms_nothing() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (window, next) = (world.window("w"), world.window("next"));
    dev.set(|s| (s.auto, s.read_back) = (true, Outcome::Unchecked));
    let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    let report = window.revoke(Cause::User, PATIENT).wait().unwrap();
    assert!(report.is_clean(), "{report:?}");
    // The read-back has a ticket too.
    assert_eq!(report.unconfirmed, [(channel.name().to_owned(), Ticket(1), Ticket(2))]);
    assert_eq!(channel.confirmed(), Ticket(0));
    dev.set(|s| s.read_back = Outcome::Done);
    let _ = channel.pin().unwrap().submit(Op::fill(next.span(), 1));
    assert_eq!(channel.pin().unwrap().confirm(), Err(Unconfirmable::Revoked));
}

#[test]
fn a_window_in_a_reused_slot_is_flushed_as_its_predecessor_was() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    dev.set(|s| s.auto = true);
    // 8 slots: the third round reuses the first ones.
    for round in 0..24 {
        let window = world.window(&format!("w{round}"));
        let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
        assert_eq!(poll(&mut channel).len(), 1);
        let report = window.revoke(Cause::User, PATIENT).wait().unwrap();
        assert_eq!((report.is_clean(), report.flushes.len()), (true, 1), "round {round}");
    }
    world.assert_no_violation();
    assert_eq!(channel.confirmed().0, 48, "24 writes, and a read-back of each revoke");
}

#[test]
fn more_windows_than_a_channel_remembers_are_all_read_back() {
    let world = World::on(tidegate_core::Fabric::builder().manual().regions(32).build().unwrap());
    let (mut channel, dev) = world.channel(32);
    dev.set(|s| s.auto = true);
    let windows: Vec<_> = (0..12).map(|n| world.window(&format!("w{n}"))).collect();
    let write_all = |channel: &mut Channel<Mock>| {
        for window in &windows {
            let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
        }
        assert_eq!(poll(channel).len(), 12);
    };
    write_all(&mut channel);
    let Ok(Submit::Queued(whole)) = channel.pin().unwrap().confirm() else { panic!("not queued") };
    assert!(!dev.see(|s| s.posted.contains_key(&0)));
    assert_eq!(
        poll(&mut channel).iter().map(|c| (c.ticket, c.status)).collect::<Vec<_>>(),
        [(whole, Status::Done)]
    );
    assert_eq!(channel.confirmed(), Ticket(12));
    assert!(dev.see(|s| s.posted.is_empty()));
    // It remembers again: one window, one read-back.
    let _ = channel.pin().unwrap().submit(Op::fill(windows[3].span(), 1));
    assert_eq!(poll(&mut channel).len(), 1);
    assert_eq!(channel.pin().unwrap().confirm(), Ok(Submit::Queued(Ticket(26))));
    assert_eq!(poll(&mut channel).len(), 1);
    // Too many again, and one that is being revoked can't be read back.
    write_all(&mut channel);
    let revoke = windows[0].revoke(Cause::User, PATIENT);
    assert_eq!(channel.pin().unwrap().confirm(), Err(Unconfirmable::Windows));
    assert!(revoke.wait().unwrap().is_clean());
    assert!(matches!(channel.pin().unwrap().confirm(), Ok(Submit::Queued(_))));
    assert_eq!(poll(&mut channel).len(), 1);
    assert_eq!(channel.confirmed(), Ticket(39), "12 more, and the read-back of the revoke");
    world.assert_no_violation();
}

#[test]
fn more_windows_than_a_channel_remembers_are_flushed_when_it_closes() {
    let world = World::on(tidegate_core::Fabric::builder().manual().regions(32).build().unwrap());
    let (mut channel, dev) = world.channel(32);
    dev.set(|s| s.auto = true);
    let windows: Vec<_> = (0..12).map(|n| world.window(&format!("w{n}"))).collect();
    for window in &windows {
        let _ = channel.pin().unwrap().submit(Op::fill(window.span(), 1));
    }
    assert_eq!(poll(&mut channel).len(), 12);
    let quiet = world.nic.quiesce(Cause::Unbind, PATIENT).unwrap().wait().unwrap();
    assert!(quiet.report().is_clean(), "{:?}", quiet.report());
    assert_eq!(quiet.report().flushes.len(), 12);
    assert!(dev.see(|s| s.posted.is_empty()));
}
