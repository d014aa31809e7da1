//! The story: a stream into a GPU's private VRAM, the GPU unbound in the middle of it, and the rest of the stream
//! into the same window, now shared. Generic over the backend: read it to learn the API.

use crate::rig::{Rig, StoryError};
use crate::stream::{Plan, stream};
use crate::timeline::{Tale, Timeline};
use std::thread;
use tidegate::core::drain::{Phase, Progress};
use tidegate::core::tdi::Host;
use tidegate::core::{Cause, Deadline, Quiesced};
use tidegate::p2p::{Device, ImportError};
use tidegate::tdisp::tdi::{LockParams, Provider, Run, Tdi, UnbindOutcome, UnbindReport};

/// Both devices' deadline: drain for 1.5 s, then cancel; force after 6 (edu needs 0.2 s a descriptor).
pub const BY: Deadline = Deadline::millis(1500, 6000);

/// Lock, look at the report, start.
pub fn bind<H: Host>(tdi: &mut Tdi<H>, provider: &Provider) -> Result<Run, StoryError> {
    let locked = tdi.lock(LockParams::default())?;
    let acceptance = provider.accept(&locked)?;
    Ok(locked.start(acceptance)?)
}

/// The proof that the device is unlocked, or why it is not.
pub fn unbound(report: UnbindReport) -> Result<Quiesced, StoryError> {
    match report.outcome {
        UnbindOutcome::Unbound(q) => Ok(q),
        UnbindOutcome::Failed { step, code, .. } => Err(StoryError::Unbind { step, code }),
        _ => Err(StoryError::Unbind { step: "unknown", code: 0 }),
    }
}

/// Plays it: `data` ends up at the start of the target's BAR.
pub fn play<R: Rig>(
    rig: &R,
    data: &[u8],
    provider: &Provider,
    told: &mut Timeline,
) -> Result<Tale, StoryError> {
    let (gpu, nic, domain) = (rig.target(), rig.initiator(), rig.domain());
    let mut tale = Tale::default();

    // Two TDIs of one trust domain, in RUN.
    let mut gpu_tdi = Tdi::new(gpu.clone(), provider.clone(), rig.dsm(gpu))?;
    let mut nic_tdi = Tdi::new(nic.clone(), provider.clone(), rig.dsm(nic))?;
    let gpu_run = bind(&mut gpu_tdi, provider)?;
    let nic_run = bind(&mut nic_tdi, provider)?;
    told.say(format!(
        "{} and {} are in RUN of trust domain {}",
        gpu.address(),
        nic.address(),
        provider.domain().0
    ));

    // The private window needs a proof about these two devices, in this direction.
    let bytes = (data.len() as u64).next_multiple_of(tidegate::core::page_size());
    let export = gpu.export(rig.bar(), 0..bytes)?;
    let backwards = provider.link(&gpu_run, &nic_run)?;
    match domain.import_private(&export, &backwards) {
        Err(ImportError::Link) => told.say("private import without the right proof: refused, as it must be"),
        other => {
            return Err(StoryError::NotRefused(
                other.err().map_or("it was granted".to_owned(), |e| e.to_string()),
            ));
        }
    }
    let link = provider.link(&nic_run, &gpu_run)?;
    let private = domain.import_private(&export, &link)?;
    told.say(format!("private window of {bytes:#x} bytes imported with the proof"));

    // Stream from a poll-mode thread; unbind the GPU in the middle, with descriptors in flight.
    let plan = Plan::new(0..data.len(), rig.chunk());
    let window = private.region().handle();
    plan.hold_at_half();
    let (gpu_quiet, nic_quiet) = thread::scope(|scope| -> Result<_, StoryError> {
        let poller = scope.spawn(|| stream(rig, &plan, window));
        let quiet = (|| {
            plan.wait_until_held(rig, &poller)?;
            let mut quiesce = gpu.quiesce(Cause::Unbind, BY)?;
            while matches!(quiesce.turn(), Progress::Pending(Phase::Gate | Phase::Grace)) {}
            rig.hold(false);
            let quiet = quiesce.wait()?;
            tale.quiesced(quiet.report());
            told.quiesced("GPU", quiet.report());
            let report = gpu_tdi.unbind(quiet, BY).wait();
            tale.unbound(&report);
            told.unbound("GPU", &report);
            let gpu_quiet = unbound(report)?;
            // The NIC's requests carry T=1 in RUN only: it could not reach a shared window.
            let quiet = nic.quiesce(Cause::Unbind, BY)?.wait()?;
            told.quiesced("NIC", quiet.report());
            let report = nic_tdi.unbind(quiet, BY).wait();
            told.unbound("NIC", &report);
            Ok((gpu_quiet, unbound(report)?))
        })();
        rig.hold(false);
        plan.stop();
        let streamed = poller.join().map_err(|_| StoryError::Poller)?;
        told.say(format!("the stream stopped: {} of {} chunks confirmed", streamed?, plan.chunks()));
        quiet
    })?;

    // Shared mode: the same export, the same address, a new generation.
    let gpu_quiet = if rig.resets() { reset(gpu, gpu_quiet, told)? } else { gpu_quiet };
    gpu_quiet.restore();
    nic_quiet.restore();
    let shared =
        tale.timed("recover", || private.recover().map_err(|failed| StoryError::Recover(failed.why)))?;
    told.say("window recovered as shared, same address, next generation");
    plan.resume();
    rig.clear();
    stream(rig, &plan, shared.region().handle())?;
    plan.completed(rig)?;
    told.say("the rest arrived, and is confirmed by a checked read-back");
    tale.recovered = true;

    // Nothing stays mapped.
    for device in [nic, gpu] {
        drop(device.quiesce(Cause::Close, BY)?.wait()?);
    }
    Ok(tale)
}

/// A real reset, with the proof that nothing of ours is under way: imports are dead afterwards, the export is not.
pub fn reset<B: tidegate::p2p::Backend>(
    device: &Device<B>,
    q: Quiesced,
    told: &mut Timeline,
) -> Result<Quiesced, StoryError> {
    let (event, q) = device.reset(q, BY).map_err(|error| StoryError::Reset(error.to_string()))?;
    told.say(format!("{} was reset ({event:?})", device.address()));
    Ok(q)
}
