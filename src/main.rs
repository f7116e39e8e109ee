//! The program `latimer`: see `latimer --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    latimer::io::cli::run(lexopt::Parser::from_env())
}
