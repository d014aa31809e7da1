//! Plays a schedule against the fabric and the model at once.

use crate::ask::{self, Ask, Lists};
use crate::common::{CANCEL, Dev, FORCE, Mock, MockMap, OnCancel, PATIENT, World};
use crate::model::{ChannelModel, Model};
use crate::owner::{HardStop, Owner};
use crate::step::{By, Step};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tidegate_core::drain::{Held, HeldWhy, Outcome::Forced, Progress, Report};
use tidegate_core::engine::{Operation, Outcome};
use tidegate_core::{
    BarrierMode, Cause, ChannelConfig, Deadline, Fabric, Gate, Op, Quiesce, Quiesced, Reach, Region,
    Revocation, Seat, Seized, Shared, Status, Submit,
};

struct Lane {
    owner: Box<dyn Owner + Send>,
    dev: Dev,
    in_order: bool,
    lists: Lists,
    twice: u64,
}

/// A device's gate, and who has it closed.
struct Device {
    stop: Arc<HardStop>,
    gate: Gate,
    quiesce: Option<(Quiesce, usize)>,
    quiet: Option<Quiesced>,
}

pub(crate) struct Play {
    world: World,
    model: Model,
    lanes: BTreeMap<usize, Lane>,
    regions: BTreeMap<usize, (Region<Shared>, Arc<MockMap>)>,
    revokes: Vec<(Revocation, Vec<usize>)>,
    devices: [Device; 3],
    /// Every device queue there was, and every piece of memory: none may have a descriptor of what was freed.
    all: Vec<Dev>,
    maps: BTreeMap<usize, (Range<u64>, Weak<MockMap>)>,
    next: usize,
}

fn deadline(by: By) -> Deadline {
    match by {
        By::Patient => PATIENT,
        By::Cancel => CANCEL,
        By::Force => FORCE,
    }
}

fn pick<T>(map: &BTreeMap<usize, T>, n: usize) -> Option<usize> {
    map.keys().nth(n.checked_rem(map.len())?).copied()
}

impl Play {
    pub(crate) fn new(barrier: BarrierMode) -> Play {
        let fabric = Fabric::builder().barrier(barrier).manual().regions(8).build().unwrap();
        let world = World::on(fabric);
        let gate = |name| {
            let stop = Arc::new(HardStop::default());
            Device { gate: world.fabric.gate(name, Some(stop.clone())), stop, quiesce: None, quiet: None }
        };
        let target = Device { gate: world.gpu.clone(), ..gate("none") };
        let devices = [gate("nic 0"), target, gate("nic 1")];
        let mut play = Play {
            world,
            model: Model::default(),
            lanes: BTreeMap::new(),
            regions: BTreeMap::new(),
            revokes: Vec::new(),
            devices,
            all: Vec::new(),
            maps: BTreeMap::new(),
            next: 0,
        };
        for (device, in_order, lists) in [(0, false, 0), (1, true, 1)] {
            play.open(device, in_order, true, lists);
        }
        for window in [false, false, true] {
            play.register(window);
        }
        play
    }

    fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn open(&mut self, device: usize, in_order: bool, confirms: bool, lists: u8) {
        // The gpu has no channels of its own.
        let device = [0, 2][device % 2];
        if self.lanes.len() >= 4 {
            return;
        }
        let dev = self.world.dev();
        let gate = self.devices[device].gate.clone();
        let seat = Seat { domain: self.world.domain, reach: Reach::Shared, gate: Some(gate.clone()) };
        let poller = self.world.fabric.poller("poller");
        let depth = 5;
        let cfg = ChannelConfig::depth(depth);
        let fabric = &self.world.fabric;
        let owner: Option<Box<dyn Owner + Send>> = if confirms {
            fabric.place_channel(&poller, Mock::<true>(dev.clone()), cfg, seat).ok().map(|c| Box::new(c) as _)
        } else {
            fabric
                .place_channel(&poller, Mock::<false>(dev.clone()), cfg, seat)
                .ok()
                .map(|c| Box::new(c) as _)
        };
        assert_eq!(owner.is_some(), gate.check().is_ok(), "a channel is made where the gate is open");
        let Some(owner) = owner else { return };
        let n = self.number();
        let lists = Lists { whole: lists == 0, splits: lists == 1, depth: u64::from(depth) };
        dev.set(|s| (s.takes_lists, s.splits) = (lists.whole, lists.splits));
        self.all.push(dev.clone());
        self.devices[device].stop.devs.lock().unwrap().push(dev.clone());
        self.lanes.insert(n, Lane { owner, dev, in_order, lists, twice: 0 });
        let model = ChannelModel { depth: u64::from(depth), device, ..ChannelModel::default() };
        self.model.channels.insert(n, model);
    }

