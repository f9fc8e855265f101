//! Secrets that must be recoverable (DTCP computes with the password itself), encrypted at rest.
//!
//! ```text
//!   1        4          24                n + 16
//! +---------+----------+-----------------+---------------------------+
//! | version | key id   | nonce           | XChaCha20-Poly1305        |
//! +---------+----------+-----------------+---------------------------+
//! ```
//! The associated data is the head (version and key id) and the account's id, so that a row copied to
//! another account does not open. Nonces are random: 24 bytes leave no room for a repetition.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, AeadInPlace, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::model::AccountId;

const VERSION: u8 = 1;
const KEY_LEN: usize = 32;
const KEY_ID_LEN: usize = 4;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
const HEAD_LEN: usize = 1 + KEY_ID_LEN;

/// A password as the user has it: 1 to 255 bytes, none of them NUL or a newline.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Most bytes a secret has.
    pub const MAX_LEN: usize = 255;

    /// Takes the bytes over; they are wiped when it is dropped, or at once when they are refused.
    pub fn new(bytes: Vec<u8>) -> Result<Secret, SecretError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.is_empty() {
            return Err(SecretError::Empty);
        }
        if bytes.len() > Secret::MAX_LEN {
            return Err(SecretError::TooLong);
        }
        if bytes.iter().any(|byte| matches!(byte, 0 | b'\n')) {
            return Err(SecretError::BadByte);
        }
        Ok(Secret(bytes))
    }

    /// The bytes, to compute with.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why bytes are no secret. Does not show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing.
    #[error("a secret has at least one byte")]
    Empty,
    /// More than [`Secret::MAX_LEN`].
    #[error("a secret has at most 255 bytes")]
    TooLong,
    /// NUL or a newline.
    #[error("a secret has neither NUL nor a newline")]
    BadByte,
}

/// A secret as the store has it: useless without the key file.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// As it was stored. Whether it is sound shows when it is opened.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Sealed {
        Sealed(bytes)
    }

    /// For the store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}

struct Key {
    id: [u8; KEY_ID_LEN],
    cipher: XChaCha20Poly1305,
}

impl Key {
    fn new(bytes: &[u8; KEY_LEN]) -> Key {
        let cipher = XChaCha20Poly1305::new(bytes.into());
        // A tag over fixed data under a nonce that is used for nothing else: says which key it is,
        // and nothing about it.
        let mut id = [0; KEY_ID_LEN];
        if let Ok(tag) =
            cipher.encrypt_in_place_detached(&XNonce::default(), b"sixferry key id", &mut [])
        {
            id.copy_from_slice(&tag[..KEY_ID_LEN]);
        }
        Key { id, cipher }
    }
}

/// The keys: one seals, all open.
pub struct KeyRing {
    current: Key,
    older: Vec<Key>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("keys", &(1 + self.older.len()))
            .finish()
    }
}

impl KeyRing {
    /// Reads the key file, and makes it where there is none and `may_create` says so. Say no where
    /// the store has secrets already: a new key would not open them, and hide that the old one is
    /// missing.
    pub fn open(path: &Path, may_create: bool) -> Result<KeyRing, KeyError> {
        let key = match read_key(path) {
            Err(KeyError::Missing(_)) if may_create => {
                create_key(path)?;
                read_key(path)?
            }
            other => other?,
        };
        Ok(KeyRing {
            current: Key::new(&key),
            older: Vec::new(),
        })
    }

    /// Adds a key that opens what was sealed before a rotation.
    pub fn add_older(&mut self, path: &Path) -> Result<(), KeyError> {
        let key = read_key(path)?;
        self.older.push(Key::new(&key));
        Ok(())
    }

