//! The story: a picture comes off the wire into VRAM four times, each time interrupted in another way, and goes back.
//! Generic over the stage.

use super::frame::ROWS;
use super::port::{Port, Rows, WINDOW, window_len};
use super::stage::{Mapping, Theatre};
use crate::interruptions::{Interruption, recovered, toggle};
use crate::rig::StoryError;
use crate::timeline::{Timeline, Track};
use crate::unbind::{bind, reset, unbound};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tidegate::core::drain::Report;
use tidegate::core::{Cause, Deadline, Handle, Quiesced, Shared};
use tidegate::p2p::{Backend, Device, Want};
use tidegate::tdisp::tdi::{Provider, Tdi};

/// Buffers that wait for a frame never end by themselves: they are withdrawn soon.
pub const BY: Deadline = Deadline::millis(200, 6000);
/// Rows that an interrupted leg asks for.
const LEG: usize = ROWS as usize / 4;
/// It is interrupted when all but so many of them came: some of the buffers that are posted wait for frames that are on their
/// way, the others for frames that nobody asked for.
const COMING: usize = WINDOW / 2;

/// What it showed.
#[derive(Debug, Default)]
pub struct Tale {
    pub interruptions: Vec<Interruption>,
    /// The far end got back what the screen showed last.
    pub returned: bool,
    /// Times that the mappings of this process were looked at while frames came or went.
    pub looks: u64,
    /// Mappings of VRAM that were found then.
    pub vram_mappings: u64,
    /// Mappings of other BARs.
    pub register_mappings: u64,
}

struct Teller<'a, S: Theatre> {
    stage: &'a S,
    port: Port<S::B>,
    tale: Tale,
    interrupted: &'a AtomicBool,
}

impl<S: Theatre> Teller<'_, S> {
    /// Runs `job` on a poll-mode thread, which the trace calls `name`, and meanwhile `watch` here. Where that goes wrong the
    /// controller is quiesced, so that the thread ends.
    fn beside<O>(
        &mut self,
        name: &str,
        told: &mut Timeline,
        job: impl FnOnce(&mut Port<S::B>, &dyn Fn() -> bool) -> Result<(), StoryError> + Send,
        watch: impl FnOnce(&mut Tale, &mut Timeline, &dyn Fn() -> bool) -> Result<O, StoryError>,
    ) -> Result<O, StoryError> {
        let (interrupted, stage, port) = (self.interrupted, self.stage, &mut self.port);
        thread::scope(|scope| {
            let from = Instant::now();
            let poller =
                scope.spawn(move || (job(port, &|| !interrupted.load(Ordering::Relaxed)), Instant::now()));
            let made = watch(&mut self.tale, told, &|| poller.is_finished());
            if made.is_err() {
                drop(stage.controller().quiesce(Cause::User, BY).map(|quiesce| quiesce.wait()));
            }
            let (polled, to) = poller.join().map_err(|_| StoryError::Poller)?;
            told.span(Track::Stream, name, from, to);
            // Which of the two went wrong first is told by the thread.
            polled.and(made)
        })
    }

    /// Receives a part of the pass; with frames on the wire and buffers posted, `interrupt` is called.
    fn until(
        &mut self,
        rows: &Rows,
        window: Handle<Shared>,
        told: &mut Timeline,
        what: &'static str,
        interrupt: impl FnOnce(&mut Timeline) -> Result<Report, StoryError>,
    ) -> Result<(), StoryError> {
        self.port.open()?;
        rows.begin(LEG);
        let (stage, interrupted) = (self.stage, self.interrupted);
        let display = stage.display();
        self.beside(
            "the picture, until it is interrupted",
            told,
            |port, wanted| port.receive(rows, window, wanted),
            |tale, told, ended| {
                while !is_mid_stream(rows.came(), display) {
                    if interrupted.load(Ordering::Relaxed) {
                        return Err(StoryError::Interrupted);
                    }
                    if ended() {
                        return Err(StoryError::Poller);
                    }
                    thread::sleep(Duration::from_micros(50));
                }
                look(stage, tale);
                let held = display.gate().in_flight();
                told.say(format!("{what}: {held} descriptors in flight, {} rows came", rows.came()));
                let report = interrupt(told)?;
                tale.interruptions.push(Interruption::of(what, held, &report));
                rows.stop();
                Ok(())
            },
        )?;
        let kept = self.port.settle(rows);
        told.say(format!(
            "the stream stopped: {kept} rows are flushed and stay, {} are to come",
            rows.left()
        ));
        Ok(())
    }

    /// Receives the rest of the pass, and compares the screen.
    fn rest(&mut self, rows: &Rows, window: Handle<Shared>, told: &mut Timeline) -> Result<(), StoryError> {
        self.port.open()?;
        rows.begin(usize::from(ROWS));
        let (stage, interrupted) = (self.stage, self.interrupted);
        self.beside(
            "the rest of the picture",
            told,
            |port, wanted| port.receive(rows, window, wanted),
            |tale, _, ended| {
                look(stage, tale);
                while !ended() {
                    if interrupted.load(Ordering::Relaxed) {
                        return Err(StoryError::Interrupted);
                    }
                    thread::sleep(Duration::from_micros(50));
                }
                Ok(())
            },
        )?;
        if rows.left() > 0 {
            return Err(StoryError::Silence { pass: rows.pass, left: rows.left() });
        }
        self.port.forget();
        let shown = self.stage.screen(rows.pass);
        if let Some(interruption) = self.tale.interruptions.last_mut() {
            interruption.identical = shown.is_ok();
        }
        told.say(match shown {
            Ok(()) => "the rest came; the screen shows all of it".to_owned(),
            Err(why) => format!("the screen is WRONG: {why}"),
        });
        Ok(())
    }

    /// The way back.
    fn back(&mut self, pass: u8, window: Handle<Shared>, told: &mut Timeline) -> Result<(), StoryError> {
        self.port.open()?;
        let stage = self.stage;
        self.beside(
            "the way back",
            told,
            |port, wanted| port.send(pass, window, wanted),
            |tale, _, _| {
                look(stage, tale);
                Ok(())
            },
        )?;
        let returned = self.stage.returned(pass);
        self.tale.returned = returned.is_ok();
        told.say(match returned {
            Ok(()) => "the picture went back out of VRAM; the far end has all of it".to_owned(),
            Err(why) => format!("what went back is WRONG: {why}"),
        });
        Ok(())
    }
}