    fn register(&mut self, window: bool) {
        if self.regions.len() >= 6 || (window && self.devices[1].gate.check().is_err()) {
            return;
        }
        let n = self.number();
        let map = self.world.map(&format!("m{n}"));
        let class = if window { tidegate_core::Class::SharedWindow } else { tidegate_core::Class::Host };
        let gate = window.then_some(&self.world.gpu);
        let access = tidegate_core::Access::ReadWrite;
        // All slots may be taken by what is held.
        let made = self.world.fabric.adopt(self.world.domain, class, access, map.clone(), None, gate);
        let Ok(region) = made else { return };
        self.maps.insert(n, (map.at.clone(), Arc::downgrade(&map)));
        self.regions.insert(n, (region, map));
        if window {
            self.model.windows.insert(n);
        }
    }

    /// Any use of a channel wakes its owner; a channel that a drain has in hand answers `Seized`, no other does.
    fn used<R>(&mut self, n: usize, result: Result<R, Seized>) -> Option<R> {
        if let Some(channel) = self.model.channels.get_mut(&n) {
            channel.asleep = None;
        }
        if result.is_err() {
            assert!(self.model.may_be_seized(n), "seized although no drain concerns it");
        }
        result.ok()
    }

    fn submit(&mut self, n: usize, what: crate::step::What, a: usize, b: usize, times: usize) {
        let (Some(a), Some(b)) = (pick(&self.regions, a), pick(&self.regions, b)) else { return };
        let (op, ask) = ask::plain(&self.regions, what, a, b);
        let cookies: Vec<u64> = (0..times).map(|_| self.number() as u64).collect();
        let ops: Vec<Op> = cookies.iter().map(|cookie| op.cookie(*cookie)).collect();
        let Some(lane) = self.lanes.get_mut(&n) else { return };
        let answers = lane.owner.submit(&ops);
        for (answer, cookie) in self.used(n, answers).unwrap_or_default().into_iter().zip(cookies) {
            self.model.submitted(n, answer, cookie, &ask);
        }
    }

    fn list(&mut self, n: usize, from: &[usize], to: &[usize]) {
        let some = |side: &[usize]| side.iter().filter_map(|r| pick(&self.regions, *r)).collect::<Vec<_>>();
        let (from, to, cookie) = (some(from), some(to), self.number() as u64);
        let Some(lane) = self.lanes.get_mut(&n).filter(|_| !(from.is_empty() && to.is_empty())) else {
            return;
        };
        let (list, ask) = ask::list(&self.regions, &from, &to, lane.lists);
        let answer = lane.owner.submit_list(&list.cookie(cookie));
        if let Some(answer) = self.used(n, answer) {
            self.model.submitted(n, answer, cookie, &ask);
        }
    }

    fn confirm(&mut self, n: usize) {
        let Some(lane) = self.lanes.get_mut(&n) else { return };
        let answer = lane.owner.confirm();
        if let Some(Ok(Submit::Queued(ticket))) = self.used(n, answer) {
            if ticket.0 != 0 {
                // Several tickets may be its own; it completes once, with the last. The mock ends it by itself.
                let last = self.model.channels[&n].last;
                let ask = Ask { names: vec![vec![]], to: vec![], own: 1, len: 0, denied: None };
                self.model.submitted(n, Submit::Queued(ticket), 0, &ask);
                // It names the windows that were written.
                let channel = self.model.channels.get_mut(&n).unwrap();
                let wrote = channel.wrote.iter().copied().collect();
                let open = channel.open.get_mut(&ticket.0).unwrap();
                (open.names, open.first, open.said) = (wrote, last + 1, Some(Status::Done));
                open.left.clear();
            }
        }
    }

