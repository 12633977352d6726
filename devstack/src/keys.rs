//! The signing keys of a data folder, made once and kept: one of access tokens and one of tracking
//! tokens.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use platform::auth::Signer;

/// Issuer and audience of every token here; the defaults of the services.
pub const NAME: &str = "swift-eats";

/// Makes the keys of a folder, unless they are there, and prints where the public ones are.
#[derive(clap::Args, Clone, Debug)]
pub struct KeysArgs {
    /// The folder; the keys are in `keys` below it.
    #[arg(long, value_name = "DIR", default_value = crate::stack::DEFAULT_FOLDER)]
    data: PathBuf,
}

/// Makes the keys; answers what is printed.
///
/// # Errors
/// As [`Keys::in_folder`].
pub fn keys(args: &KeysArgs) -> anyhow::Result<String> {
    let keys = Keys::in_folder(&args.data)?;
    Ok(format!("{}\n{}", keys.access.verify.display(), keys.tracking.verify.display()))
}

/// The keys of a data folder.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Of access tokens.
    pub access: KeyPair,
    /// Of tracking tokens.
    pub tracking: KeyPair,
}

/// The files of a key and of its public half.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// Signs tokens; readable by us alone.
    pub signing: PathBuf,
    /// Verifies them.
    pub verify: PathBuf,
}

impl Keys {
    /// Finds the keys of `dir`, or makes them.
    ///
    /// # Errors
    /// The folder is not writable, or what is there is not a key.
    pub fn in_folder(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.join("keys");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        let keys = Self::at(&dir);
        keys.access.make()?;
        keys.tracking.make()?;
        Ok(keys)
    }

    /// The keys of `dir` when both are there.
    #[must_use]
    pub fn found_in(dir: &Path) -> Option<Self> {
        let keys = Self::at(&dir.join("keys"));
        (keys.access.signing.exists() && keys.tracking.signing.exists()).then_some(keys)
    }

    /// The key that signs access tokens.
    ///
    /// # Errors
    /// As [`KeyPair::signer`].
    pub fn signer(&self) -> anyhow::Result<Signer> {
        self.access.signer()
    }

    fn at(dir: &Path) -> Self {
        let pair = |name: &str| KeyPair {
            signing: dir.join(format!("{name}signing.pem")),
            verify: dir.join(format!("{name}verify.pem")),
        };
        Self { access: pair(""), tracking: pair("tracking-") }
    }
}

impl KeyPair {
    fn make(&self) -> anyhow::Result<()> {
        if !self.signing.exists() {
            let (_, private, _) = Signer::generate();
            // Of two that make a key at the same moment one wins, and both use that.
            write(&self.signing, &private, 0o600)?;
        }
        let public = self.signer()?.public_pem().to_owned();
        if fs::read_to_string(&self.verify).ok().as_ref() != Some(&public) {
            fs::remove_file(&self.verify).ok();
            write(&self.verify, &public, 0o644)?;
        }
        Ok(())
    }

    /// What signs tokens with this key.
    ///
    /// # Errors
    /// The file cannot be read or is not a key.
    pub fn signer(&self) -> anyhow::Result<Signer> {
        Signer::load(&self.signing, NAME, NAME)
    }
}

/// Writes a file in one step unless it is there already.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let dir = path.parent().context("a file has a folder")?;
    let mut file =
        tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_are_private() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(Keys::found_in(dir.path()).is_none());
        let keys = Keys::in_folder(dir.path()).expect("new keys");
        let public = |keys: &KeyPair| keys.signer().expect("a signer").public_pem().to_owned();
        assert_ne!(public(&keys.access), public(&keys.tracking), "each kind has its own");
        for (name, pair) in [("access", &keys.access), ("tracking", &keys.tracking)] {
            let first = fs::read(&pair.signing).expect("a key");
            assert_eq!(fs::metadata(&pair.signing).expect("a file").mode() & 0o777, 0o600);
            fs::write(&pair.verify, "damaged").expect("a file");
            Keys::in_folder(dir.path()).expect("the same keys");
            assert_eq!(fs::read(&pair.signing).expect("a key"), first, "{name}");
            assert_eq!(fs::read_to_string(&pair.verify).expect("a key"), public(pair), "{name}");
        }
        assert!(Keys::found_in(dir.path()).is_some());
    }
}
