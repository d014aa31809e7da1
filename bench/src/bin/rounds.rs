//! The driver behind ci/bench: rounds of every id, a table, a JSON array, a picture.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program; progress goes to stderr")]

use clap::Parser;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidegate_bench::children::Children;
use tidegate_bench::goals::{GOALS, Goal};
use tidegate_bench::missing::Missing;
use tidegate_bench::peers::dpdk::Dpdk;
use tidegate_bench::report::{self, LINE, Row, UNSTEADY};
use tidegate_bench::rig::Rig;
use tidegate_bench::round::Round;
use tidegate_bench::watch::Watch;
use tidegate_bench::{chart, ids, line};

/// Ratios of our figures and the peers', measured in turn in the same rounds.
#[derive(Debug, Parser)]
#[command(name = "ci/bench", version, about)]
struct Arguments {
    /// Write the rows as a JSON array to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the bar chart to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the table in Markdown
    #[arg(long)]
    table: bool,
    /// Five rounds with less time a figure: within 8 minutes
    #[arg(long)]
    quick: bool,
    /// Rounds of each id (7; 5 with --quick)
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Only these ids, or all of a group (worker, worker/burst-1)
    #[arg(long, value_name = "ID", num_args = 1..)]
    only: Vec<String>,
    /// Name the ids and their goals, measure nothing
    #[arg(long)]
    list: bool,
    /// The program probe, as users build it
    #[arg(long, value_name = "PROGRAM", hide_short_help = true)]
    plain: Option<PathBuf>,
    /// The program probe, built with --cfg tidegate_unchecked
    #[arg(long, value_name = "PROGRAM", hide_short_help = true)]
    unchecked: Option<PathBuf>,
    /// The program probe, built with --cfg tidegate_uncounted
    #[arg(long, value_name = "PROGRAM", hide_short_help = true)]
    uncounted: Option<PathBuf>,
}

/// Trips before and after a round that differ by more than this share of the shorter one are not the same placement.
const STEADY: f64 = 0.25;
/// A round that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often an unsteady round is measured again.
const AGAIN: usize = 2;

fn wanted(only: &[String]) -> Vec<&'static Goal> {
    let asked = |goal: &&Goal| only.is_empty() || only.iter().any(|id| id == goal.id || id == goal.group());
    GOALS.iter().filter(asked).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let goals = wanted(&arguments.only);
    for id in &arguments.only {
        if !GOALS.iter().any(|goal| goal.id == id || goal.group() == id) {
            return Err(format!("there is no id '{id}': see --list").into());
        }
    }
    if arguments.list {
        for goal in goals {
            let most = goal.most.map_or_else(|| "shown".to_owned(), |most| format!("<= {most}"));
            println!("{:<26} {:<22} {most}", goal.id, goal.peer());
        }
        return Ok(());
    }
    let began = Instant::now();
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 5 } else { 7 });
    let rig = rig(&arguments)?;
    let mut groups: Vec<&str> = goals.iter().map(|goal| goal.group()).collect();
    groups.dedup();
    let budget = Duration::from_secs(if arguments.quick { 5 * 60 } else { 20 * 60 });
    let watch = Watch::begin(PATIENCE, |last| {
        eprintln!(
            "no round has ended for {PATIENCE:?}: stuck after '{last}'; the groups before are in the JSON file"
        );
        std::process::exit(3);
    });
    let mut rows = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        eprintln!("[{:>4.0}s] {group} ({} of {})", began.elapsed().as_secs_f64(), i + 1, groups.len());
        // Behind schedule (the cores move too often): nothing is measured again, and five rounds are enough.
        let late = began.elapsed() > budget.mul_f64((i + 1) as f64 / groups.len() as f64);
        let (rounds, again) = if late { (rounds.min(5), 0) } else { (rounds, AGAIN) };
        let measured = measure(&rig, group, (rounds, again), began, &watch);
        rows.extend(goals.iter().filter(|goal| goal.group() == *group).map(|goal| Row::of(goal, &measured)));
        // After each group: a run that is broken off leaves what it has.
        if let Some(file) = &arguments.json {
            std::fs::write(file, report::json(&rows))
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
    }
    if let Some(file) = &arguments.svg {
        let picture = chart::svg(&rows, "Tidegate and its peers")?;
        std::fs::write(file, picture).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    print!("{}", if arguments.table { report::markdown(&rows) } else { report::table(&rows) });
    summary(&rows, began.elapsed());
    Ok(())
}

