//! `devstack token`: tokens for trying things out.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use platform::auth::{Role, Signer};
use uuid::Uuid;

use crate::keys::{Keys, NAME};
use crate::stack::{self, DEFAULT_FOLDER};

/// Prints an access token, or with --order a token to track that order.
///
///   curl -H "Authorization: Bearer $(devstack token --role driver --subject 7)" ...
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct TokenArgs {
    /// customer, driver, operator, admin, service or fleet.
    #[arg(long, required_unless_present = "order")]
    role: Option<Role>,
    /// The id of that customer, driver and so on; with --order the customer's.
    #[arg(long, default_value_t = 1)]
    subject: i64,
    /// How long it is valid, like 90s, 15m or 1h [default: 1h, with --order 60s]
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
    /// The restaurants of an operator.
    #[arg(long, value_delimiter = ',', value_name = "ID,ID")]
    restaurants: Vec<i64>,
    /// Make a tracking token of this order: the first message of a tracking socket.
    #[arg(long, value_name = "UUID", conflicts_with_all = ["role", "restaurants"])]
    order: Option<Uuid>,
    /// The folder of `devstack up` whose keys sign [default: that of --key, else the one that runs,
    /// else .devstack]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The file of the key that signs access tokens, when --data is not given.
    #[arg(long, env = "AUTH_SIGNING_KEY_FILE", value_name = "FILE")]
    key: Option<PathBuf>,
    /// The file of the key that signs tracking tokens, when --data is not given.
    #[arg(long, env = "AUTH_TRACKING_SIGNING_KEY_FILE", value_name = "FILE")]
    tracking_key: Option<PathBuf>,
}

/// Makes the token.
///
/// # Errors
/// There is no usable key, several stacks run, or the subject is not a positive number.
pub fn token(args: &TokenArgs) -> anyhow::Result<String> {
    ensure!(args.subject > 0, "a subject is a positive number");
    let signer = signer(args)?;
    if let Some(order) = args.order {
        let ttl = args.ttl.unwrap_or(Duration::from_secs(60));
        return Ok(signer.tracking(order, args.subject, ttl));
    }
    let ttl = args.ttl.unwrap_or(Duration::from_secs(3600));
    let role = args.role.ok_or_else(|| anyhow::anyhow!("--role is needed"))?;
    Ok(signer.access(role, args.subject, &args.restaurants, ttl))
}

/// A key that the services trust. None is made here: a token of a new key would be refused.
fn signer(args: &TokenArgs) -> anyhow::Result<Signer> {
    let is_tracking = args.order.is_some();
    let file = if is_tracking { &args.tracking_key } else { &args.key };
    // The variables are set for everything inside `devstack exec`, so a folder that is named wins.
    let dir = match (&args.data, file) {
        (Some(dir), _) => dir.clone(),
        (None, Some(file)) => return Signer::load(file, NAME, NAME),
        (None, None) => the_one(stack::running())?,
    };
    let keys = Keys::found_in(&dir).with_context(|| {
        let dir = dir.display();
        format!(
            "no stack runs, and {dir} has no keys: start `devstack up`, or give --data or --key"
        )
    })?;
    if is_tracking { keys.tracking.signer() } else { keys.access.signer() }
}

/// The folder of the stack that runs, or where the next `devstack up` has its data.
fn the_one(running: Vec<PathBuf>) -> anyhow::Result<PathBuf> {
    let names = || running.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>();
    ensure!(
        running.len() < 2,
        "several stacks run: name one of {} with --data",
        names().join(", ")
    );
    Ok(running.into_iter().next().unwrap_or_else(|| DEFAULT_FOLDER.into()))
}

/// `90s`, `15m`, `1h` or `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = || {
        let unit = text.chars().last()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let number: u64 = text[..text.len() - 1].parse().ok()?;
        number.checked_mul(seconds).filter(|&s| s > 0 && s <= 3650 * 86_400)
    };
    parsed().map(Duration::from_secs).ok_or_else(|| "must be like 90s, 15m, 1h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        token: TokenArgs,
    }

    fn made(dir: &std::path::Path, flags: &[&str]) -> anyhow::Result<String> {
        let fixed = ["token", "--data", dir.to_str().expect("UTF-8")];
        token(&Cli::try_parse_from([&fixed, flags].concat())?.token)
    }

    #[test]
    fn tokens_say_what_was_asked_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let keys = Keys::in_folder(dir.path()).expect("keys");
        let access = made(
            dir.path(),
            &["--role", "operator", "--subject", "7", "--restaurants", "1,2", "--ttl", "1h"],
        );
        let verifier = keys.access.signer().expect("a signer").verifier();
        let caller = verifier.access(&access.expect("a token")).expect("a valid token");
        assert_eq!((caller.role, caller.subject), (Role::Operator, 7));
        assert_eq!(*caller.restaurants, [1, 2]);

        let order = "0198c0de-0000-7000-8000-000000000001";
        let tracking = made(dir.path(), &["--order", order, "--subject", "9"]).expect("a token");
        let verifier = keys.tracking.signer().expect("a signer").tracking_verifier();
        let grant = verifier.tracking(&tracking).expect("a valid token");
        assert_eq!((grant.order_id.to_string().as_str(), grant.customer_id), (order, 9));
    }

    #[test]
    fn no_key_is_made_for_a_token() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = made(dir.path(), &["--role", "driver"]).expect_err("there is no key");
        assert!(error.to_string().contains("has no keys"), "{error:#}");
        assert!(!dir.path().join("keys").exists());
        assert_eq!(the_one(vec![]).expect("the default"), PathBuf::from(DEFAULT_FOLDER));
        assert_eq!(the_one(vec!["/tmp/a".into()]).expect("it"), PathBuf::from("/tmp/a"));
        let error = the_one(vec!["/tmp/a".into(), "/tmp/b".into()]).expect_err("which one?");
        assert!(error.to_string().contains("/tmp/a, /tmp/b"), "{error:#}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        Keys::in_folder(dir.path()).expect("keys");
        for flags in [
            &["--subject", "7"][..],
            &["--role", "cook"],
            &["--role", "driver", "--subject", "0"],
            &["--role", "driver", "--ttl", "1"],
            &["--role", "driver", "--ttl", "0s"],
            &["--role", "driver", "--ttl", "ä"],
            &["--order", "17"],
        ] {
            assert!(made(dir.path(), flags).is_err(), "{flags:?}");
        }
    }
}
