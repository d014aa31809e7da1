//! Requests of other threads: each is answered once, whatever goes away first.

mod common;

use common::{CANCEL, PATIENT, World, poll};
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_core::drain::{Phase, Progress};
use tidegate_core::engine::{Outcome, cpu::Cpu};
use tidegate_core::mpsc::{Answer, Inbox, InboxConfig, Refused, Sent, Submitter};
use tidegate_core::{
    Access, Cause, Channel, ChannelConfig, Completion, Engine, Fabric, Flow, Memory, Op, Status, Submit,
};

fn answers(submitter: &mut Submitter) -> Vec<Answer> {
    let mut out = [Answer::EMPTY; 64];
    let n = submitter.poll(&mut out);
    out[..n].to_vec()
}

/// One turn of an owner without work of its own.
fn turn<E: Engine>(channel: &mut Channel<E>, inbox: &mut Inbox) -> usize {
    let mut section = channel.pin().unwrap();
    let queued = inbox.forward(&mut section);
    let mut out = [Completion::EMPTY; 8];
    while inbox.in_flight() > 0 {
        let before = inbox.in_flight();
        assert_eq!(inbox.poll(&mut section, &mut out), 0);
        if inbox.in_flight() == before {
            break;
        }
    }
    queued
}

#[test]
fn a_request_is_answered_under_its_cookie_with_its_completion_or_its_refusal() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (region, revoked) = (world.host("r"), world.host("revoked"));
    let (span, stale) = (region.span(), revoked.span());
    let mut inbox = Inbox::new(&channel, InboxConfig::default());
    let mut submitter = inbox.submitter();
    for op in
        [Op::fill(span, 1), Op::fill(stale, 1), Op::fill(region.handle().span(0..9999), 1), Op::read(7, span)]
    {
        assert_eq!(submitter.submit(op.cookie(40 + submitter.unanswered() as u64)), Sent::Queued);
    }
    // Between the request and its turn.
    assert!(revoked.revoke(Cause::User, PATIENT).wait().unwrap().is_clean());
    assert_eq!(turn(&mut channel, &mut inbox), 2);
    dev.complete(1, Outcome::Device(5));
    dev.complete(0, Outcome::Done);
    turn(&mut channel, &mut inbox);
    let mut all = answers(&mut submitter);
    all.sort_by_key(|answer| answer.cookie);
    let seen: Vec<_> = all.iter().map(|a| (a.cookie, a.result.map(|c| (c.cookie, c.status)))).collect();
    assert!(matches!(seen[1], (41, Err(Refused::Stale(_)))), "{seen:?}");
    assert_eq!(
        [seen[0], seen[2], seen[3]],
        [
            (40, Ok((40, Status::Done))),
            (42, Err(Refused::Denied(Flow::Bounds))),
            (43, Ok((43, Status::Device(5)))),
        ]
    );
    assert_eq!((submitter.unanswered(), answers(&mut submitter).len()), (0, 0));
}

#[test]
fn a_request_that_was_forwarded_and_revoked_is_answered_revoked_also_through_a_reclaim() {
    let world = World::new();
    let (mut channel, _dev) = world.channel(8);
    let (region, other) = (world.host("r"), world.host("other"));
    let mut inbox = Inbox::new(&channel, InboxConfig::default());
    let mut submitter = inbox.submitter();
    for span in [region.span(), other.span()] {
        assert_eq!(submitter.submit(Op::read(0, span)), Sent::Queued);
    }
    turn(&mut channel, &mut inbox);
    let own = Op::read(0, other.span()).cookie(9);
    assert!(matches!(channel.pin().unwrap().submit(own), Submit::Queued(_)));
    let report = region.revoke(Cause::User, CANCEL).wait().unwrap();
    assert_eq!((report.revoked, report.aborted), (1, 2));
    let mut left = Vec::new();
    channel.reclaim(&mut left).unwrap();
    left.retain(|completion| !inbox.route(completion));
    assert_eq!(left.iter().map(|c| c.cookie).collect::<Vec<_>>(), [9], "the owner's own stays with it");
    let statuses: Vec<_> = answers(&mut submitter).iter().map(|a| a.result.unwrap().status).collect();
    assert_eq!(statuses, [Status::Revoked, Status::Aborted]);
    assert_eq!(inbox.in_flight(), 0);
}

