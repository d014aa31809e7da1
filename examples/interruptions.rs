//! A picture that streams into another device's memory four times, interrupted in the middle each time: the target's TDI is
//! unbound, the target reset, the initiator reset, the target's memory decoding switched off and on. Then the window is
//! recovered and the rest follows. Before each time the picture's negative is streamed, so every pixel is brought anew; after
//! it a stranger compares the bytes. Generic over the backend.

use crate::rig::{Rig, StoryError};
use crate::stream::{Plan, stream};
use crate::timeline::{Timeline, Track};
use crate::unbind::{BY, bind, reset, unbound};
use serde::Serialize;
use std::ops::Range;
use std::thread;
use std::time::Instant;
use tidegate::core::drain::{Phase, Progress, Report};
use tidegate::core::{Cause, Deadline, FlowsTo, Handle, Quiesced, RegionTag, Shared};
use tidegate::p2p::device::Written;
use tidegate::p2p::{Backend, Device, Import};
use tidegate::tdisp::tdi::{Provider, Tdi};

const COMMAND: u16 = 4;
const MEMORY_DECODING: u32 = 2;

/// A drain that waits for nobody to poll.
const SOON: Deadline = Deadline::millis(200, 6000);

/// Nothing interrupts the negative: its descriptors are so much longer.
const COARSE: usize = 16;

/// How many there are.
pub const COUNT: usize = 4;

/// The pictures in the rig's data, and what they look like to a stranger.
pub struct Frames<'a> {
    pub picture: (Range<usize>, &'a [u8]),
    pub negative: (Range<usize>, &'a [u8]),
}

/// One interruption, as the JSON line wants it.
#[derive(Debug, Serialize)]
pub struct Interruption {
    pub what: &'static str,
    /// Which way the stream went, where there are two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way: Option<&'static str>,
    /// Descriptors into the window when it began.
    pub held: u64,
    /// Of the quiesced device, after its gate was closed.
    pub in_flight: u64,
    pub drained: u64,
    pub revoked: u64,
    pub failed: u64,
    pub quiesce_us: u64,
    /// A stranger found other bytes before it, and the right ones after the rest of the stream.
    pub identical: bool,
    /// So did whoever looks at the screen, where there is one apart from the stranger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub screen: Option<bool>,
    /// Of a stream of frames, those that the peer got twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twice: Option<u64>,
    /// Mappings of the target's BAR that this process had while it streamed.
    pub mapped: u64,
    /// Mappings of devices' registers, which it had then: the look is not blind. The modelled fabric maps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registers: Option<u64>,
}

impl Interruption {
    pub fn of(what: &'static str, held: u64, report: &Report) -> Interruption {
        Interruption {
            what,
            held,
            in_flight: report.in_flight,
            drained: report.drained,
            revoked: report.revoked,
            failed: report.failed,
            quiesce_us: u64::try_from(report.total().as_micros()).unwrap_or(u64::MAX),
            way: None,
            identical: false,
            screen: None,
            twice: None,
            mapped: 0,
            registers: None,
        }
    }

    /// Something was in flight, each descriptor had one end, the bytes are right, and no CPU could have put them there, as far as a
    /// look that was not blind tells.
    pub fn holds(&self) -> bool {
        self.held > 0
            && self.in_flight > 0
            && self.in_flight == self.drained + self.revoked + self.failed
            && self.identical
            && self.screen != Some(false)
            && self.mapped == 0
            && self.registers != Some(0)
    }
}

/// One telling of the story.
struct Teller<'a, R: Rig> {
    rig: &'a R,
    frames: &'a Frames<'a>,
    told: &'a mut Timeline,
    interruptions: Vec<Interruption>,
}

