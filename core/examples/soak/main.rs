//! The soak: pollers, revokers, registrars, parkers, quiescers and threads that come and go, against the accounts of
//! every operation and against memory that tells who wrote to it too late. Run by `ci/soak`.
//!
//! The seed decides what each thread wants to do, not when the scheduler lets it: a run with the same seed plays the
//! same game again, not the same interleaving.
#![expect(clippy::print_stderr, reason = "a program: what it finds goes to stderr, the result to stdout")]

mod engines;
mod lanes;
mod lists;
mod lives;
mod others;
mod revokers;
mod round;

use lives::{DONE, Rng, Wrong, all_wrongs, wrongs};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const USAGE: &str = "soak [--minutes N | --ops N] [--seed S] [--round SECONDS] [--blind]

  --minutes N      play for N minutes (default 5)
  --ops N          play until N operations have completed
  --seed S         the seed of an earlier run (default: a new one, printed first)
  --round SECONDS  length of a round, each with a new fabric (default 10)
  --blind          memory is freed after its revoke, never used again, and what the soak itself notices does not stop
                   it: AddressSanitizer is to see it first

Exit code 0: nothing wrong; 1: something was; 2: bad arguments.";

/// What a round gets on top of its length.
const STUCK: Duration = Duration::from_secs(60);

struct Wanted {
    length: Duration,
    operations: u64,
    seed: u64,
    round: Duration,
}

fn arguments() -> Result<Wanted, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = Rng::new(now.as_nanos() as u64, u64::from(std::process::id())).next();
    let mut wanted = Wanted {
        length: Duration::from_secs(300),
        operations: u64::MAX,
        seed,
        round: Duration::from_secs(10),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Err(String::new());
        }
        if word == "--blind" {
            lives::BLIND.store(true, Ordering::Relaxed);
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
        let number =
            || value.replace('_', "").parse::<u64>().map_err(|_| format!("{word}: {value} is no number"));
        match word.as_str() {
            "--minutes" => {
                let minutes: f64 = value.parse().map_err(|_| format!("{word}: {value} is no number"))?;
                wanted.length =
                    Duration::try_from_secs_f64(minutes * 60.0).map_err(|e| format!("{word}: {e}"))?;
            }
            "--ops" => (wanted.operations, wanted.length) = (number()?, Duration::MAX),
            "--seed" => wanted.seed = number()?,
            "--round" => wanted.round = Duration::from_secs(number()?.max(1)),
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(wanted)
}

fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Plays rounds until enough was done or something was wrong.
fn soak(wanted: &Wanted) {
    let begun = Instant::now();
    for n in 0.. {
        let left = wanted.length.saturating_sub(begun.elapsed());
        if left.is_zero() || count(&DONE.operations) >= wanted.operations || lives::is_over() {
            break;
        }
        let seed = Rng::new(wanted.seed, n).next();
        let (over, watched) = std::sync::mpsc::channel::<()>();
        let length = wanted.round.min(left);
        // A round that does not end is a failure too; nobody is left then who could say it.
        let watch = std::thread::spawn(move || {
            if watched.recv_timeout(length.saturating_add(STUCK)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("soak: the round (seed {seed}) does not end");
                std::process::exit(1);
            }
        });
        round::play(seed, length, wanted.operations);
        drop(over);
        let _ = watch.join();
        let rate = count(&DONE.operations) as f64 / begun.elapsed().as_secs_f64();
        eprintln!(
            "soak: {:.0} s, {} rounds, {} operations ({:.2} M/s; {} withdrawn, {} abandoned, {} stale answers), \
             {} revokes, {} quiesces, {} channels",
            begun.elapsed().as_secs_f64(),
            n + 1,
            count(&DONE.operations),
            rate / 1e6,
            count(&DONE.withdrawn),
            count(&DONE.abandoned),
            count(&DONE.stale),
            count(&DONE.revokes),
            count(&DONE.quiesces),
            count(&DONE.channels),
        );
    }
}

fn main() -> ExitCode {
    let wanted = match arguments() {
        Ok(wanted) => wanted,
        Err(why) => {
            eprintln!("{why}{}{USAGE}", if why.is_empty() { "" } else { "\n\n" });
            return ExitCode::from(if why.is_empty() { 0 } else { 2 });
        }
    };
    eprintln!("soak: seed {}", wanted.seed);
    soak(&wanted);
    let other = wrongs(Wrong::Other) + wrongs(Wrong::LateRevoke);
    let others = if other > 0 { format!(", {other} others (above)") } else { String::new() };
    #[expect(clippy::print_stdout, reason = "the result")]
    {
        println!(
            "{} operations, {} revokes, {} lost, {} twice, {} late writes{others}",
            count(&DONE.operations),
            count(&DONE.revokes),
            wrongs(Wrong::Lost),
            wrongs(Wrong::Twice),
            wrongs(Wrong::LateWrite),
        );
    }
    if all_wrongs() > 0 {
        eprintln!("soak: again with --seed {}", wanted.seed);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_soak_finds_nothing() {
        let second = Duration::from_secs(1);
        soak(&Wanted { length: 3 * second, operations: u64::MAX, seed: 1, round: second });
        assert_eq!(all_wrongs(), 0);
        assert!(count(&DONE.operations) > 0 && count(&DONE.revokes) > 0 && count(&DONE.quiesces) > 0);
    }
}
