//! The story: a picture comes off the wire into VRAM and goes back out of it, four times, each way interrupted in the middle,
//! each time in another of four ways. Generic over the stage.

use super::frame::ROWS;
use super::port::{Port, WINDOW, window_len};
use super::rows::Rows;
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
use tidegate::p2p::{Backend, Device, Import, Want};
use tidegate::tdisp::tdi::{Provider, Tdi};

/// Buffers that wait for a frame never end by themselves: they are withdrawn soon.
pub const BY: Deadline = Deadline::millis(200, 6000);
/// Rows that an interrupted leg asks for.
const LEG: usize = ROWS as usize / 4;
/// On the way in it is interrupted when all but so many of them came: some of the buffers that are posted wait for frames that
/// are on their way, the others for frames that nobody asked for.
const COMING: usize = WINDOW / 2;

/// What interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Unbind,
    TargetReset,
    InitiatorReset,
    MemoryDecoding,
}

impl How {
    const ALL: [How; 4] = [How::Unbind, How::TargetReset, How::InitiatorReset, How::MemoryDecoding];

    fn name(self) -> &'static str {
        match self {
            How::Unbind => "unbind",
            How::TargetReset => "target_reset",
            How::InitiatorReset => "initiator_reset",
            How::MemoryDecoding => "memory_decoding",
        }
    }
}

/// What is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Off the wire, into VRAM.
    In,
    /// Out of VRAM, onto the wire.
    Back,
}

impl Way {
    pub const ALL: [Way; 2] = [Way::In, Way::Back];

    pub fn name(self) -> &'static str {
        match self {
            Way::In => "in",
            Way::Back => "back",
        }
    }

    /// What its legs are called in the trace: the interrupted one, and the rest.
    fn legs(self) -> [&'static str; 2] {
        match self {
            Way::In => ["the picture, until it is interrupted", "the rest of the picture"],
            Way::Back => ["the way back, until it is interrupted", "the rest of the way back"],
        }
    }
}

/// What it showed.
#[derive(Debug, Default)]
pub struct Tale {
    pub interruptions: Vec<Interruption>,
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
    tdi: Tdi<Device<S::B>>,
    provider: &'a Provider,
    tale: Tale,
    interrupted: &'a AtomicBool,
}

type Window<S> = Import<<S as Theatre>::B, Shared>;

