//! The command `tidegate`: looks a machine over, moves devices between its drivers and VFIO, and speaks TDISP.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