    fn complete(&mut self, n: usize, at: usize, how: u16) {
        let Some(lane) = self.lanes.get(&n) else { return };
        let running = lane.dev.see(|s| s.running.len());
        let Some(at) = at.checked_rem(running) else { return };
        let at = if lane.in_order { 0 } else { at };
        let (index, op) = lane.dev.see(|s| s.running[at]);
        let (outcome, status) =
            if how == 0 { (Outcome::Device(7), Status::Device(7)) } else { (Outcome::Done, Status::Done) };
        lane.dev.complete(at, outcome);
        if matches!(op, Operation::ReadBack { .. }) {
            return;
        }
        // Else: withdrawn from a device that could not be stopped.
        let accepted = self.model.said(n, index, status);
        assert!(accepted || self.model.may_have_been_stopped(n), "the device ends what was not accepted");
    }

    fn poll(&mut self, n: usize, room: usize) {
        let Some(lane) = self.lanes.get_mut(&n) else { return };
        let ended = lane.owner.poll(room);
        for completion in self.used(n, ended).unwrap_or_default() {
            self.model.completed(n, completion);
        }
        let confirmed = self.lanes.get_mut(&n).map_or(0, |lane| lane.owner.confirmed().0);
        let channel = self.model.channels.get_mut(&n).unwrap();
        if confirmed != 0 {
            assert!(confirmed >= channel.confirmed, "confirmed goes back");
            channel.confirmed = confirmed;
        }
    }

    fn drop_channel(&mut self, n: usize) {
        let Some(lane) = self.lanes.remove(&n) else { return };
        self.model.drain(&[], &[n], true, true);
        self.model.channels.get_mut(&n).unwrap().asleep = None;
        drop(lane);
    }

    fn revoke(&mut self, wanted: &[usize], by: By) {
        let chosen: Vec<usize> = wanted.iter().filter_map(|r| pick(&self.regions, *r)).collect();
        let batch: Vec<_> = chosen.iter().map(|r| self.regions[r].0.revocable()).collect();
        if batch.is_empty() {
            return;
        }
        let revoke = self.world.fabric.revoke(&batch, Cause::User, deadline(by));
        let all = self.model.drains.len();
        self.model.drain(&chosen, &[], !matches!(by, By::Patient), matches!(by, By::Force));
        // Ends with all that it joined.
        let parts = |d: &usize| *d == all || chosen.iter().any(|r| self.model.drains[*d].regions.contains(r));
        let parts = (0..=all).filter(parts).collect();
        self.revokes.push((revoke, parts));
    }

    fn turn(&mut self, at: usize) {
        let Some(at) = at.checked_rem(self.revokes.len()) else { return };
        let (revoke, parts) = &mut self.revokes[at];
        if revoke.turn() != Progress::Done {
            return;
        }
        let report = revoke.report();
        let parts = std::mem::take(parts);
        drop(self.revokes.remove(at));
        self.over(&report, &parts);
    }

    /// These drains have ended, with this report.
    fn over(&mut self, report: &Report, drains: &[usize]) {
        let ended = report.drained + report.revoked + report.failed;
        assert_eq!(report.in_flight, ended + report.left, "{report:?}");
        assert!(report.left == 0 || !report.is_clean(), "{report:?}");
        let lost = |h: &Held| {
            matches!(h.why, HeldWhy::OwnerInSection | HeldWhy::NotStopped) && !h.what.starts_with("region")
        };
        let gave_up = matches!(&report.outcome, Forced(held) if held.iter().any(lost));
        for drain in drains {
            let held_up = self.model.is_held_up(*drain);
            let model = &mut self.model.drains[*drain];
            assert!(!held_up || model.forces || model.over, "ended before a section that it must wait for");
            assert!(!held_up || !report.is_clean() || model.over, "clean, with an owner in its section");
            model.over = true;
            model.gave_up |= gave_up;
            let regions = model.regions.clone();
            if !report.is_clean() {
                continue;
            }
            for (n, (_, map)) in self.regions.iter().filter(|(n, _)| regions.contains(n)) {
                assert!(self.world.log.count(&format!("unmap m{n}")) > 0, "clean, and still mapped");
                let touches = self.all.iter().any(|dev| dev.touches(&map.at));
                assert!(
                    !touches,
                    "clean, with a descriptor that names region {n}: {report:?} {drains:?} {:?} {:?}",
                    self.model,
                    self.world.log.all()
                );
            }
        }
    }

