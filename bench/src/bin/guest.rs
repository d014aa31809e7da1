//! The figures of `ci/vm bench`: a table on stdout, and with `--json FILE` the rows for programs.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tidegate_bench::guest::{Effort, Failure, measure};

/// Figures of the testbed's guest, without goals.
#[derive(Debug, Parser)]
struct Arguments {
    /// The rows as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds of NVMe and of the bounce.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[expect(clippy::print_stdout, reason = "a command")]
fn run(arguments: &Arguments) -> Result<(), Failure> {
    let effort = Effort {
        rounds: arguments.rounds.max(1),
        slice: Duration::from_secs(2),
        imports: 20,
        bounced: 32 << 10,
    };
    println!("| what | median | unit | spread | n |\n|---|---|---|---|---|");
    let rows = measure(effort, |row| println!("{}", row.line()))?;
    if let Some(file) = &arguments.json {
        let rows: Vec<_> = rows.iter().map(tidegate_bench::guest::Row::json).collect();
        std::fs::write(file, serde_json::to_string(&rows)? + "\n")?;
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a command")]
fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("ci/vm bench: {why}");
            ExitCode::FAILURE
        }
    }
}
