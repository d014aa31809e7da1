//! tax: what the checks cost. telemetry: what the counters cost. Each against a build that leaves them out.

use super::Group;
use crate::children::{self, Ask};
use crate::missing::Missing;
use crate::probe::Probe;
use crate::rig::Rig;
use crate::round::Round;

pub(super) struct Tax;

impl Group for Tax {
    fn crosses(&self) -> bool {
        false
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let ask = |series, program| Ask { series, program, probe: Probe::Copies32 };
        let (plain, without) = (rig.children.plain.as_deref(), rig.children.unchecked.as_deref());
        children::ask(rig, round, &[ask("tax/burst-32", plain), ask("tax/burst-32@unchecked", without)]);
        let figure =
            |series: &str| round.figure(series).cloned().unwrap_or(Err(Missing::new("not measured")));
        let more = figure("tax/burst-32").and_then(|with| Ok(with - figure("tax/burst-32@unchecked")?));
        round.put_or_miss("tax/more", more);
        Ok(())
    }
}

pub(super) struct Telemetry;

impl Group for Telemetry {
    fn crosses(&self) -> bool {
        false
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let ask = |series, program, probe| Ask { series, program, probe };
        let (plain, without) = (rig.children.plain.as_deref(), rig.children.uncounted.as_deref());
        let asks = [
            ask("telemetry/burst-32", plain, Probe::NoOps32),
            ask("telemetry/burst-32@uncounted", without, Probe::NoOps32),
            ask("telemetry/burst-1", plain, Probe::NoOps1),
            ask("telemetry/burst-1@uncounted", without, Probe::NoOps1),
        ];
        children::ask(rig, round, &asks);
        Ok(())
    }
}