/// Have most rows of the leg come, and are more buffers posted than frames are to come?
fn is_mid_stream<B: Backend>(came: usize, display: &Device<B>) -> bool {
    came >= LEG - COMING && display.gate().in_flight() > LEG.saturating_sub(came) as u64
}

/// Looks whether this process maps VRAM.
fn look<S: Theatre>(stage: &S, tale: &mut Tale) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    tale.looks += u64::from(!maps.is_empty());
    for line in maps.lines() {
        match stage.mapped(line) {
            Mapping::Vram => tale.vram_mappings += 1,
            Mapping::Registers => tale.register_mappings += 1,
            Mapping::Other => {}
        }
    }
}

fn quiesced<B: Backend>(
    device: &Device<B>,
    name: &str,
    why: Cause,
    told: &mut Timeline,
) -> Result<(Quiesced, Report), StoryError> {
    let quiet = device.quiesce(why, BY)?.wait()?;
    told.quiesced(name, quiet.report());
    let report = quiet.report().clone();
    Ok((quiet, report))
}

/// Plays it.
pub fn play<S: Theatre>(
    stage: &S,
    provider: &Provider,
    interrupted: &AtomicBool,
    told: &mut Timeline,
) -> Result<Tale, StoryError> {
    let (display, controller, domain) = (stage.display(), stage.controller(), stage.domain());
    let mut tdi = Tdi::new(display.clone(), provider.clone(), stage.dsm())?;
    bind(&mut tdi, provider)?;
    stage.show()?;
    let export = display.export(0, 0..window_len().next_multiple_of(tidegate::core::page_size()))?;
    let window = domain.import(&export, Want::default())?;
    let port = Port::new(domain, controller)?;
    let mut teller = Teller { stage, port, tale: Tale::default(), interrupted };
    told.say(format!(
        "the TDI of {} is in RUN; frames come through {} into its shared pages",
        display.address(),
        controller.address()
    ));

    let rows = Rows::new(1);
    teller.until(&rows, window.region().handle(), told, "unbind", |told| {
        let (quiet, report) = quiesced(display, "display", Cause::Unbind, told)?;
        let ended = tdi.unbind(quiet, BY).wait();
        told.unbound("display", &ended);
        unbound(ended)?.restore();
        Ok(report)
    })?;
    let window = recovered(window, told)?;
    teller.rest(&rows, window.region().handle(), told)?;

    let rows = Rows::new(2);
    teller.until(&rows, window.region().handle(), told, "target_reset", |told| {
        let (quiet, report) = quiesced(display, "display", Cause::Reset, told)?;
        reset(display, quiet, told)?.restore();
        Ok(report)
    })?;
    stage.show()?;
    let window = recovered(window, told)?;
    teller.rest(&rows, window.region().handle(), told)?;

    let rows = Rows::new(3);
    teller.until(&rows, window.region().handle(), told, "initiator_reset", |told| {
        let (quiet, report) = quiesced(controller, "controller", Cause::Reset, told)?;
        reset(controller, quiet, told)?.restore();
        Ok(report)
    })?;
    teller.rest(&rows, window.region().handle(), told)?;

    let rows = Rows::new(4);
    teller.until(&rows, window.region().handle(), told, "memory_decoding", |told| {
        let quiet = toggle(display, BY, || ())?;
        told.quiesced("display", quiet.report());
        told.say("memory decoding was switched off and on");
        Ok(quiet.restore())
    })?;
    let window = recovered(window, told)?;
    teller.rest(&rows, window.region().handle(), told)?;

    teller.back(rows.pass, window.region().handle(), told)?;
    for device in [controller, display] {
        drop(device.quiesce(Cause::Close, BY)?.wait()?);
    }
    Ok(teller.tale)
}
