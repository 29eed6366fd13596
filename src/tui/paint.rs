//! Colours that differ for every common kind of colour blindness, and patterns that need none.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use crate::report::live::Lit;

/// Whether colours may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    colour: bool,
}

impl Palette {
    /// No colours.
    pub const PLAIN: Self = Self { colour: false };

    /// Colours.
    pub const COLOUR: Self = Self { colour: true };

    /// Colours, unless `NO_COLOR` is set.
    #[must_use]
    pub fn from_environment() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if no_color { Self::PLAIN } else { Self::COLOUR }
    }

    fn with(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// The style of a level: the same three colours as in the printed books and the report.
    pub(super) fn level(self, level: &str) -> Style {
        match level {
            "value" => self.with(Color::Blue),
            "necessary" => self.with(Color::Yellow),
            _ => self.with(Color::Magenta),
        }
    }

    /// The style of a lamp.
    pub(super) fn lamp(self, lit: Lit) -> Style {
        match lit {
            Lit::Blind => self.faint(),
            Lit::Off => Style::new(),
            Lit::Warn => self.with(Color::Yellow).add_modifier(Modifier::BOLD),
            Lit::Alarm => self.alarm(),
        }
    }

    /// What must be seen.
    pub(super) fn alarm(self) -> Style {
        self.with(Color::Magenta).add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }

    /// What must not be in the way.
    pub(super) fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Headings.
    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The selected line.
    pub(super) fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Lines of charts.
    pub(super) fn chart(self) -> Style {
        self.with(Color::Cyan)
    }
}

/// As many of `parts`, most important first, as fit into `width` cells.
pub(super) fn fitting(parts: &[String], between: &str, width: usize) -> String {
    let mut text = String::new();
    for part in parts {
        let between = if text.is_empty() { "" } else { between };
        if Span::raw(format!("{text}{between}{part}")).width() > width {
            break;
        }
        text += between;
        text += part;
    }
    text
}

/// As much of a text as fits into `width` cells and can stand alone: no word is cut where the
/// text can be cut elsewhere.
pub(super) fn clipped(text: &str, width: usize) -> &str {
    if Span::raw(text).width() <= width {
        return text;
    }
    let ends = [" ┄ ", "; ", ", ", ": ", " ("].iter().flat_map(|end| text.match_indices(end));
    let ends = ends.map(|(end, _)| end).filter(|end| Span::raw(&text[..*end]).width() <= width);
    let hard = text
        .char_indices()
        .map(|(end, _)| end)
        .take_while(|end| Span::raw(&text[..*end]).width() <= width);
    &text[..ends.max().or_else(|| hard.last()).unwrap_or(0)]
}

/// Draws lines one below the other, as far as there is room. A `Paragraph` looks at every cell
/// twice for it.
pub(super) fn draw_lines(lines: &[Line<'_>], area: Rect, buffer: &mut Buffer) {
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        buffer.set_line(area.x, y, line, area.width);
    }
}

/// The pattern of a level.
pub(super) const fn pattern(level: &str) -> &'static str {
    match level.as_bytes() {
        b"value" => "█",
        b"necessary" => "▒",
        _ => "░",
    }
}

/// The sign of a lamp.
pub(super) const fn sign(lit: Lit) -> &'static str {
    match lit {
        Lit::Blind => "·",
        Lit::Off => "○",
        Lit::Warn => "◐",
        Lit::Alarm => "●",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out_whole() {
        let parts = ["34 requests", "3 here", "27 done"].map(str::to_owned);
        assert_eq!(fitting(&parts, ", ", 28), "34 requests, 3 here, 27 done");
        assert_eq!(fitting(&parts, ", ", 27), "34 requests, 3 here");
        assert_eq!(fitting(&parts, ", ", 5), "");
        for (width, expected) in [
            (60, "takt 211 µs per token, cycle 241 µs (1.14 of takt)"),
            (49, "takt 211 µs per token, cycle 241 µs"),
            (34, "takt 211 µs per token"),
            (9, "takt 211 "),
            (0, ""),
        ] {
            let text = "takt 211 µs per token, cycle 241 µs (1.14 of takt)";
            assert_eq!(clipped(text, width), expected, "{width}");
        }
    }
}
