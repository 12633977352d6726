//! The signing key of a data folder, made once and kept.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use platform::auth::Signer;

/// Issuer and audience of every token here; the defaults of the services.
pub const NAME: &str = "swift-eats";

/// Where the keys of a data folder are.
#[derive(Clone, Debug)]
pub struct Keys {
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
        let keys = Self { signing: dir.join("signing.pem"), verify: dir.join("verify.pem") };
        if !keys.signing.exists() {
            let (_, private, _) = Signer::generate();
            // Of two that make a key at the same moment one wins, and both use that.
            write(&keys.signing, &private, 0o600)?;
        }
        let public = keys.signer()?.public_pem().to_owned();
        if fs::read_to_string(&keys.verify).ok().as_ref() != Some(&public) {
            fs::remove_file(&keys.verify).ok();
            write(&keys.verify, &public, 0o644)?;
        }
        Ok(keys)
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
    fn a_key_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().expect("a folder");
        let keys = Keys::in_folder(dir.path()).expect("new keys");
        let first = fs::read(&keys.signing).expect("a key");
        assert_eq!(fs::metadata(&keys.signing).expect("a file").mode() & 0o777, 0o600);

        fs::write(&keys.verify, "damaged").expect("a file");
        let again = Keys::in_folder(dir.path()).expect("the same keys");
        assert_eq!(fs::read(&again.signing).expect("a key"), first);
        let public = fs::read_to_string(&again.verify).expect("a key");
        assert_eq!(public, again.signer().expect("a signer").public_pem());
    }
}
