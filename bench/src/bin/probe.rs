//! `probe NAME CPU MILLISECONDS`: prints one figure. `rounds` starts it, built with and without a cfg.
#![expect(clippy::print_stdout, reason = "a program")]

use std::time::Duration;
use tidegate_bench::{clock::Clock, cpus, probe::Probe};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: probe NAME CPU MILLISECONDS");
    let probe = Probe::named(&next()?).ok_or("no such figure")?;
    if !cpus::pin_to(next()?.parse()?) {
        return Err("the kernel refused that CPU".into());
    }
    let time = Duration::from_millis(next()?.parse()?);
    println!("{}", probe.measure(&Clock::calibrated(), time)?);
    Ok(())
}