    fn quiesce(&mut self, device: usize, by: By) {
        let device = device % 3;
        if self.devices[device].quiesce.is_some() || self.devices[device].quiet.is_some() {
            return;
        }
        let quiesce = self.devices[device].gate.quiesce(Cause::Reset, deadline(by)).unwrap();
        let mut own = Vec::new();
        own.extend(self.model.channels.iter().filter(|(_, c)| c.device == device).map(|(n, _)| *n));
        let windows: Vec<usize> = self.model.windows.iter().copied().filter(|_| device == 1).collect();
        let (cancels, forces) = (!matches!(by, By::Patient), matches!(by, By::Force));
        for earlier in self.model.drains.iter_mut().filter(|d| !d.over) {
            // An earlier quiesce of the device, dropped, is joined too.
            earlier.cancels |= cancels;
            earlier.forces |= forces;
        }
        let drain = self.model.drain(&windows, &own, cancels, forces);
        self.devices[device].quiesce = Some((quiesce, drain));
    }

    /// Turns a quiesce; done, and with nobody asleep (a wait would be for this thread), it becomes a proof; a proof is
    /// restored.
    fn restore(&mut self, device: usize) {
        let device = device % 3;
        let asleep = self.model.channels.values().any(|c| c.asleep.is_some());
        let its = &mut self.devices[device];
        if let Some(quiet) = its.quiet.take() {
            its.stop.stopped.store(false, Ordering::SeqCst);
            quiet.restore();
            return;
        }
        let Some((mut quiesce, drain)) = its.quiesce.take() else { return };
        if quiesce.turn() != Progress::Done || asleep {
            its.quiesce = Some((quiesce, drain));
            return;
        }
        let quiet = quiesce.wait().unwrap();
        let report = quiet.report().clone();
        if report.is_clean() {
            assert_eq!(
                (its.gate.in_flight(), its.gate.windows(), its.gate.channels()),
                (0, 0, 0),
                "{report:?}"
            );
        }
        its.quiet = Some(quiet);
        self.over(&report, &[drain]);
    }

    pub(crate) fn step(&mut self, step: &Step) {
        self.model.step += 1;
        let lane = |n: &usize| pick(&self.lanes, *n);
        match step {
            Step::Submit(c, what, a, b, times) => {
                if let Some(n) = lane(c) {
                    self.submit(n, *what, *a, *b, *times);
                }
            }
            Step::List(c, from, to) => drop(lane(c).map(|n| self.list(n, from, to))),
            Step::Confirm(c) => drop(lane(c).map(|n| self.confirm(n))),
            Step::Complete(c, at, how) => drop(lane(c).map(|n| self.complete(n, *at, *how))),
            Step::Twice(c, at) => {
                let Some(n) = lane(c).filter(|n| !self.model.may_be_seized(*n)) else { return };
                let dev = self.lanes[&n].dev.clone();
                let Some(at) = at.checked_rem(dev.see(|s| s.running.len())) else { return };
                let at = if self.lanes[&n].in_order { 0 } else { at };
                let (index, _) = dev.see(|s| s.running[at]);
                self.complete(n, at, 1);
                dev.invent(index);
                // Heard of before the entry is another's.
                self.poll(n, 64);
                let stopped = self.model.may_have_been_stopped(n);
                let lane = self.lanes.get_mut(&n).unwrap();
                lane.twice += 1;
                // An engine that was taken out is not asked any more.
                assert!(stopped || lane.owner.counters().spurious == lane.twice);
            }
            Step::Poll(c, room) => drop(lane(c).map(|n| self.poll(n, *room))),
            Step::Sleep(c) | Step::Die(c) => {
                let Some(n) = lane(c) else { return };
                let (dies, owner) =
                    (matches!(step, Step::Die(_)), &mut self.lanes.get_mut(&n).unwrap().owner);
                let slept = if dies { owner.die() } else { owner.sleep() };
                if self.used(n, slept).is_some() && !dies {
                    self.model.channels.get_mut(&n).unwrap().asleep = Some(self.model.step);
                }
            }
            Step::Park(c) => {
                let Some(n) = lane(c) else { return };
                self.lanes.get_mut(&n).unwrap().owner.rest();
                self.model.channels.get_mut(&n).unwrap().asleep = None;
            }
            Step::DropChannel(c) => drop(lane(c).map(|n| self.drop_channel(n))),
            Step::Open(device, in_order, confirms, lists) => self.open(*device, *in_order, *confirms, *lists),
            Step::Register(window) => self.register(*window),
            Step::DropRegion(r) => {
                let Some(n) = pick(&self.regions, *r) else { return };
                drop(self.regions.remove(&n));
                self.model.drain(&[n], &[], true, true);
            }
            Step::Revoke(regions, by) => self.revoke(regions, *by),
            Step::DropRevoke(at) => {
                if let Some(at) = at.checked_rem(self.revokes.len()) {
                    drop(self.revokes.remove(at));
                }
            }
            Step::Turn(at) => self.turn(*at),
            Step::Control => drop(self.world.fabric.turn()),
            Step::Quiesce(device, by) => self.quiesce(*device, *by),
            Step::Restore(device) => self.restore(*device),
            Step::OnCancel(c, how) => {
                let how = [OnCancel::Stops, OnCancel::Pending, OnCancel::Impossible][*how as usize];
                if let Some(n) = lane(c) {
                    self.lanes[&n].dev.set(|s| s.on_cancel = how);
                }
            }
            Step::Release(device) => drop(self.world.fabric.release(&self.devices[device % 3].gate)),
        }
        self.look();
    }