/// Plays it, into the start of the target's BAR.
pub fn play<R: Rig>(
    rig: &R,
    frames: &Frames<'_>,
    provider: &Provider,
    told: &mut Timeline,
) -> Result<Vec<Interruption>, StoryError> {
    let (target, source, domain) = (rig.target(), rig.initiator(), rig.domain());
    let mut target_tdi = Tdi::new(target.clone(), provider.clone(), rig.dsm(target))?;
    let mut source_tdi = Tdi::new(source.clone(), provider.clone(), rig.dsm(source))?;
    let (target_run, source_run) = (bind(&mut target_tdi, provider)?, bind(&mut source_tdi, provider)?);
    let bytes = (frames.picture.1.len() as u64).next_multiple_of(tidegate::core::page_size());
    let export = target.export(rig.bar(), 0..bytes)?;
    let private = domain.import_private(&export, &provider.link(&source_run, &target_run)?)?;
    told.say(format!("{} streams into private memory of {}", source.address(), target.address()));
    rig.show()?;
    let mut teller = Teller { rig, frames, told, interruptions: Vec::new() };

    let window = teller.interrupted(private, "unbind", recovered, |begun, told| {
        let quiet = begun.quiesce(rig, target, Cause::Unbind)?;
        let report = begun.quiesced("target", &quiet, told);
        let unbind = target_tdi.unbind(quiet, BY).wait();
        told.unbound("target", &unbind);
        let target_quiet = unbound(unbind)?;
        // The initiator's requests carry T=1 in RUN only: it could not reach a shared window.
        let quiet = source.quiesce(Cause::Unbind, BY)?.wait()?;
        told.quiesced("initiator", quiet.report());
        let unbind = source_tdi.unbind(quiet, BY).wait();
        told.unbound("initiator", &unbind);
        unbound(unbind)?.restore();
        target_quiet.restore();
        Ok(report)
    })?;
    let window = teller.interrupted(window, "target_reset", recovered, |begun, told| {
        let quiet = begun.quiesce(rig, target, Cause::Reset)?;
        let report = begun.quiesced("target", &quiet, told);
        reset(target, quiet, told)?.restore();
        Ok(report)
    })?;
    // A reset of the initiator leaves the target's window as it was.
    let window = teller.interrupted(
        window,
        "initiator_reset",
        |window, _| Ok(window),
        |begun, told| {
            let quiet = begun.quiesce(rig, source, Cause::Reset)?;
            let report = begun.quiesced("initiator", &quiet, told);
            reset(source, quiet, told)?.restore();
            Ok(report)
        },
    )?;
    teller.interrupted(window, "memory_decoding", recovered, |begun, told| {
        // Who waits for that write can't tell when the drain has counted: the poller stays away, and the drain takes its queue over.
        let quiet = toggle(target, SOON, || rig.hold(false))?;
        let report = begun.quiesced("target", &quiet, told);
        told.say("memory decoding was switched off and on");
        quiet.restore();
        Ok(report)
    })?;
    let interruptions = teller.interruptions;
    for device in [source, target] {
        drop(device.quiesce(Cause::Close, BY)?.wait()?);
    }
    Ok(interruptions)
}

/// An interruption that is about to happen. It is told when it has, since telling takes time, in which a device goes on.
struct Begun<'a> {
    plan: &'a Plan,
    what: &'static str,
    held: u64,
    when: Instant,
}

impl Begun<'_> {
    /// Quiesces a device whose descriptors are held back, and lets go of them once the drain has counted them.
    fn quiesce<R: Rig>(&self, rig: &R, device: &Device<R::B>, why: Cause) -> Result<Quiesced, StoryError> {
        let mut quiesce = device.quiesce(why, BY)?;
        while matches!(quiesce.turn(), Progress::Pending(Phase::Gate | Phase::Grace)) {}
        rig.hold(false);
        self.plan.counted();
        Ok(quiesce.wait()?)
    }

    /// And who was quiesced first.
    fn quiesced(&self, who: &str, quiet: &Quiesced, told: &mut Timeline) -> Report {
        told.say_of(self.when, format!("{}, with {} descriptors in flight", self.what, self.held));
        told.quiesced(who, quiet.report());
        quiet.report().clone()
    }
}

