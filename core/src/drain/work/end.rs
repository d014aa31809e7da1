//! How one channel's part ends when it does not end by itself.

use super::super::clock::Patience;
use super::super::report::{HeldWhy, Report};
use super::{Stage, Work, written};
use crate::Cause;
use crate::channel::{Seizure, Taken, owner};
use crate::fabric::{Quarantined, Shared};
use crate::sync::Ordering;
use std::sync::Arc;

impl Work {
    /// A turn of it panicked: in the engine, which is called no more then, or in what listens to our traces. The channel
    /// went back as it was left, and is had again to be closed; the other channels of the drain are not concerned.
    pub(in crate::drain) fn fail(&mut self, fabric: &Arc<Shared>, report: &mut Report) {
        // Left by the turn as it unwound; its owner finds no cause that came later.
        self.channel.meta().blame(Cause::Panicked);
        self.channel.line().owner.fetch_or(owner::CLOSING, Ordering::Release);
        self.close = true;
        if !self.panicked {
            self.panicked = true;
            report.hold(self.name().to_owned(), HeldWhy::Panicked);
            self.flush = written(&*self.channel, fabric);
            self.asked = false;
            self.stage = Stage::Seizing(None);
            return;
        }
        // Once more, and nobody can say how often: in the background, if this is not that.
        if !self.patient {
            fabric.close_later(&self.channel, report.cause);
        }
        self.watched.clear();
        self.stage = Stage::Over;
    }

    /// The device does not stop, or its engine panicked: its operations end for the user, its memory does not.
    pub(super) fn condemn(
        &mut self,
        mut taken: Taken,
        named: &dyn Fn(u32) -> bool,
        fabric: &Arc<Shared>,
        report: &mut Report,
    ) {
        let broken = taken.is_broken();
        self.watch(named, report);
        self.note_unconfirmed(&mut taken, report);
        if let Some(engine) = taken.unplug() {
            // Before the entries are cleared, so that no other drain finds neither: all that it may still touch,
            // revoked here or not.
            let touches = fabric.touched_by(&*self.channel);
            let gate = self.channel.meta().gate.clone();
            fabric.quarantine(Quarantined::engine(self.name(), engine, gate, touches));
        }
        self.condemned = true;
        self.withdraw(&mut taken, named, report);
        match broken {
            false => report.hold(self.name().to_owned(), HeldWhy::NotStopped),
            // Said already, if it was in this drain.
            true if self.panicked => {}
            true => report.hold(self.name().to_owned(), HeldWhy::Panicked),
        }
        self.close(taken, fabric, report);
    }

    pub(super) fn close(&mut self, taken: Taken, fabric: &Shared, report: &Report) {
        self.channel.meta().blame(report.cause);
        // Before it is closed: who finds it closed asks for this.
        fabric.leave_unflushed(&*self.channel, &self.flush, std::mem::take(&mut self.unflushed));
        if taken.close() {
            fabric.delist(&self.channel);
        }
        self.stage = Stage::Over;
    }

    /// Another drain closed it: everything in it has ended, and that drain flushed what it could.
    pub(super) fn closed_by_another(
        &mut self,
        named: &dyn Fn(u32) -> bool,
        fabric: &Shared,
        report: &mut Report,
    ) {
        self.watch(named, report);
        if self.flush.iter().any(|window| fabric.was_left_unflushed(window.region)) {
            self.not_flushed(0, report);
        }
    }

    /// Past the last deadline: the channel can't be had. What is in flight stays the owner's to poll.
    pub(super) fn give_up_if(
        &mut self,
        patience: Patience,
        seizure: Option<Seizure>,
        fabric: &Arc<Shared>,
        report: &mut Report,
    ) {
        if patience < Patience::Force || self.patient {
            return;
        }
        let why = match seizure {
            Some(seizure) => {
                let orphaned = seizure.abandon();
                if self.close || orphaned {
                    // Closed as soon as its owner is out; until then the gate of its device stays closed.
                    fabric.close_later(&self.channel, report.cause);
                }
                HeldWhy::OwnerInSection
            }
            None if fabric.closes_later(&self.channel) => HeldWhy::OwnerInSection,
            None => {
                if self.close {
                    // Whoever has it may give it back open.
                    fabric.close_later(&self.channel, report.cause);
                }
                HeldWhy::NotStopped
            }
        };
        tracing::warn!(channel = self.name(), ?why, "a channel could not be had by the last deadline");
        report.hold(self.name().to_owned(), why);
        // What is in flight stays the owner's to poll.
        self.watched.clear();
        self.stage = Stage::Over;
    }
}
