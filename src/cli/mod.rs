//! Text for terminals: the printed books, and the one form of every error.
//!
//! Data goes to stdout, talk to stderr. All meaning survives without colour. This module knows
//! `report` and `gate`; it computes no figure.

mod books;
mod gate;
mod paint;
mod watch;

pub use books::{render_books, render_causes};
pub use gate::render_gate;
pub use paint::Paint;
pub use watch::render_watch;

/// An error as it is printed: what failed and why, and what the user can do about it.
///
/// `message` is a lowercase fragment that completes "failed to …".
#[must_use]
pub fn render_error(message: &str, hint: Option<&str>, paint: Paint) -> String {
    let mut text = format!("{} failed to {message}\n", paint.strong("error:"));
    if let Some(hint) = hint {
        text.push_str(&format!("{} {hint}\n", paint.strong("hint:")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_one_form() {
        let text =
            render_error("read x.csv:3: expected 3 fields, found 2", Some("cut it"), Paint::PLAIN);
        let expected = "error: failed to read x.csv:3: expected 3 fields, found 2\nhint: cut it\n";
        assert_eq!(text, expected);
    }
}