impl<R: Rig> Teller<'_, R> {
    /// The negative, half of the picture, what `interrupt` does with descriptors in flight, what is done with the window
    /// afterwards, and the rest of the picture.
    fn interrupted<T: RegionTag>(
        &mut self,
        import: Import<R::B, T>,
        what: &'static str,
        after: impl FnOnce(Import<R::B, T>, &mut Timeline) -> Result<Import<R::B, Shared>, StoryError>,
        interrupt: impl FnOnce(&Begun, &mut Timeline) -> Result<Report, StoryError>,
    ) -> Result<Import<R::B, Shared>, StoryError>
    where
        Shared: FlowsTo<T>,
    {
        let window = import.region().handle();
        let (of, negative) = &self.frames.negative;
        let blank = Plan::new(of.clone(), COARSE * self.rig.chunk());
        self.leg("negative", |rig| stream(rig, &blank, window))?;
        blank.completed(self.rig)?;
        let was_other = (self.finds(negative), self.screen(1));

        let (of, picture) = &self.frames.picture;
        let plan = Plan::new(of.clone(), self.rig.chunk());
        let mut interruption = self.half(&plan, window, what, interrupt)?;
        let import = after(import, self.told)?;
        self.rig.show()?;
        plan.resume();
        self.leg("the rest of the picture", |rig| stream::<R, Shared>(rig, &plan, import.region().handle()))?;
        plan.completed(self.rig)?;
        interruption.identical = was_other.0 && self.finds(picture);
        interruption.screen = self.screen(0).map(|same| same && was_other.1 == Some(true));
        self.told.say(match (interruption.identical, interruption.screen) {
            (true, None) => "the rest arrived and is confirmed; a stranger finds the picture",
            (true, Some(true)) => {
                "the rest arrived and is confirmed; a stranger finds the picture, and the screen shows it"
            }
            (true, Some(false)) => "the screen shows SOMETHING ELSE",
            (false, _) => "a stranger finds OTHER BYTES",
        });
        self.interruptions.push(interruption);
        Ok(import)
    }

    /// Streams half of the plan; with descriptors in flight, `interrupt` is called. Then the poller ends.
    fn half<T: RegionTag>(
        &mut self,
        plan: &Plan,
        window: Handle<T>,
        what: &'static str,
        interrupt: impl FnOnce(&Begun, &mut Timeline) -> Result<Report, StoryError>,
    ) -> Result<Interruption, StoryError>
    where
        Shared: FlowsTo<T>,
    {
        let (rig, told) = (self.rig, &mut *self.told);
        plan.hold_whole_at_half();
        thread::scope(|scope| {
            let from = Instant::now();
            let poller = scope.spawn(|| (stream(rig, plan, window), Instant::now()));
            let made = plan.wait_until_under_way(rig, &poller).and_then(|()| {
                let (mapped, registers) = mappings(rig);
                plan.wait_until_held(rig, &poller)?;
                let begun = Begun { plan, what, held: rig.target().gate().in_flight(), when: Instant::now() };
                let report = interrupt(&begun, told)?;
                Ok(Interruption { mapped, registers, ..Interruption::of(what, begun.held, &report) })
            });
            rig.hold(false);
            plan.stop();
            if made.is_err() {
                // The poller sees a closed gate, whatever was interrupted.
                drop(rig.initiator().quiesce(Cause::User, BY).map(|quiesce| quiesce.wait()));
            }
            let (streamed, to) = poller.join().map_err(|_| StoryError::Poller)?;
            told.span(Track::Stream, "the picture, until it is interrupted", from, to);
            let made = made?;
            told.say(format!("the stream stopped: {} of {} chunks confirmed", streamed?, plan.chunks()));
            Ok(made)
        })
    }

    /// A part of the stream, on this thread.
    fn leg(
        &mut self,
        name: &str,
        stream: impl FnOnce(&R) -> Result<usize, StoryError>,
    ) -> Result<usize, StoryError> {
        let from = Instant::now();
        let streamed = stream(self.rig);
        self.told.span(Track::Stream, name, from, Instant::now());
        streamed
    }

    /// Does a reader that uses nothing of the library find these bytes?
    fn finds(&self, bytes: &[u8]) -> bool {
        crate::outside(&self.rig.outside(), bytes.len()) == Some(crate::hex(bytes))
    }

    /// Does the screen show this pass?
    fn screen(&mut self, pass: u8) -> Option<bool> {
        let same = self.rig.screen(pass)?;
        if let Err(why) = &same {
            self.told.say(format!("the screen is wrong: {why}"));
        }
        Some(same.is_ok())
    }
}

