//! A command line of the settings of one load, as the program has it.

/// Reads `A` and nothing else; the first word is the program's name.
#[derive(Debug, clap::Parser)]
pub(super) struct Cli<A: clap::Args> {
    #[command(flatten)]
    pub(super) args: A,
}