impl<S: Theatre> Teller<'_, S> {
    /// A part of a pass; with descriptors in flight it is interrupted, and what was taken away comes back.
    fn until(
        &mut self,
        way: Way,
        how: How,
        rows: &Rows,
        window: Window<S>,
        told: &mut Timeline,
    ) -> Result<Window<S>, StoryError> {
        self.port.open()?;
        rows.begin(LEG);
        let (stage, interrupted, handle) = (self.stage, self.interrupted, window.region().handle());
        let (display, controller) = (stage.display(), stage.controller());
        let held = AtomicBool::new(false);
        // The poll-mode thread, within its section: until somebody closes a gate.
        let struck = || {
            stage.hold(true);
            held.store(true, Ordering::Release);
            while display.gate().check().is_ok() && controller.gate().check().is_ok() {
                thread::yield_now();
            }
        };
        let mid_stream = || match way {
            Way::In => is_mid_stream(rows.moved(), display),
            Way::Back => held.load(Ordering::Acquire),
        };
        let tdi = &mut self.tdi;
        let leg = beside(
            (stage, &mut self.port, &mut self.tale, interrupted),
            way.legs()[0],
            told,
            |port, wanted| match way {
                Way::In => port.receive(rows, handle, wanted),
                Way::Back => port.send_until(rows, handle, &struck),
            },
            |tale, told, ended| {
                let waited = wait(interrupted, || mid_stream() || ended());
                let struck = waited.and_then(|()| match ended() {
                    true => Err(StoryError::Poller),
                    false => {
                        let (mapped, registers) = look(stage, tale);
                        let held = display.gate().in_flight();
                        let (moved, name) = (rows.moved(), way.name());
                        told.say(format!(
                            "{}, way {name}: {held} descriptors in flight, {moved} rows went by",
                            how.name()
                        ));
                        let report = strike(stage, how, tdi, told)?;
                        let registers = stage.maps_registers().then_some(registers);
                        let told = Interruption::of(how.name(), held, &report);
                        Ok(Interruption { way: Some(name), mapped, registers, ..told })
                    }
                });
                rows.stop();
                tale.interruptions.push(struck?);
                Ok(())
            },
        );
        stage.hold(false);
        leg?;
        match way {
            Way::In => {
                let kept = self.port.settle(rows);
                told.say(format!(
                    "the stream stopped: {kept} rows are flushed and stay, {} are to come",
                    rows.left()
                ));
            }
            Way::Back => told.say(format!(
                "the stream stopped: {} rows went, {} are to go, some of them perhaps again",
                rows.moved(),
                rows.left()
            )),
        }
        if how == How::TargetReset {
            stage.show()?;
        }
        // A reset of the initiator leaves the target's window as it was.
        if how == How::InitiatorReset { Ok(window) } else { recovered(window, told) }
    }

    /// A part of a pass that nothing interrupts, by its end all of it.
    fn rest(
        &mut self,
        way: Way,
        rows: &Rows,
        window: Handle<Shared>,
        told: &mut Timeline,
    ) -> Result<(), StoryError> {
        self.port.open()?;
        rows.begin(usize::from(ROWS));
        let (stage, interrupted) = (self.stage, self.interrupted);
        beside(
            (stage, &mut self.port, &mut self.tale, interrupted),
            way.legs()[1],
            told,
            |port, wanted| match way {
                Way::In => port.receive(rows, window, wanted),
                Way::Back => port.send_rest(rows, window, wanted),
            },
            |tale, _, ended| {
                look(stage, tale);
                wait(interrupted, ended)
            },
        )?;
        if rows.left() > 0 {
            return Err(StoryError::Silence { pass: rows.pass, left: rows.left() });
        }
        Ok(())
    }

    /// The rest of the pass, as the screen shows it.
    fn shown(&mut self, rows: &Rows, window: &Window<S>, told: &mut Timeline) -> Result<bool, StoryError> {
        self.rest(Way::In, rows, window.region().handle(), told)?;
        self.port.forget();
        let shown = self.stage.screen(rows.pass);
        let identical = shown.is_ok();
        told.say(match shown {
            Ok(()) => "the rest came; the screen shows all of it".to_owned(),
            Err(why) => format!("the screen is WRONG: {why}"),
        });
        Ok(identical)
    }

    /// The picture comes, and is interrupted on its way.
    fn received(
        &mut self,
        pass: u8,
        how: How,
        window: Window<S>,
        told: &mut Timeline,
    ) -> Result<Window<S>, StoryError> {
        let mut rows = Rows::new(pass);
        let window = self.until(Way::In, how, &rows, window, told)?;
        if how == How::TargetReset {
            rows = Rows::new(pass);
            told.say("nobody vouches for memory that was reset: all of it is to come");
        }
        let identical = self.shown(&rows, &window, told)?;
        self.tale.last_is(identical, None);
        Ok(window)
    }

    /// It goes back, and is interrupted on its way.
    fn returned(
        &mut self,
        pass: u8,
        how: How,
        window: Window<S>,
        told: &mut Timeline,
    ) -> Result<Window<S>, StoryError> {
        let window = if how == How::Unbind { self.bound_again(window, told)? } else { window };
        let rows = Rows::new(pass);
        let window = self.until(Way::Back, how, &rows, window, told)?;
        let stood = if how == How::TargetReset {
            told.say(
                "nobody vouches for memory that was reset: the picture comes again before the rest goes",
            );
            self.shown(&Rows::new(pass), &window, told)?
        } else {
            true
        };
        self.rest(Way::Back, &rows, window.region().handle(), told)?;
        let returned = self.stage.returned(pass);
        self.tale.last_is(stood && returned.is_ok(), returned.as_ref().ok().copied());
        told.say(match returned {
            Ok(twice) => format!("the rest went; the far end has all of it, {twice} rows twice"),
            Err(why) => format!("what went back is WRONG: {why}"),
        });
        Ok(window)
    }

    /// The display's TDI back into RUN, so that it can be unbound once more. It is locked while nobody has a window.
    fn bound_again(&mut self, window: Window<S>, told: &mut Timeline) -> Result<Window<S>, StoryError> {
        let (quiet, _) = quiesced(self.stage.display(), "display", Cause::User, told)?;
        quiet.restore();
        bind(&mut self.tdi, self.provider)?;
        told.say("the display's TDI is bound again, and in RUN");
        recovered(window, told)
    }
}