/// Of the target's BAR and of devices' registers, in this process.
fn mappings<R: Rig>(rig: &R) -> (u64, Option<u64>) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let registers = maps.lines().map(|line| rig.is_registers(line).map(u64::from)).sum();
    (maps.lines().filter(|line| rig.is_mapping(line)).count() as u64, registers)
}

/// Brings a window back after its device was quiesced, shared.
pub fn recovered<B: Backend, T: RegionTag>(
    import: Import<B, T>,
    told: &mut Timeline,
) -> Result<Import<B, Shared>, StoryError> {
    let import = import.recover().map_err(|failed| StoryError::Recover(failed.why))?;
    told.say("window recovered, same address, next generation");
    Ok(import)
}

/// Memory decoding off and on again, by writes of config space that go through the intercept. `closed` is called once the
/// device's gate is closed.
pub fn toggle<B: Backend>(
    device: &Device<B>,
    by: Deadline,
    closed: impl FnOnce(),
) -> Result<Quiesced, StoryError> {
    let command = device.config_read(COMMAND, 2)?;
    let written = thread::scope(|scope| {
        let write = scope.spawn(|| device.config_write(COMMAND, 2, command & !MEMORY_DECODING, by));
        while device.gate().check().is_ok() && !write.is_finished() {
            thread::yield_now();
        }
        closed();
        write.join()
    });
    let Written::Intercepted { quiesced, .. } = written.map_err(|_| StoryError::Poller)?? else {
        return Err(StoryError::Reset("the intercept let a write of the command register pass".to_owned()));
    };
    device.config_write(COMMAND, 2, command, by)?;
    Ok(quiesced)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Interruption {
        pub fn that_holds() -> Interruption {
            Interruption {
                what: "unbind",
                way: None,
                held: 2,
                in_flight: 2,
                drained: 1,
                revoked: 1,
                failed: 0,
                quiesce_us: 1,
                identical: true,
                screen: None,
                twice: None,
                mapped: 0,
                registers: None,
            }
        }
    }

    #[test]
    fn a_story_whose_bytes_differ_does_not_hold() {
        let told = |wrong: fn(&mut Interruption)| {
            let mut one = Interruption::that_holds();
            wrong(&mut one);
            one.holds()
        };
        assert!(told(|_| ()) && told(|one| one.screen = Some(true)));
        assert!(!told(|one| one.identical = false), "a stranger found other bytes");
        assert!(!told(|one| one.screen = Some(false)), "the screen shows something else");
        assert!(!told(|one| one.mapped = 1), "a CPU could have put them there");
        assert!(told(|one| one.registers = Some(2)) && !told(|one| one.registers = Some(0)), "a blind look");
        assert!(!told(|one| one.revoked = 0), "a descriptor without an end");
        assert!(!told(|one| one.held = 0), "nothing was interrupted");
        assert!(
            !told(|one| (one.in_flight, one.drained, one.revoked) = (0, 0, 0)),
            "all of it had ended before"
        );
    }
}
