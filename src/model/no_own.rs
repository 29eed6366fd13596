//! Stands where models' own tokenizers are in builds that read them (feature `text`).

use std::path::Path;

use super::Piece;

/// The tokenizer that no model of this build has.
#[derive(Debug)]
pub enum Own {}

const ABSENT: &str = "this build reads no tokenizers (feature `text`)";

impl Own {
    /// Reads none.
    ///
    /// # Errors
    /// Always.
    pub fn read(_: &Path) -> Result<Self, String> {
        Err(ABSENT.to_owned())
    }

    pub(super) fn parse(_: &[u8]) -> Result<Self, String> {
        Err(ABSENT.to_owned())
    }

    /// None.
    ///
    /// # Errors
    /// None: there is no such tokenizer.
    pub fn ids(&self, _: &str, _: bool) -> Result<Vec<u32>, String> {
        match *self {}
    }

    pub(super) fn decode(&self, _: &[u32]) -> Result<String, String> {
        match *self {}
    }

    pub(super) fn id(&self, _: &str) -> Option<u32> {
        match *self {}
    }

    pub(super) fn name(&self, _: u32) -> Option<String> {
        match *self {}
    }

    pub(super) fn vocab(&self) -> usize {
        match *self {}
    }

    pub(super) fn pieces(&self, _: u32) -> Vec<Piece> {
        match *self {}
    }
}