    /// Encrypts a secret for this account.
    #[must_use]
    pub fn seal(&self, account: AccountId, secret: &Secret) -> Sealed {
        let mut sealed = Vec::with_capacity(HEAD_LEN + NONCE_LEN + secret.0.len() + TAG_LEN);
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.current.id);
        let nonce: [u8; NONCE_LEN] = rand::random();
        let aad = associated(&sealed, account);
        let encrypted = self.current.cipher.encrypt(
            XNonce::from_slice(&nonce),
            Payload {
                msg: &secret.0,
                aad: &aad,
            },
        );
        sealed.extend_from_slice(&nonce);
        // The cipher refuses messages of 256 GiB and more, which a `Secret` is not.
        sealed.extend_from_slice(&encrypted.unwrap_or_default());
        Sealed(sealed)
    }

    /// Decrypts what was sealed for this account.
    pub fn unseal(&self, account: AccountId, sealed: &Sealed) -> Result<Secret, UnsealError> {
        let bytes = &sealed.0;
        if bytes.len() < HEAD_LEN + NONCE_LEN + TAG_LEN || bytes[0] != VERSION {
            return Err(UnsealError::Malformed);
        }
        let (head, rest) = bytes.split_at(HEAD_LEN);
        let (nonce, encrypted) = rest.split_at(NONCE_LEN);
        let key = self.key(&head[1..]).ok_or(UnsealError::OtherKey)?;
        let aad = associated(head, account);
        let payload = Payload {
            msg: encrypted,
            aad: &aad,
        };
        let bytes = key
            .cipher
            .decrypt(XNonce::from_slice(nonce), payload)
            .map_err(|_| UnsealError::Altered)?;
        Secret::new(bytes).map_err(|_| UnsealError::Malformed)
    }

    /// Whether it was sealed with the present key; after a rotation the others are sealed anew.
    #[must_use]
    pub fn is_current(&self, sealed: &Sealed) -> bool {
        sealed.0.get(1..HEAD_LEN) == Some(&self.current.id[..])
    }

    fn key(&self, id: &[u8]) -> Option<&Key> {
        std::iter::once(&self.current)
            .chain(&self.older)
            .find(|key| key.id == id)
    }
}

fn associated(head: &[u8], account: AccountId) -> Vec<u8> {
    let mut aad = head.to_vec();
    aad.extend_from_slice(&account.0.to_be_bytes());
    aad
}

/// Why a sealed secret does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Too short, of an unknown version, or no secret inside.
    #[error("not a sealed secret")]
    Malformed,
    /// No key file that was given is the one it was sealed with.
    #[error("sealed with a key that is not here")]
    OtherKey,
    /// Altered, or another account's.
    #[error("altered, or sealed for another account")]
    Altered,
}

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("{}: no such key file, and secrets in the store need it", .0.display())]
    Missing(PathBuf),
    /// Others may read or change it.
    #[error("{}: mode {mode:03o} lets others at the key; chmod 600", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It has not exactly 32 bytes, or is no regular file.
    #[error("{}: a key file has 32 bytes", .0.display())]
    Length(PathBuf),
    /// It cannot be read or made.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn read_key(path: &Path) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
        _ => KeyError::Io {
            path: path.to_owned(),
            source,
        },
    };
    // Without NONBLOCK a FIFO of this name would hold the start up for ever.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() != KEY_LEN as u64 {
        return Err(KeyError::Length(path.to_owned()));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut key = Zeroizing::new([0; KEY_LEN]);
    file.read_exact(&mut key[..]).map_err(failed)?;
    Ok(key)
}

