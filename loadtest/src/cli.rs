//! A command line of one set of settings, for tests of what is read and refused.

/// Reads `A` and nothing else; the first word is the program's name.
#[derive(Debug, clap::Parser)]
pub(crate) struct Cli<A: clap::Args> {
    #[command(flatten)]
    pub(crate) args: A,
}
