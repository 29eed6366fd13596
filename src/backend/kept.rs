//! Measurements kept in the user's cache folder.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A kept measurement; the key is stored whole, since file names hold only its digest.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    key: String,
    value: T,
}

/// The folder for what a machine need not measure twice: `gemba` in the user's cache folder, if
/// there is one.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(caches.join("gemba"))
}

/// What `measure` makes of what is kept under `key` in `folder`, if anything is; it is kept in
/// its place. A folder that cannot be written costs only the next measurement.
pub(crate) fn kept<T: Serialize + DeserializeOwned, E>(
    folder: Option<&Path>,
    kind: &str,
    key: &str,
    measure: impl FnOnce(Option<T>) -> Result<T, E>,
) -> Result<T, E> {
    let Some(folder) = folder else { return measure(None) };
    let file = folder.join(format!("{kind}-{}.json", digest(key)));
    let value = measure(read(&file, key))?;
    let kept = Kept { key: key.to_owned(), value };
    let _unwritten = write(&file, &kept);
    Ok(kept.value)
}

fn digest(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn read<T: DeserializeOwned>(file: &Path, key: &str) -> Option<T> {
    let kept: Kept<T> = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    (kept.key == key).then_some(kept.value)
}

/// Beside the file, then renamed, so that a reader finds all of it or nothing.
fn write<T: Serialize>(file: &Path, kept: &Kept<T>) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = file.with_extension(format!("json.{}", std::process::id()));
    std::fs::write(&beside, serde_json::to_vec(kept)?)?;
    std::fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(folder: &Path, key: &str, fresh: u32) -> u32 {
        kept(Some(folder), "numbers", key, |before| Ok::<_, ()>(before.unwrap_or(fresh))).unwrap()
    }

    #[test]
    fn what_was_measured_is_not_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("not").join("yet");
        assert_eq!(ask(&inner, "a", 1), 1);
        assert_eq!(ask(&inner, "a", 2), 1);
        assert_eq!(ask(&inner, "b", 3), 3);
        // Nothing is left beside the files.
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 2);
    }

    #[test]
    fn a_broken_file_is_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        ask(folder.path(), "a", 1);
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        for broken in ["", "{", "{\"key\":\"a\",\"value\":\"x\"}", "{\"key\":\"b\",\"value\":1}"] {
            std::fs::write(&file, broken).unwrap();
            assert_eq!(ask(folder.path(), "a", 7), 7, "{broken}");
        }
        assert_eq!(ask(folder.path(), "a", 8), 7);
    }

    #[test]
    fn without_a_folder_everything_is_measured() {
        assert_eq!(kept(None, "numbers", "a", |before| Ok::<_, ()>(before.unwrap_or(5))), Ok(5));
        let nowhere = Path::new("/proc/no/such/folder");
        assert_eq!(ask(nowhere, "a", 6), 6);
    }

    #[test]
    fn a_failed_measurement_is_passed_on() {
        assert_eq!(kept::<u32, _>(None, "numbers", "a", |_| Err("no")), Err("no"));
    }
}