    /// What holds after every step.
    fn look(&self) {
        for (n, (at, _)) in self.maps.iter().filter(|(_, (_, map))| map.strong_count() == 0) {
            assert!(!self.all.iter().any(|dev| dev.touches(at)), "freed, with a descriptor that names it");
            let mut drains =
                (0..self.model.drains.len()).filter(|d| self.model.drains[*d].regions.contains(n));
            assert!(!drains.any(|d| self.model.is_held_up(d)), "freed, with a section that may still use it");
        }
        for (n, lane) in &self.lanes {
            if !self.model.may_have_been_touched(*n) {
                assert_eq!(
                    lane.dev.see(|s| s.disturbed),
                    0,
                    "a channel that no drain concerns was disturbed"
                );
            }
        }
    }

    pub(crate) fn end(mut self) {
        // Everybody wakes up, and everything is revoked, with no patience left; devices answer or not.
        let lanes: Vec<usize> = self.lanes.keys().copied().collect();
        for n in &lanes {
            self.poll(*n, 0);
        }
        let everything: Vec<usize> = (0..self.regions.len()).collect();
        self.revoke(&everything, By::Force);
        for device in 0..3 {
            // A patient one goes on in the background, hastened by its successor.
            (self.devices[device].quiesce, self.devices[device].quiet) = (None, None);
            self.quiesce(device, By::Force);
        }
        for round in 0..1000 {
            if round == 100 {
                // What nobody can hasten any more (its region was dropped) needs devices that answer.
                self.all.iter().for_each(|dev| dev.set(|s| s.on_cancel = OnCancel::Stops));
                for n in &lanes {
                    (0..64).for_each(|_| self.complete(*n, 0, 1));
                    self.poll(*n, 64);
                }
            }
            if self.revokes.is_empty() && self.devices.iter().all(|d| d.quiesce.is_none()) {
                break;
            }
            self.world.fabric.turn();
            for at in 0..self.revokes.len() {
                self.turn(at);
            }
            let closing: Vec<_> = (0..3).filter(|d| self.devices[*d].quiet.is_none()).collect();
            closing.iter().for_each(|d| self.restore(*d));
        }
        assert!(self.revokes.is_empty(), "a revoke does not end");
        // What is not held any more goes, once the devices of dropped channels answer.
        self.all.iter().for_each(|dev| dev.set(|s| s.on_cancel = OnCancel::Stops));
        self.regions.clear();
        while self.world.fabric.turn() {}
        self.look();
        assert!(self.devices.iter().all(|d| d.quiesce.is_none()), "a quiesce does not end");
        for n in lanes {
            while self.lanes[&n].owner.in_flight() > 0 || !self.model.channels[&n].open.is_empty() {
                let before = self.model.channels[&n].open.len();
                self.poll(n, 4);
                assert!(
                    self.model.channels[&n].open.len() < before,
                    "never completed: {:?}",
                    self.model.channels[&n]
                );
            }
            let lane = self.lanes.get_mut(&n).unwrap();
            let (counters, channel) = (lane.owner.counters(), &self.model.channels[&n]);
            assert_eq!((counters.revoked, counters.aborted), (channel.revoked, channel.aborted));
            let said = counters.done + counters.device_errors;
            // Read-backs are the device's word too.
            assert!(
                said == channel.ended || (said > channel.ended && !channel.wrote.is_empty()),
                "{counters:?}"
            );
        }
    }
}
