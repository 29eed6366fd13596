//! Which waste a cause belongs to, and at which level: versioned data that a user may replace,
//! because authors differ.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::catalogue::{Cause, Level, Muda};
use super::posting::Account;

/// Another opinion on causes. What it leaves out stays as the catalogue has it.
///
/// ```toml
/// schema = "gemba.muda-map/1"
///
/// [cause.underfilled_batch]
/// muda = "overproduction"
/// level = "waste"
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MudaMap {
    muda: BTreeMap<Cause, Muda>,
    level: BTreeMap<Cause, Level>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: String,
    #[serde(default)]
    cause: BTreeMap<String, Opinion>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opinion {
    muda: Option<Muda>,
    level: Option<Level>,
}

/// Why a map was refused.
#[derive(Debug, thiserror::Error)]
pub enum MudaMapError {
    /// It is not the TOML it should be.
    #[error("read the muda map: {0}")]
    Syntax(#[from] toml::de::Error),
    /// It has another schema.
    #[error("read the muda map: expected schema {SCHEMA}, found {0}")]
    Schema(String),
    /// It names a cause that is not in the catalogue.
    #[error("read the muda map: {0} is no cause; `gemba ledger --causes` lists them")]
    Cause(String),
}

const SCHEMA: &str = "gemba.muda-map/1";

impl MudaMap {
    /// Reads a map.
    ///
    /// # Errors
    /// [`MudaMapError`] names what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, MudaMapError> {
        let file: File = toml::from_str(text)?;
        if file.schema != SCHEMA {
            return Err(MudaMapError::Schema(file.schema));
        }
        let mut map = Self::default();
        for (code, opinion) in file.cause {
            let cause = Cause::from_code(&code).ok_or(MudaMapError::Cause(code))?;
            map.muda.extend(opinion.muda.map(|muda| (cause, muda)));
            map.level.extend(opinion.level.map(|level| (cause, level)));
        }
        Ok(map)
    }

    pub(super) fn muda(&self, cause: Cause) -> Muda {
        self.muda.get(&cause).copied().unwrap_or(cause.entry().muda)
    }

    pub(super) fn level(&self, account: &Account) -> Level {
        self.level.get(&account.cause).copied().unwrap_or(account.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_moves_a_cause_and_leaves_the_rest() {
        let text = "schema = \"gemba.muda-map/1\"\n[cause.host]\nmuda = \"motion\"\n";
        let map = MudaMap::parse(text).unwrap();
        assert_eq!(map.muda(Cause::Host), Muda::Motion);
        assert_eq!(map.muda(Cause::Capacity), Muda::Waiting);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let said = |text: &str| MudaMap::parse(text).unwrap_err().to_string();
        assert!(said("schema = \"x\"").ends_with("expected schema gemba.muda-map/1, found x"));
        let luck = "schema = \"gemba.muda-map/1\"\n[cause.luck]\nmuda = \"motion\"\n";
        assert!(said(luck).contains("luck is no cause"));
        assert!(said("schema = \"gemba.muda-map/1\"\nx = 1").contains("unknown field `x`"));
    }
}