#[test]
fn while_a_revoke_holds_the_channel_requests_wait() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let (region, other) = (world.host("r"), world.host("other"));
    let mut inbox = Inbox::new(&channel, InboxConfig::default());
    let mut submitter = inbox.submitter();
    assert_eq!(submitter.submit(Op::read(0, region.span()).cookie(1)), Sent::Queued);
    turn(&mut channel, &mut inbox);
    dev.set(|s| s.on_cancel = common::OnCancel::Pending);
    let mut revoke = region.revoke(Cause::User, CANCEL);
    assert_eq!(revoke.turn(), Progress::Pending(Phase::Drain));
    assert!(channel.pin().is_err());
    assert_eq!(submitter.submit(Op::read(0, other.span()).cookie(2)), Sent::Queued);
    assert!(answers(&mut submitter).is_empty());
    dev.set(|s| (s.on_cancel, s.auto) = (common::OnCancel::Stops, true));
    assert!(revoke.wait().unwrap().is_clean());
    while inbox.in_flight() > 0 || submitter.unanswered() > 0 {
        turn(&mut channel, &mut inbox);
        for answer in answers(&mut submitter) {
            let expect = if answer.cookie == 1 { Status::Revoked } else { Status::Done };
            assert_eq!(answer.result.unwrap().status, expect);
        }
    }
}

#[test]
fn a_full_channel_leaves_requests_where_they_are_in_their_order_and_each_submitter_gets_its_turn() {
    let world = World::new();
    let (mut channel, dev) = world.channel(2);
    let region = world.host("r");
    let mut config = InboxConfig::default();
    config.burst = 2;
    let mut inbox = Inbox::new(&channel, config);
    let mut many = inbox.submitter();
    let mut one = many.clone();
    for cookie in 0..10 {
        assert_eq!(many.submit(Op::fill(region.span(), 1).cookie(cookie)), Sent::Queued);
    }
    assert_eq!(one.submit(Op::fill(region.span(), 1).cookie(100)), Sent::Queued);
    assert_eq!(turn(&mut channel, &mut inbox), 2, "two of the first, then it is full");
    let end_all = || {
        while dev.see(|s| !s.running.is_empty()) {
            dev.complete(0, Outcome::Done);
        }
    };
    end_all();
    turn(&mut channel, &mut inbox);
    assert_eq!(
        turn(&mut channel, &mut inbox),
        2,
        "who found it full comes first, then one of the first again"
    );
    end_all();
    turn(&mut channel, &mut inbox);
    assert_eq!((many.unanswered(), one.unanswered()), (10, 1), "nobody has polled");
    assert_eq!(answers(&mut one).iter().map(|a| a.cookie).collect::<Vec<_>>(), [100]);
    let mut cookies = Vec::new();
    while cookies.len() < 10 {
        turn(&mut channel, &mut inbox);
        end_all();
        cookies.extend(answers(&mut many).iter().map(|a| a.cookie));
    }
    assert!(cookies.is_sorted(), "{cookies:?}");
}

#[test]
fn a_submitter_that_always_has_more_than_fits_leaves_room_for_the_others() {
    let world = World::new();
    let (mut channel, dev) = world.channel(4);
    dev.set(|s| s.auto = true);
    let region = world.host("r");
    let mut inbox = Inbox::new(&channel, InboxConfig::default());
    let mut many = inbox.submitter();
    let mut one = many.clone();
    assert_eq!(one.submit(Op::fill(region.span(), 1)), Sent::Queued);
    for _ in 0..4 {
        while many.submit(Op::fill(region.span(), 1)) == Sent::Queued {}
        turn(&mut channel, &mut inbox);
        turn(&mut channel, &mut inbox);
        let _ = answers(&mut many);
    }
    assert_eq!(answers(&mut one).len(), 1, "it had its turn");
}

#[test]
fn the_window_bounds_what_is_unanswered_and_polling_gives_it_back() {
    let world = World::new();
    let (mut channel, dev) = world.channel(64);
    dev.set(|s| s.auto = true);
    let region = world.host("r");
    let mut inbox = Inbox::new(&channel, InboxConfig::window(3));
    let mut submitter = inbox.submitter();
    for _ in 0..100 {
        for _ in 0..3 {
            assert_eq!(submitter.submit(Op::fill(region.span(), 1)), Sent::Queued);
        }
        assert_eq!(submitter.submit(Op::fill(region.span(), 1)), Sent::Full);
        turn(&mut channel, &mut inbox);
        turn(&mut channel, &mut inbox);
        // Answered, but not fetched: the window is still used up, so that answers always find room.
        assert_eq!(submitter.submit(Op::fill(region.span(), 1)), Sent::Full);
        assert_eq!(answers(&mut submitter).len(), 3);
    }
}