fn rig(arguments: &Arguments) -> Result<Rig, Box<dyn std::error::Error>> {
    let children = Children {
        plain: arguments.plain.clone(),
        unchecked: arguments.unchecked.clone(),
        uncounted: arguments.uncounted.clone(),
    };
    let rig = Rig::new(arguments.quick, children)?;
    if rig.caller == rig.worker {
        eprintln!("one CPU only: figures across cores mean nothing");
    }
    let peer = |found: Result<String, &Missing>| found.unwrap_or_else(|why| format!("missing: {why}"));
    let (caller, worker, stamp) = (rig.caller, rig.worker, rig.clock.ns(rig.clock.stamp));
    eprintln!("caller on CPU {caller}, worker on CPU {worker}; a time stamp costs {stamp:.0} ns");
    eprintln!("DPDK: {}", peer(rig.dpdk.as_ref().map(Dpdk::version)));
    eprintln!("fio: {}", peer(rig.fio.as_ref().map(|fio| fio.version().to_owned())));
    Ok(rig)
}

/// All rounds of a group.
fn measure(
    rig: &Rig,
    group: &str,
    (rounds, most_again): (usize, usize),
    began: Instant,
    watch: &Watch,
) -> Vec<Round<'static>> {
    let mut all = Vec::with_capacity(rounds);
    let mut said = Instant::now();
    let mut measured = match ids::group(group) {
        Ok(measured) => measured,
        Err(why) => {
            eprintln!("        missing: {why}");
            return vec![all_missing(group, &why)];
        }
    };
    for number in 1..=rounds {
        let mut again = 0;
        let round = loop {
            let mut round = Round::default();
            let before = measured.crosses().then(|| line::round_trip(rig, 15));
            if let Err(why) = measured.round(rig, &mut round) {
                eprintln!("        missing: {why}");
                return vec![all_missing(group, &why)];
            }
            let Some(before) = before else { break round };
            let after = line::round_trip(rig, 15);
            round.put(LINE, f64::midpoint(before, after));
            if (before - after).abs() <= STEADY * before.min(after) {
                break round;
            }
            if again >= most_again {
                round.put(UNSTEADY, 1.0);
                break round;
            }
            again += 1;
            eprintln!(
                "        round {number}: the cores moved ({before:.0} ns, then {after:.0} ns a trip): again"
            );
        };
        all.push(round);
        watch.news(format!("{group}, round {number}"));
        if said.elapsed() > Duration::from_secs(2) || number == rounds {
            said = Instant::now();
            eprintln!("[{:>4.0}s]   round {number} of {rounds}", began.elapsed().as_secs_f64());
        }
    }
    all
}

/// Ours is missing in every row of the group.
fn all_missing(group: &str, why: &Missing) -> Round<'static> {
    let mut round = Round::default();
    for goal in GOALS.iter().filter(|goal| goal.group() == group) {
        round.miss(goal.id, why);
    }
    round
}

fn summary(rows: &[Row], took: Duration) {
    let count = |met| rows.iter().filter(|row| row.met() == Some(met)).count();
    let missing = rows.iter().filter(|row| row.ratio.is_none()).count();
    let shown = rows.len() - count(true) - count(false) - missing;
    eprintln!(
        "{} goals met, {} not, {shown} rows without a goal, {missing} missing; {:.0} s",
        count(true),
        count(false),
        took.as_secs_f64()
    );
}
