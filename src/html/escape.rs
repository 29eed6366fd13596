//! What a report says in text can never become markup, and can never hide.
//!
//! Names and outcomes come from outside. Beside the five characters that HTML gives a meaning,
//! control characters and the marks that turn the direction of writing are shown by their code
//! point: a name that ends in a hidden right-to-left override would otherwise rearrange the
//! figures printed after it. And no name can bury the page under itself: of a text that is longer
//! than any we write, the beginning is shown and how much is not.

use std::fmt::{self, Write};

/// The escaper of every template of this module; `askama.toml` names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visible;

impl askama::filters::Escaper for Visible {
    fn write_escaped_str<W: Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        let (string, left_out) = beginning(string);
        let mut plain_from = 0;
        for (at, character) in string.char_indices() {
            let reference = reference(character);
            if reference.is_none() && !is_hidden(character) {
                continue;
            }
            dest.write_str(&string[plain_from..at])?;
            plain_from = at + character.len_utf8();
            match reference {
                Some(reference) => dest.write_str(reference)?,
                None => write_code_point(&mut dest, character)?,
            }
        }
        dest.write_str(&string[plain_from..])?;
        write_left_out(&mut dest, left_out)
    }
}

/// Bytes of a text that are shown at most. The longest text of our own is shorter.
const SHOWN: usize = 1_000;

/// As much of `text` as is shown, and how many bytes are not.
fn beginning(text: &str) -> (&str, usize) {
    let end = text.floor_char_boundary(SHOWN);
    (&text[..end], text.len() - end)
}

fn write_left_out(dest: &mut impl Write, bytes: usize) -> fmt::Result {
    if bytes == 0 { Ok(()) } else { write!(dest, "⟨{bytes} bytes more⟩") }
}

/// `text` with hidden characters shown, for drawings that escape markup on their own.
pub(super) fn shown(text: &str) -> String {
    let (text, left_out) = beginning(text);
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) {
            // A String takes every write.
            let _ = write_code_point(&mut shown, character);
        } else {
            shown.push(character);
        }
    }
    let _ = write_left_out(&mut shown, left_out);
    shown
}

fn write_code_point(dest: &mut impl Write, character: char) -> fmt::Result {
    write!(dest, "⟨U+{:04X}⟩", u32::from(character))
}

const fn reference(character: char) -> Option<&'static str> {
    match character {
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '&' => Some("&amp;"),
        '"' => Some("&quot;"),
        '\'' => Some("&#39;"),
        _ => None,
    }
}

/// Whether a character leaves no mark of its own, or moves the marks around it.
fn is_hidden(character: char) -> bool {
    match character {
        '\t' | '\n' => false,
        '\u{061c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => true,
        // Not characters at all: HTML calls them errors.
        '\u{fdd0}'..='\u{fdef}' | '\u{fff9}'..='\u{fffb}' => true,
        character => character.is_control() || (character as u32) & 0xfffe == 0xfffe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use askama::filters::Escaper;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        Visible.write_escaped_str(&mut out, text).unwrap();
        out
    }

    #[test]
    fn markup_becomes_text() {
        for (text, html) in [
            ("", ""),
            ("plain Grüße 現場", "plain Grüße 現場"),
            ("</script><img onerror=x>", "&lt;/script&gt;&lt;img onerror=x&gt;"),
            ("\"'&", "&quot;&#39;&amp;"),
            ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ] {
            assert_eq!(escaped(text), html);
        }
    }

    #[test]
    fn hidden_characters_are_shown() {
        for (text, html) in [
            ("a\0b", "a⟨U+0000⟩b"),
            ("\r\u{1b}[31m", "⟨U+000D⟩⟨U+001B⟩[31m"),
            ("\u{85}\u{7f}", "⟨U+0085⟩⟨U+007F⟩"),
            ("gpj\u{202e}exe", "gpj⟨U+202E⟩exe"),
            ("\u{2066}x\u{2069}", "⟨U+2066⟩x⟨U+2069⟩"),
            ("\u{feff}\u{ffff}\u{10fffe}", "⟨U+FEFF⟩⟨U+FFFF⟩⟨U+10FFFE⟩"),
        ] {
            assert_eq!(escaped(text), html);
            assert_eq!(escaped(&shown(text)), html);
        }
    }

    #[test]
    fn of_a_text_without_end_the_beginning_is_shown() {
        for text in ["x".repeat(10_000_000), "場".repeat(3_000_000), "<".repeat(9_000)] {
            let html = escaped(&text);
            assert!(html.len() < 5 * SHOWN, "{} bytes", html.len());
            let left_out = text.len() - text.floor_char_boundary(SHOWN);
            assert!(html.ends_with(&format!("⟨{left_out} bytes more⟩")), "{html}");
            assert!(shown(&text).ends_with(&format!("⟨{left_out} bytes more⟩")));
        }
        let whole = "y".repeat(SHOWN);
        assert_eq!(escaped(&whole), whole);
    }

    #[test]
    fn right_to_left_letters_stay() {
        assert_eq!(escaped("שלום مرحبا"), "שלום مرحبا");
    }
}