#[test]
fn the_owners_own_completions_stay_with_it_whatever_their_cookies() {
    let world = World::new();
    let (mut channel, dev) = world.channel(64);
    dev.set(|s| s.auto = true);
    let region = world.host("r");
    let mut inbox = Inbox::new(&channel, InboxConfig::window(8));
    let mut submitter = inbox.submitter();
    let (mut other, other_dev) = world.channel(64);
    other_dev.set(|s| s.auto = true);
    for cookie in 0..32 {
        // The same numbers as the inbox's own tokens; in the other channel the same tickets too.
        let own = Op::fill(region.span(), 1).cookie(cookie % 2);
        let Submit::Queued(ticket) = channel.pin().unwrap().submit(own) else { panic!() };
        let _ = other.pin().unwrap().submit(own);
        let _ = other.pin().unwrap().submit(own);
        assert_eq!(submitter.submit(Op::fill(region.span(), 1).cookie(cookie)), Sent::Queued);
        let mut section = channel.pin().unwrap();
        assert_eq!(inbox.forward(&mut section), 1);
        section.ring();
        let mut out = [Completion::EMPTY; 8];
        assert_eq!(inbox.poll(&mut other.pin().unwrap(), &mut out), 2);
        assert_eq!(inbox.poll(&mut channel.pin().unwrap(), &mut out), 1);
        assert_eq!((out[0].ticket, out[0].cookie), (ticket, cookie % 2));
        let all = answers(&mut submitter);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].cookie, all[0].result.unwrap().ticket.0), (cookie, ticket.0 + 1));
    }
}

#[test]
fn an_inbox_that_goes_answers_what_it_forwarded_and_what_it_did_not() {
    let world = World::new();
    let (mut channel, dev) = world.channel(1);
    let region = world.host("r");
    let mut inbox = Inbox::new(&channel, InboxConfig::default());
    let mut submitter = inbox.submitter();
    let mut late = submitter.clone();
    for cookie in 0..3 {
        assert_eq!(submitter.submit(Op::fill(region.span(), 1).cookie(cookie)), Sent::Queued);
    }
    assert_eq!(late.submit(Op::fill(region.span(), 1).cookie(7)), Sent::Queued);
    turn(&mut channel, &mut inbox);
    let mut newest = inbox.submitter();
    assert_eq!(newest.submit(Op::fence()), Sent::Queued);
    drop(inbox);
    let all: Vec<_> = answers(&mut submitter).iter().map(|a| (a.cookie, a.result)).collect();
    assert_eq!(all, [(0, Err(Refused::Orphaned)), (1, Err(Refused::Gone)), (2, Err(Refused::Gone))]);
    assert_eq!(answers(&mut late)[0].result, Err(Refused::Gone));
    assert_eq!(answers(&mut newest)[0].result, Err(Refused::Gone));
    assert_eq!(submitter.submit(Op::fence()), Sent::Closed);
    assert_eq!(submitter.clone().submit(Op::fence()), Sent::Closed);
    // The operation itself is the channel's, and completes there.
    dev.complete(0, Outcome::Done);
    assert_eq!(poll(&mut channel).len(), 1);
}

#[test]
fn requests_of_a_submitter_that_is_gone_are_carried_out_and_its_seat_is_the_next_ones() {
    let world = World::new();
    let (mut channel, dev) = world.channel(8);
    let region = world.host("r");
    let mut inbox = Inbox::new(&channel, InboxConfig::window(4));
    for round in 0..10 {
        let mut submitter = inbox.submitter();
        for _ in 0..2 {
            assert_eq!(submitter.submit(Op::fill(region.span(), 1)), Sent::Queued);
        }
        drop(submitter);
        assert_eq!(turn(&mut channel, &mut inbox), 2, "round {round}");
        assert_eq!(inbox.submitters(), 1, "its operations are in flight");
        let mut next = inbox.submitter();
        assert_eq!(next.submit(Op::fill(region.span(), 1).cookie(5)), Sent::Queued);
        turn(&mut channel, &mut inbox);
        for _ in 0..3 {
            dev.complete(0, Outcome::Done);
        }
        turn(&mut channel, &mut inbox);
        assert_eq!(answers(&mut next).iter().map(|a| a.cookie).collect::<Vec<_>>(), [5]);
        assert_eq!(inbox.submitters(), 1);
        drop(next);
        assert_eq!(inbox.submitters(), 0);
    }
}