/// Makes the file under another name and links it into place: nobody sees half a key, and of two
/// that start at once both use the same one.
fn create_key(path: &Path) -> Result<(), KeyError> {
    let key: Zeroizing<[u8; KEY_LEN]> = Zeroizing::new(rand::random());
    let failed = |source: io::Error| KeyError::Io {
        path: path.to_owned(),
        source,
    };
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = PathBuf::from(draft);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(&key[..])?;
            file.sync_all()
        });
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let removed = fs::remove_file(&draft);
    linked.map_err(failed)?;
    removed.map_err(failed)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn ring() -> (TempDir, PathBuf, KeyRing) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let ring = KeyRing::open(&path, true).unwrap();
        (dir, path, ring)
    }

    fn secret(bytes: &[u8]) -> Secret {
        Secret::new(bytes.to_vec()).unwrap()
    }

    #[test]
    fn the_key_file_is_made_once_and_private() {
        let (dir, path, ring) = ring();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.len()), (0o600, 32));
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "a draft was left"
        );
        let sealed = ring.seal(AccountId(1), &secret(b"geheim"));
        let again = KeyRing::open(&path, true).unwrap();
        assert_eq!(
            again.unseal(AccountId(1), &sealed).unwrap().expose(),
            b"geheim"
        );
    }

    #[test]
    fn several_that_start_at_once_have_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let rings: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| KeyRing::open(&path, true).unwrap()))
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        let sealed = rings[0].seal(AccountId(1), &secret(b"x"));
        assert!(
            rings
                .iter()
                .all(|ring| ring.unseal(AccountId(1), &sealed).is_ok())
        );
    }

    #[test]
    fn a_key_file_that_is_not_right_is_refused() {
        let (dir, path, _) = ring();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = KeyRing::open(&path, true).unwrap_err();
            assert!(
                matches!(error, KeyError::Exposed { mode: m, .. } if m == mode),
                "{error}"
            );
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for len in [0, 31, 33] {
            fs::write(&path, vec![7; len]).unwrap();
            let error = KeyRing::open(&path, true).unwrap_err();
            assert!(matches!(error, KeyError::Length(_)), "{error}");
        }
        let error = KeyRing::open(&dir.path().join("none"), false).unwrap_err();
        assert!(matches!(error, KeyError::Missing(_)), "{error}");
        let error = KeyRing::open(&dir.path().join("no/key"), true).unwrap_err();
        assert!(error.to_string().contains("no/key"), "{error}");
    }

    #[test]
    fn it_opens_for_its_account_and_its_key_only() {
        let (_dir, path, ring) = ring();
        let sealed = ring.seal(AccountId(1), &secret(b"geheim"));
        assert_eq!(
            ring.unseal(AccountId(2), &sealed),
            Err(UnsealError::Altered)
        );
        for at in 0..sealed.as_bytes().len() {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[at] ^= 1;
            assert!(
                ring.unseal(AccountId(1), &Sealed::from_bytes(bytes))
                    .is_err(),
                "byte {at}"
            );
        }
        for len in 0..sealed.as_bytes().len() {
            let short = Sealed::from_bytes(sealed.as_bytes()[..len].to_vec());
            assert!(ring.unseal(AccountId(1), &short).is_err(), "{len} bytes");
        }

        let newer = path.with_extension("new");
        let mut newer = KeyRing::open(&newer, true).unwrap();
        assert_eq!(
            newer.unseal(AccountId(1), &sealed),
            Err(UnsealError::OtherKey)
        );
        newer.add_older(&path).unwrap();
        assert_eq!(
            newer.unseal(AccountId(1), &sealed).unwrap().expose(),
            b"geheim"
        );
        assert!(ring.is_current(&sealed) && !newer.is_current(&sealed));
        assert!(newer.is_current(&newer.seal(AccountId(1), &secret(b"x"))));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let refused = |bytes: &[u8]| Secret::new(bytes.to_vec()).unwrap_err();
        assert_eq!(refused(b""), SecretError::Empty);
        assert_eq!(refused(&[b'x'; 256]), SecretError::TooLong);
        assert_eq!(refused(b"a\nb"), SecretError::BadByte);
        assert_eq!(refused(b"a\0b"), SecretError::BadByte);
    }

    #[test]
    fn nothing_of_it_is_printed() {
        let (_dir, _, ring) = ring();
        let secret = secret(b"geheim");
        let sealed = ring.seal(AccountId(1), &secret);
        assert_eq!(format!("{secret:?} {sealed:?}"), "Secret(..) Sealed(..)");
        assert_eq!(format!("{ring:?}"), "KeyRing { keys: 1 }");
    }

    proptest! {
        #[test]
        fn any_secret_comes_back(bytes in prop::collection::vec(1_u8.., 1..=255), id: i64) {
            let bytes: Vec<u8> = bytes.into_iter().map(|b| if b == b'\n' { b'x' } else { b }).collect();
            let ring = KeyRing { current: Key::new(&[7; KEY_LEN]), older: Vec::new() };
            let sealed = ring.seal(AccountId(id), &secret(&bytes));
            let opened = ring.unseal(AccountId(id), &sealed).unwrap();
            prop_assert_eq!(opened.expose(), &bytes[..]);
        }
    }
}
