//! The command line.

mod doctor;
mod finding;
mod places;
mod tdisp;
mod topo;
mod vfio;

use clap::{Parser, Subcommand};
use places::Places;
use std::io::{self, Write};
use std::process::ExitCode;

/// Looks a machine over for peer-to-peer DMA with the IOMMU on, shows the routes between devices, hands them to VFIO and back, and
/// reads and writes messages of TDISP.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    after_help = "Not sure what is wrong? Start with `tidegate doctor`: it changes nothing."
)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Doctor(doctor::Arguments),
    Tdisp(tdisp::Arguments),
    Topo(topo::Arguments),
    Vfio(vfio::Arguments),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Done; nothing is a problem.
    Well,
    /// Something is a problem, or the command was refused.
    Badly,
}

pub(crate) fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        // Help goes to stdout with exit code 0, bad usage to stderr with 2.
        Err(error) => {
            let _closed = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut out = io::stdout().lock();
    let ended = match command.verb {
        Verb::Doctor(arguments) => doctor::run(&arguments, &Places::here(), &mut out),
        Verb::Tdisp(arguments) => {
            tdisp::run(&arguments, &mut io::stdin().lock(), &mut out, &mut io::stderr())
        }
        Verb::Topo(arguments) => topo::run(&arguments, &Places::here(), &mut out, &mut io::stderr()),
        Verb::Vfio(arguments) => vfio::run(&arguments, &Places::here(), &mut out, &mut io::stderr()),
    };
    match ended.and_then(|ended| out.flush().map(|()| ended)) {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        // A reader that went away has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Ok(Ended::Badly) => ExitCode::FAILURE,
        Err(error) => {
            let _closed = writeln!(io::stderr(), "tidegate: the output could not be written: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[path = "../../p2p/machines/loader.rs"]
mod loader;
#[cfg(test)]
#[path = "../../p2p/src/testing.rs"]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_make_sense_to_clap() {
        Command::command().debug_assert();
    }

    #[test]
    fn bad_usage_is_exit_code_2_and_help_0() {
        let code = |line: &str| Command::try_parse_from(line.split(' ')).unwrap_err().exit_code();
        for line in [
            "tidegate",
            "tidegate cure",
            "tidegate vfio take",
            "tidegate vfio take here",
            "tidegate doctor -x",
            "tidegate tdisp",
            "tidegate tdisp decode 01x",
            "tidegate tdisp decode 012",
            "tidegate tdisp decode --doe --spdm 01",
            "tidegate tdisp requester",
            "tidegate tdisp requester true",
        ] {
            assert_eq!(code(line), 2, "{line}");
        }
        for line in ["tidegate --help", "tidegate doctor --help", "tidegate vfio give --help"] {
            assert_eq!(code(line), 0, "{line}");
        }
    }

    #[test]
    fn each_help_says_what_it_changes_and_what_to_do_next() {
        let mut command = Command::command();
        let help = |command: &mut clap::Command, path: &[&str]| {
            let mut at = command;
            for name in path {
                at = at.find_subcommand_mut(name).unwrap();
            }
            at.render_long_help().to_string()
        };
        for path in [
            &["doctor"][..],
            &["topo"],
            &["vfio", "take"],
            &["vfio", "give"],
            &["tdisp", "decode"],
            &["tdisp", "encode"],
            &["tdisp", "requester"],
            &["tdisp", "responder"],
        ] {
            let help = help(&mut command, path);
            assert!(help.contains("Changes") && help.contains("Next"), "{path:?}: {help}");
        }
    }
}
