//! Random interleavings against a model: every ticket completes exactly once, whatever happens.

use crate::common::{CANCEL, Dev, FORCE, Mock, OnCancel, PATIENT, World};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tidegate_core::engine::Outcome;
use tidegate_core::{Cause, Channel, Completion, Op, Region, Revocation, Shared, Status, Submit};

#[derive(Debug, Clone)]
enum Step {
    Submit(usize),
    Window(usize),
    Confirm,
    Complete(usize, u16),
    Invent(u32),
    Poll(usize),
    Revoke(usize, u8),
    Turn,
    Cancel(u8),
    Park,
    Seal,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_usize).prop_map(Step::Submit),
        3 => (0..3_usize).prop_map(Step::Window),
        2 => Just(Step::Confirm),
        8 => ((0..8_usize), (0..3_u16)).prop_map(|(n, code)| Step::Complete(n, code)),
        1 => (0..20_u32).prop_map(Step::Invent),
        6 => (0..5_usize).prop_map(Step::Poll),
        3 => ((0..6_usize), (0..3_u8)).prop_map(|(n, by)| Step::Revoke(n, by)),
        6 => Just(Step::Turn),
        1 => (0..3_u8).prop_map(Step::Cancel),
        1 => Just(Step::Park),
        1 => Just(Step::Seal),
    ]
}

struct Run {
    world: World,
    channel: Channel<Mock>,
    dev: Dev,
    regions: Vec<Region<Shared>>,
    revokes: Vec<Revocation>,
    /// Accepted tickets, and how each ended.
    tickets: BTreeMap<u64, (u64, Option<Status>)>,
    cookie: u64,
    confirmed: u64,
}

impl Run {
    fn new() -> Run {
        let world = World::new();
        let (channel, dev) = world.channel(5);
        let mut regions: Vec<_> = (0..3).map(|n| world.host(&format!("h{n}"))).collect();
        regions.extend((0..3).map(|n| world.window(&format!("w{n}"))));
        Run {
            world,
            channel,
            dev,
            regions,
            revokes: Vec::new(),
            tickets: BTreeMap::new(),
            cookie: 0,
            confirmed: 0,
        }
    }

    fn accepted(&mut self, answer: Submit, cookie: u64) {
        if let Submit::Queued(ticket) = answer {
            if ticket.0 != 0 {
                assert!(self.tickets.insert(ticket.0, (cookie, None)).is_none(), "ticket given twice");
            }
        }
    }

    fn submit(&mut self, region: usize) {
        self.cookie += 1;
        let op = Op::fill(self.regions[region].span(), 1).cookie(self.cookie);
        let revoked = self.regions[region].is_revoked();
        let Ok(mut pinned) = self.channel.pin() else { return };
        let answer = pinned.submit(op);
        drop(pinned);
        assert!(!(revoked && matches!(answer, Submit::Queued(_))), "accepted after the mark");
        self.accepted(answer, self.cookie);
    }

    fn poll(&mut self, room: usize) {
        let mut out = vec![Completion::EMPTY; room];
        let Ok(mut pinned) = self.channel.pin() else { return };
        let n = pinned.poll(&mut out);
        drop(pinned);
        for completion in &out[..n] {
            let (cookie, status) =
                self.tickets.get_mut(&completion.ticket.0).expect("a ticket nobody was given");
            assert_eq!(*cookie, completion.cookie);
            assert_eq!(status.replace(completion.status), None, "completed twice");
        }
        let confirmed = self.channel.confirmed().0;
        assert!(confirmed >= self.confirmed, "confirmed goes back");
        self.confirmed = confirmed;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Submit(n) => self.submit(n),
            Step::Window(n) => self.submit(3 + n),
            Step::Confirm => {
                let answer = self.channel.pin().map(|mut pinned| pinned.confirm());
                if let Ok(Ok(answer)) = answer {
                    self.accepted(answer, 0);
                }
            }
            Step::Complete(n, code) => {
                let running = self.dev.see(|s| s.running.len());
                if running > 0 {
                    let outcome = if code == 0 { Outcome::Device(7) } else { Outcome::Done };
                    self.dev.complete(n % running, outcome);
                }
            }
            Step::Invent(index) => {
                // Heard of while nothing is in flight: later it would be taken for the next one of that index.
                if self.channel.in_flight() == 0 {
                    self.dev.invent(index);
                    self.poll(8);
                }
            }
            Step::Poll(room) => self.poll(room),
            Step::Revoke(n, by) => {
                let by = [PATIENT, CANCEL, FORCE][by as usize];
                self.revokes.push(self.regions[n].revoke(Cause::User, by));
            }
            Step::Turn => {
                for revoke in &mut self.revokes {
                    let _ = revoke.turn();
                }
                self.world.fabric.turn();
            }
            Step::Cancel(how) => {
                let how = [OnCancel::Stops, OnCancel::Pending, OnCancel::Impossible][how as usize];
                self.dev.set(|s| s.on_cancel = how);
            }
            Step::Park => self.channel.park(),
            Step::Seal => {
                let quiesce = self.world.nic.quiesce(Cause::Doubt, CANCEL);
                drop(quiesce);
            }
        }
    }

    fn end(mut self) {
        // The device comes to life or not; everything ends either way: joining a drain hastens it.
        let mut reports = Vec::new();
        for region in &self.regions {
            reports.push(region.revoke(Cause::User, FORCE).wait().unwrap());
        }
        // A mapping goes away under a descriptor only on the forced path, which says so.
        let log = self.world.log.all();
        for (report, name) in reports.iter().zip(["h0", "h1", "h2", "w0", "w1", "w2"]) {
            let torn = log.contains(&format!("VIOLATION: {name} unmapped under a descriptor"));
            assert!(
                !torn || !report.is_clean(),
                "{name}: {report:?}
{log:?}"
            );
            let unflushed = log.contains(&format!("unflushed {name}"));
            assert!(
                !unflushed || !report.is_clean(),
                "{name}: {report:?}
{log:?}"
            );
        }
        let quiet = self.world.nic.quiesce(Cause::Close, FORCE).unwrap().wait().unwrap();
        reports.push(quiet.report().clone());
        reports.extend(std::mem::take(&mut self.revokes).into_iter().map(|revoke| revoke.wait().unwrap()));
        for report in reports {
            let ended = report.drained + report.revoked + report.failed;
            assert_eq!(report.in_flight, ended + report.left, "{report:?}");
            assert!(report.left == 0 || !report.is_clean(), "{report:?}");
        }
        for _ in 0..20 {
            self.poll(4);
        }
        let lost: Vec<_> = self.tickets.iter().filter(|(_, (_, status))| status.is_none()).collect();
        assert!(lost.is_empty(), "never completed: {lost:?}");
        assert_eq!(self.channel.in_flight(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn every_ticket_completes_exactly_once(steps in prop::collection::vec(step(), 1..80)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.end();
    }
}
