//! The command `tidegate`: looks a machine over, and moves devices between its drivers and VFIO.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
