//! A stream into a GPU's VRAM that is interrupted four times: the GPU's TDI is unbound, the GPU reset, the initiator
//! reset, the GPU's memory decoding switched off and on. Each time the stream goes on. Generic over the backend.

use crate::rig::{Rig, StoryError};
use crate::stream::{Plan, stream, wait_until_held};
use crate::timeline::Timeline;
use crate::unbind::{BY, bind, reset, unbound};
use serde::Serialize;
use std::thread;
use tidegate::core::drain::{Phase, Progress, Report};
use tidegate::core::{Cause, Handle, Quiesced, RegionTag, Shared};
use tidegate::p2p::device::Written;
use tidegate::p2p::{Device, Import};
use tidegate::tdisp::tdi::{Provider, Tdi};

const COMMAND: u16 = 4;
const MEMORY_DECODING: u32 = 2;

/// One interruption, as the JSON line wants it.
#[derive(Debug, Serialize)]
pub struct Interruption {
    pub what: &'static str,
    /// Descriptors into the window when it began.
    pub held: u64,
    /// Of the quiesced device, after its gate was closed.
    pub in_flight: u64,
    pub drained: u64,
    pub revoked: u64,
    pub failed: u64,
    pub quiesce_us: u64,
}

impl Interruption {
    fn of(what: &'static str, held: u64, report: &Report) -> Interruption {
        Interruption {
            what,
            held,
            in_flight: report.in_flight,
            drained: report.drained,
            revoked: report.revoked,
            failed: report.failed,
            quiesce_us: u64::try_from(report.total().as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Something was in flight, and each descriptor had one end.
    pub fn holds(&self) -> bool {
        self.held > 0 && self.in_flight == self.drained + self.revoked + self.failed
    }
}

/// Streams a fifth of the plan; with descriptors in flight, `interrupt` is called. Then the poller ends.
fn until<R: Rig, T: RegionTag, O>(
    rig: &R,
    plan: &Plan,
    window: Handle<T>,
    told: &mut Timeline,
    interrupt: impl FnOnce(u64, &mut Timeline) -> Result<O, StoryError>,
) -> Result<O, StoryError>
where
    Shared: tidegate::core::FlowsTo<T>,
{
    plan.resume();
    rig.hold_after((plan.chunks() / 5).max(1));
    thread::scope(|scope| {
        let poller = scope.spawn(|| stream(rig, plan, window));
        let made = wait_until_held(rig, &poller).and_then(|()| {
            // The last command, at least, does not complete before the rig lets go.
            let held = rig.target().gate().in_flight();
            told.say(format!("interrupted with {held} descriptors in flight"));
            interrupt(held, told)
        });
        rig.hold(false);
        plan.stop();
        if made.is_err() {
            // The poller sees a closed gate, whatever was interrupted.
            drop(rig.initiator().quiesce(Cause::User, BY).map(|quiesce| quiesce.wait()));
        }
        let streamed = poller.join().map_err(|_| StoryError::Poller)?;
        let made = made?;
        told.say(format!("the stream stopped: {} of {} chunks confirmed", streamed?, plan.chunks()));
        Ok(made)
    })
}

/// Quiesces a device whose descriptors the rig holds back, and lets go of them once the gate is closed.
fn quiesce<R: Rig>(rig: &R, device: &Device<R::B>, why: Cause) -> Result<Quiesced, StoryError> {
    let mut quiesce = device.quiesce(why, BY)?;
    while matches!(quiesce.turn(), Progress::Pending(Phase::Gate | Phase::Grace)) {}
    rig.hold(false);
    Ok(quiesce.wait()?)
}

/// Memory decoding off and on again, by writes of config space that go through the intercept.
fn toggle<R: Rig>(rig: &R) -> Result<Quiesced, StoryError> {
    let gpu = rig.target();
    let command = gpu.config_read(COMMAND, 2)?;
    let written = thread::scope(|scope| {
        let write = scope.spawn(|| gpu.config_write(COMMAND, 2, command & !MEMORY_DECODING, BY));
        while gpu.gate().check().is_ok() && !write.is_finished() {
            thread::yield_now();
        }
        rig.hold(false);
        write.join()
    });
    let Written::Intercepted { quiesced, .. } = written.map_err(|_| StoryError::Poller)?? else {
        return Err(StoryError::Reset("the intercept let a write of the command register pass".to_owned()));
    };
    gpu.config_write(COMMAND, 2, command, BY)?;
    Ok(quiesced)
}

fn recovered<B: tidegate::p2p::Backend, T: RegionTag>(
    import: Import<B, T>,
    told: &mut Timeline,
) -> Result<Import<B, Shared>, StoryError> {
    let import = import.recover().map_err(|failed| StoryError::Recover(failed.why))?;
    told.say("window recovered, same address, next generation");
    Ok(import)
}

/// Plays it: `len` bytes of the rig's data end up at the start of the target's BAR.
pub fn play<R: Rig>(
    rig: &R,
    len: usize,
    provider: &Provider,
    told: &mut Timeline,
) -> Result<Vec<Interruption>, StoryError> {
    let (gpu, source, domain) = (rig.target(), rig.initiator(), rig.domain());
    let mut tale = Vec::new();
    let plan = Plan::new(len, rig.chunk());

    let mut gpu_tdi = Tdi::new(gpu.clone(), provider.clone(), rig.dsm(gpu))?;
    let mut source_tdi = Tdi::new(source.clone(), provider.clone(), rig.dsm(source))?;
    let (gpu_run, source_run) = (bind(&mut gpu_tdi, provider)?, bind(&mut source_tdi, provider)?);
    let bytes = (len as u64).next_multiple_of(tidegate::core::page_size());
    let export = gpu.export(rig.bar(), 0..bytes)?;
    let private = domain.import_private(&export, &provider.link(&source_run, &gpu_run)?)?;
    told.say(format!("{} streams into private VRAM of {}", source.address(), gpu.address()));

    let (gpu_quiet, source_quiet) = until(rig, &plan, private.region().handle(), told, |held, told| {
        let quiet = quiesce(rig, gpu, Cause::Unbind)?;
        told.quiesced("GPU", quiet.report());
        tale.push(Interruption::of("unbind", held, quiet.report()));
        let report = gpu_tdi.unbind(quiet, BY).wait();
        told.unbound("GPU", &report);
        let gpu_quiet = unbound(report)?;
        // Its requests carry T=1 in RUN only: it could not reach a shared window.
        let quiet = source.quiesce(Cause::Unbind, BY)?.wait()?;
        told.quiesced("initiator", quiet.report());
        let report = source_tdi.unbind(quiet, BY).wait();
        told.unbound("initiator", &report);
        Ok((gpu_quiet, unbound(report)?))
    })?;
    gpu_quiet.restore();
    source_quiet.restore();
    let window = recovered(private, told)?;

    until(rig, &plan, window.region().handle(), told, |held, told| {
        let quiet = quiesce(rig, gpu, Cause::Reset)?;
        told.quiesced("GPU", quiet.report());
        tale.push(Interruption::of("target_reset", held, quiet.report()));
        Ok(reset(gpu, quiet, told)?.restore())
    })?;
    let window = recovered(window, told)?;

    until(rig, &plan, window.region().handle(), told, |held, told| {
        let quiet = quiesce(rig, source, Cause::Reset)?;
        told.quiesced("initiator", quiet.report());
        tale.push(Interruption::of("initiator_reset", held, quiet.report()));
        Ok(reset(source, quiet, told)?.restore())
    })?;

    until(rig, &plan, window.region().handle(), told, |held, told| {
        let quiet = toggle(rig)?;
        told.quiesced("GPU", quiet.report());
        tale.push(Interruption::of("memory_decoding", held, quiet.report()));
        told.say("memory decoding was switched off and on");
        quiet.restore();
        Ok(())
    })?;
    let window = recovered(window, told)?;

    plan.resume();
    stream(rig, &plan, window.region().handle())?;
    if rig.interrupted() {
        return Err(StoryError::Interrupted);
    }
    if !plan.is_complete() {
        return Err(StoryError::Incomplete { confirmed: plan.confirmed(), chunks: plan.chunks() });
    }
    told.say("the rest arrived, and is confirmed by a checked read-back");
    for device in [source, gpu] {
        drop(device.quiesce(Cause::Close, BY)?.wait()?);
    }
    Ok(tale)
}
