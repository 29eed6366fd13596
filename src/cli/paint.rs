//! Emphasis, where the terminal can show it.

/// Whether escape sequences may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    enabled: bool,
}

impl Paint {
    /// No escape sequences.
    pub const PLAIN: Self = Self { enabled: false };

    /// Escape sequences if the stream is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn when(is_terminal: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { enabled: is_terminal && !no_color }
    }

    /// Bold.
    #[must_use]
    pub fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// Faint.
    #[must_use]
    pub fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// In the colour of a level; blue, yellow and red-magenta differ for every common kind of
    /// colour blindness, and each bar also has a pattern of its own.
    #[must_use]
    pub fn level(self, level: &str, text: &str) -> String {
        match level {
            "value" => self.wrap("34", text),
            "necessary" => self.wrap("33", text),
            _ => self.wrap("35", text),
        }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.enabled { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
