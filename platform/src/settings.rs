//! Settings of a program: flags and environment variables, and secrets also from files.
//!
//! Every setting whose value `--help` hides, as it is a secret, may be in a file: `NAME_FILE` names
//! the file whose content is the value of `NAME`. A container's environment is seen by whoever may
//! inspect it, and a secret that is mounted as a file is not.

use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Arg, Command, Parser};

const HELP: &str = "A secret, such as a URL with a password, can be in a file instead: NAME_FILE names \
    the file with the value of the variable NAME.";

/// Reads the settings as [`Parser::parse`] does, with secrets also from files; ends the process
/// with a message when they cannot be read.
#[must_use]
pub fn parse<P: Parser>() -> P {
    try_parse_from(std::env::args_os(), &|name| std::env::var_os(name))
        .unwrap_or_else(|error| error.exit())
}

fn try_parse_from<P: Parser>(
    words: impl IntoIterator<Item = OsString>,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<P, clap::Error> {
    let mut wrong = Vec::new();
    let mut command = with_files(P::command().after_help(HELP), variable, &mut wrong);
    let parsed = command.try_get_matches_from_mut(words);
    let is_help = |error: &clap::Error| {
        matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
    };
    // What is missing may be missing because its file could not be read, which says more.
    if !wrong.is_empty() && !parsed.as_ref().is_err_and(is_help) {
        return Err(command.error(ErrorKind::ValueValidation, wrong.join("\n")));
    }
    P::from_arg_matches(&parsed?).map_err(|error| error.format(&mut command))
}

/// Gives secrets that are in files to the command and its subcommands, as defaults.
fn with_files(
    command: Command,
    variable: &dyn Fn(&str) -> Option<OsString>,
    wrong: &mut Vec<String>,
) -> Command {
    let command = command.mut_args(|arg| match value_of_file(&arg, variable) {
        None => arg,
        // Kept as long as the program: what clap knows of a command is there from its beginning.
        Some(Ok(value)) => {
            let value: &'static str = value.leak();
            arg.required(false).default_value(value).hide_default_value(true)
        }
        Some(Err(message)) => {
            wrong.push(message);
            arg
        }
    });
    command.mut_subcommands(|inner| with_files(inner, variable, wrong))
}

/// The value of a secret whose file is named; the message never has any of the content in it.
fn value_of_file(
    arg: &Arg,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Option<Result<String, String>> {
    let name = arg.get_env().filter(|_| arg.is_hide_env_values_set())?.to_str()?;
    let file = variable(&format!("{name}_FILE")).filter(|file| !file.is_empty())?;
    if variable(name).is_some() {
        return Some(Err(format!("{name} and {name}_FILE are both set: only one may be")));
    }
    let text = std::fs::read_to_string(Path::new(&file))
        .map_err(|error| format!("cannot read {name}_FILE, {}: {error}", file.to_string_lossy()));
    let text = match text {
        Ok(text) => text,
        Err(message) => return Some(Err(message)),
    };
    // Editors and `echo` end a file with a line end, which is no part of a secret.
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        return Some(Err(format!("{name}_FILE, {}, is empty", file.to_string_lossy())));
    }
    Some(Ok(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Subcommand;
    use secrecy::{ExposeSecret as _, SecretString};

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[arg(long, env = "SETTINGS_TEST_URL", hide_env_values = true)]
        url: SecretString,
        #[arg(long, env = "SETTINGS_TEST_KEY", hide_env_values = true)]
        key: Option<SecretString>,
        #[arg(long, env = "SETTINGS_TEST_NAME", default_value = "plain")]
        name: String,
        #[command(subcommand)]
        command: Option<Inner>,
    }

    #[derive(Subcommand, Debug)]
    enum Inner {
        Import {
            #[arg(long, env = "SETTINGS_TEST_INNER", hide_env_values = true)]
            inner: SecretString,
        },
    }

    fn parse(words: &[&str], variables: &[(&str, &str)]) -> Result<Program, clap::Error> {
        let variables: BTreeMap<&str, OsString> =
            variables.iter().map(|(name, value)| (*name, OsString::from(value))).collect();
        let words = std::iter::once("program").chain(words.iter().copied()).map(OsString::from);
        try_parse_from(words, &|name| variables.get(name).cloned())
    }

    #[test]
    fn secrets_come_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let url = file("url", b"redis://:secret@host\n");
        let key = file("key", b"two words \r\n");
        let read = parse(
            &["import"],
            &[
                ("SETTINGS_TEST_URL_FILE", &url),
                ("SETTINGS_TEST_KEY_FILE", &key),
                ("SETTINGS_TEST_INNER_FILE", &url),
                ("SETTINGS_TEST_NAME_FILE", &url),
            ],
        )
        .unwrap();
        assert_eq!(read.url.expose_secret(), "redis://:secret@host");
        assert_eq!(read.key.unwrap().expose_secret(), "two words ");
        assert_eq!(read.name, "plain", "it is no secret");
        let Some(Inner::Import { inner }) = read.command else { unreachable!("it was asked for") };
        assert_eq!(inner.expose_secret(), "redis://:secret@host");

        // A flag says more than a file.
        let read = parse(&["--url", "redis://flag"], &[("SETTINGS_TEST_URL_FILE", &url)]).unwrap();
        assert_eq!(read.url.expose_secret(), "redis://flag");
        assert!(read.key.is_none());

        let help = parse(&["--help"], &[("SETTINGS_TEST_URL_FILE", &url)]).unwrap_err().to_string();
        assert!(help.contains("NAME_FILE") && !help.contains("secret@"), "{help}");
    }

    #[test]
    fn files_that_cannot_be_read_are_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("url");
        std::fs::write(&path, b"secret\xff").unwrap();
        let binary = path.display().to_string();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "\n").unwrap();
        let empty = empty.display().to_string();
        let absent = dir.path().join("absent").display().to_string();
        for (file, expected) in
            [(&binary, "UTF-8"), (&empty, "is empty"), (&absent, "No such file")]
        {
            let error = parse(&[], &[("SETTINGS_TEST_URL_FILE", file)]).unwrap_err().to_string();
            assert!(
                error.contains("SETTINGS_TEST_URL_FILE") && error.contains(expected),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
        let both = [("SETTINGS_TEST_URL_FILE", &*absent), ("SETTINGS_TEST_URL", "redis://x")];
        let error = parse(&[], &both).unwrap_err().to_string();
        assert!(error.contains("both set") && !error.contains("redis://x"), "{error}");
        // Help is for those who have set something wrong.
        let error = parse(&["--help"], &both).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayHelp);
    }
}
