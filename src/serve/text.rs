//! Tokens to text, as they come: whole characters only, and nothing behind a stop.

use std::sync::Arc;

use super::words::Words;

/// So many tokens may wait for a character to become whole; then what is there is shown.
const MOST_PENDING: usize = 8;

/// The text of one answer.
#[derive(Debug)]
pub(super) struct Text {
    words: Arc<Words>,
    /// Tokens of the piece shown last, and those behind it.
    ids: Vec<u32>,
    /// How many of them belong to the piece shown last: what follows may look different without
    /// them.
    shown: usize,
    stops: Vec<String>,
    /// Text that may be the beginning of a stop.
    held: String,
}

impl Text {
    /// An empty text that ends before any of `stops`.
    pub(super) fn new(words: Arc<Words>, stops: Vec<String>) -> Self {
        Self { words, ids: Vec::new(), shown: 0, stops, held: String::new() }
    }

    /// The next token. Gives the text that can be shown now, and whether it stopped; it cannot
    /// unless it `may`.
    pub(super) fn push(&mut self, token: u32, may: bool) -> (String, bool) {
        self.ids.push(token);
        let whole = self.words.decode(&self.ids);
        let pending = self.ids.len() - self.shown;
        if whole.ends_with(char::REPLACEMENT_CHARACTER) && pending < MOST_PENDING {
            return (String::new(), false);
        }
        let fresh = self.fresh(&whole);
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        if may { self.hold(&fresh) } else { (fresh, false) }
    }

    /// What is left at the end.
    pub(super) fn finish(&mut self) -> String {
        let whole = self.words.decode(&self.ids);
        let fresh = self.fresh(&whole);
        self.shown = self.ids.len();
        let (text, stopped) = self.hold(&fresh);
        match stopped {
            true => text,
            false => text + &std::mem::take(&mut self.held),
        }
    }

    /// What `whole`, the text of all ids, has beyond what was shown.
    fn fresh(&self, whole: &str) -> String {
        let before = self.words.decode(&self.ids[..self.shown]);
        let fresh = whole.strip_prefix(before.as_str());
        fresh.or_else(|| whole.get(before.len()..)).unwrap_or_default().to_owned()
    }

    fn hold(&mut self, fresh: &str) -> (String, bool) {
        if self.stops.is_empty() {
            return (fresh.to_owned(), false);
        }
        self.held.push_str(fresh);
        let stop = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = stop {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return (text, true);
        }
        let begins = |at: &usize| {
            self.stops.iter().any(|stop| stop.as_bytes().starts_with(&self.held.as_bytes()[*at..]))
        };
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let first = self.held.len().saturating_sub(longest);
        let places = (first..self.held.len()).filter(|at| self.held.is_char_boundary(*at));
        let at = places.into_iter().find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(at);
        (std::mem::replace(&mut self.held, rest), false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pieces of a text token by token, and whether a stop came.
    fn speak(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
        let words = Arc::new(Words::of_bytes());
        let ids = words.encode_plain(text);
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut speech = Text::new(words, stops);
        let mut pieces = Vec::new();
        for id in ids {
            let (piece, stopped) = speech.push(id, true);
            pieces.push(piece);
            if stopped {
                return (pieces, true);
            }
        }
        pieces.push(speech.finish());
        (pieces, false)
    }

    #[test]
    fn characters_come_whole() {
        assert_eq!(speak("aé!", &[]).0, ["a", "", "é", "!", ""]);
        assert_eq!(speak("日", &[]).0, ["", "", "日", ""]);
    }

    #[test]
    fn bytes_that_never_become_a_character_are_shown_in_the_end() {
        let words = Arc::new(Words::of_bytes());
        let mut speech = Text::new(words, Vec::new());
        let pieces: String = (0..20).map(|_| speech.push(1 + 0x80, true).0).collect();
        let all = pieces + &speech.finish();
        assert_eq!(all.chars().count(), 20, "{all}");
        assert!(all.chars().all(|c| c == char::REPLACEMENT_CHARACTER));
    }

    #[test]
    fn a_stop_is_never_shown_and_its_beginning_waits() {
        assert_eq!(
            speak("ABCD!", &["CD"]),
            (vec!["A".into(), "B".into(), "".into(), "".into()], true)
        );
        assert_eq!(speak("AC!", &["CD"]).0, ["A", "", "C!", ""]);
        assert_eq!(speak("AC", &["CD"]).0, ["A", "", "C"]);
        // The first of two that end at the same token.
        assert_eq!(speak("XYZ", &["Z", "YZ"]).0.concat(), "X");
        assert_eq!(speak("aéb", &["éb"]).0.concat(), "a");
    }

    proptest! {
        #[test]
        fn it_is_the_text_before_the_first_stop(
            text in "[ABé日\n]{0,24}",
            stops in prop::collection::vec("[ABé]{1,3}", 0..3),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (pieces, stopped) = speak(&text, &stops);
            let said = pieces.concat();
            let ends = |at: usize| stops.iter().any(|stop| text[..at].contains(stop));
            let end = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).find(|at| ends(*at));
            prop_assert_eq!(stopped, end.is_some());
            match end {
                None => prop_assert_eq!(said, text),
                Some(end) => {
                    let first = stops.iter().filter_map(|stop| text[..end].find(stop)).min();
                    prop_assert_eq!(&said[..], &text[..first.unwrap()]);
                }
            }
        }
    }
}