#[test]
fn a_closed_channel_refuses_and_the_inbox_moves_to_its_successor() {
    let world = World::new();
    let (mut old, _dev) = world.channel(8);
    let region = world.host("r");
    let mut inbox = Inbox::new(&old, InboxConfig::default());
    let mut submitter = inbox.submitter();
    assert_eq!(submitter.submit(Op::fill(region.span(), 1).cookie(1)), Sent::Queued);
    turn(&mut old, &mut inbox);
    let quiet = world.nic.quiesce(Cause::Reset, CANCEL).unwrap().wait().unwrap();
    assert_eq!(submitter.submit(Op::fill(region.span(), 1).cookie(2)), Sent::Queued);
    assert_eq!(inbox.forward(&mut old.pin().unwrap()), 0);
    assert_eq!(answers(&mut submitter)[0].result, Err(Refused::Closed(Cause::Reset)));
    quiet.restore();
    let (mut new, dev) = world.channel(8);
    dev.set(|s| s.auto = true);
    assert_eq!(submitter.submit(Op::fill(region.span(), 1).cookie(3)), Sent::Queued);
    assert_eq!(turn(&mut new, &mut inbox), 0, "not its channel");
    assert_eq!(inbox.attach(&new), 1);
    // The old channel's completion comes too late to be anybody's.
    assert_eq!(inbox.poll(&mut old.pin().unwrap(), &mut [Completion::EMPTY; 8]), 1);
    while submitter.unanswered() > 0 {
        turn(&mut new, &mut inbox);
        for answer in answers(&mut submitter) {
            match answer.cookie {
                1 => assert_eq!(answer.result, Err(Refused::Orphaned)),
                3 => assert_eq!(answer.result.map(|c| c.status), Ok(Status::Done)),
                other => panic!("{other} twice"),
            }
        }
    }
}

/// Submitters come and go, regions are revoked, the inbox goes at some moment, in many rounds.
#[test]
fn with_many_threads_every_request_is_answered_exactly_once() {
    let fabric = Fabric::builder().regions(64).build().unwrap();
    let memory = Memory::allocate("mpsc", 4096).unwrap();
    let (sent, answered) = (AtomicU64::new(0), AtomicU64::new(0));
    for round in 0..60_u64 {
        let poller = fabric.poller("owner");
        let mut channel = fabric.channel(&poller, Cpu::new(32), ChannelConfig::depth(32)).unwrap();
        let mut inbox = Inbox::new(&channel, InboxConfig::window(16));
        let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
        let span = region.span();
        std::thread::scope(|s| {
            for n in 0..3_u64 {
                let mut submitter = inbox.submitter();
                let (sent, answered) = (&sent, &answered);
                s.spawn(move || {
                    let mut open = std::collections::BTreeSet::new();
                    let mut out = [Answer::EMPTY; 8];
                    let mut cookie = n << 32;
                    loop {
                        let op = if cookie % 3 == 0 { Op::fence() } else { Op::fill(span, cookie) };
                        let last = match submitter.submit(op.cookie(cookie)) {
                            Sent::Queued => {
                                sent.fetch_add(1, Ordering::Relaxed);
                                assert!(open.insert(cookie));
                                false
                            }
                            Sent::Full => false,
                            Sent::Closed => true,
                        };
                        cookie += 1;
                        let k = submitter.poll(&mut out);
                        for answer in &out[..k] {
                            assert!(open.remove(&answer.cookie), "{answer:?}: twice, or of another");
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        if last && k == 0 {
                            break;
                        }
                        if cookie % 997 == 0 && open.is_empty() {
                            // Another one in its place.
                            submitter = submitter.clone();
                        }
                    }
                    assert!(open.is_empty(), "never answered: {open:?}");
                    assert_eq!(submitter.unanswered(), 0);
                });
            }
            let mut out = [Completion::EMPTY; 16];
            let mut revoke = None;
            // Until every thread has had its chance, however late it came.
            for at in 0.. {
                if at > 200 + round * 7 && sent.load(Ordering::Relaxed) > (round + 1) * 100 {
                    break;
                }
                if at == 100 + round {
                    revoke = Some(region.revoke(Cause::User, CANCEL));
                }
                if let Some(revoke) = &mut revoke {
                    let _ = revoke.turn();
                }
                let Ok(mut section) = channel.pin() else { continue };
                inbox.forward(&mut section);
                section.ring();
                if let Ok(mut section) = channel.pin() {
                    assert_eq!(inbox.poll(&mut section, &mut out), 0);
                }
            }
            drop(inbox);
        });
    }
    let (sent, answered) = (sent.into_inner(), answered.into_inner());
    assert_eq!(sent, answered);
    assert!(sent > 6000, "{sent}");
}