impl Tale {
    /// How the last interruption ended.
    fn last_is(&mut self, identical: bool, twice: Option<u64>) {
        if let Some(last) = self.interruptions.last_mut() {
            (last.identical, last.twice) = (identical, twice);
        }
    }
}

/// Runs `job` on a poll-mode thread, which the trace calls `name`, and meanwhile `watch` here. Where that goes wrong the
/// controller is quiesced, so that the thread ends.
fn beside<S: Theatre>(
    (stage, port, tale, interrupted): (&S, &mut Port<S::B>, &mut Tale, &AtomicBool),
    name: &str,
    told: &mut Timeline,
    job: impl FnOnce(&mut Port<S::B>, &dyn Fn() -> bool) -> Result<(), StoryError> + Send,
    watch: impl FnOnce(&mut Tale, &mut Timeline, &dyn Fn() -> bool) -> Result<(), StoryError>,
) -> Result<(), StoryError> {
    thread::scope(|scope| {
        let from = Instant::now();
        let poller =
            scope.spawn(move || (job(port, &|| !interrupted.load(Ordering::Relaxed)), Instant::now()));
        let watched = watch(tale, told, &|| poller.is_finished());
        if watched.is_err() {
            stage.hold(false);
            drop(stage.controller().quiesce(Cause::User, BY).map(|quiesce| quiesce.wait()));
        }
        let (polled, to) = poller.join().map_err(|_| StoryError::Poller)?;
        told.span(Track::Stream, name, from, to);
        // Which of the two went wrong first is told by the thread.
        polled.and(watched)
    })
}

/// Waits until it is so, or the user wants out.
fn wait(interrupted: &AtomicBool, until: impl Fn() -> bool) -> Result<(), StoryError> {
    while !until() {
        if interrupted.load(Ordering::Relaxed) {
            return Err(StoryError::Interrupted);
        }
        thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

/// Interrupts what is under way. The drain's report.
fn strike<S: Theatre>(
    stage: &S,
    how: How,
    tdi: &mut Tdi<Device<S::B>>,
    told: &mut Timeline,
) -> Result<Report, StoryError> {
    let (display, controller) = (stage.display(), stage.controller());
    let (quiet, report) = match how {
        How::Unbind => {
            let (quiet, report) = quiesced(display, "display", Cause::Unbind, told)?;
            let ended = tdi.unbind(quiet, BY).wait();
            told.unbound("display", &ended);
            (unbound(ended)?, report)
        }
        How::TargetReset => {
            let (quiet, report) = quiesced(display, "display", Cause::Reset, told)?;
            (reset(display, quiet, told)?, report)
        }
        How::InitiatorReset => {
            let (quiet, report) = quiesced(controller, "controller", Cause::Reset, told)?;
            (reset(controller, quiet, told)?, report)
        }
        How::MemoryDecoding => {
            let quiet = toggle(display, BY, || ())?;
            told.quiesced("display", quiet.report());
            told.say("memory decoding was switched off and on");
            let report = quiet.report().clone();
            (quiet, report)
        }
    };
    quiet.restore();
    Ok(report)
}

/// Have most rows of the leg come, and are more buffers posted than frames are to come?
fn is_mid_stream<B: Backend>(came: usize, display: &Device<B>) -> bool {
    came >= LEG - COMING && display.gate().in_flight() > LEG.saturating_sub(came) as u64
}

/// Looks which mappings this process has: of VRAM, of other BARs.
fn look<S: Theatre>(stage: &S, tale: &mut Tale) -> (u64, u64) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let count = |what| maps.lines().filter(|line| stage.mapped(line) == what).count() as u64;
    let (vram, registers) = (count(Mapping::Vram), count(Mapping::Registers));
    tale.looks += u64::from(!maps.is_empty());
    tale.vram_mappings += vram;
    tale.register_mappings += registers;
    (vram, registers)
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
    let mut window = domain.import(&export, Want::default())?;
    let port = Port::new(domain, controller)?;
    let mut teller = Teller { stage, port, tdi, provider, tale: Tale::default(), interrupted };
    told.say(format!(
        "the TDI of {} is in RUN; frames come through {} into its shared pages",
        display.address(),
        controller.address()
    ));
    for (pass, how) in (1..).zip(How::ALL) {
        window = teller.received(pass, how, window, told)?;
        window = teller.returned(pass, how, window, told)?;
    }
    for device in [controller, display] {
        drop(device.quiesce(Cause::Close, BY)?.wait()?);
    }
    Ok(teller.tale)
}
