//! Keys, and what they ask for beyond the view.

/// A key that the dashboard knows, or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Ctrl and C.
    Interrupt,
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Tab.
    Tab,
    /// Shift and tab.
    BackTab,
    /// Up, also the wheel.
    Up,
    /// Down, also the wheel.
    Down,
    /// Left.
    Left,
    /// Right.
    Right,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Home.
    Home,
    /// End.
    End,
    /// Any other.
    Other,
}

/// What a key asks of whoever runs the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Only the view changed, or nothing.
    Draw,
    /// To leave.
    Leave,
    /// To stop the run, or to leave where there is none.
    Interrupt,
    /// To go so many seconds forward, or back.
    Seek(i64),
    /// To go to the beginning.
    Begin,
    /// To go to the end.
    End,
    /// To play twice as fast.
    Faster,
    /// To play half as fast.
    Slower,
    /// To halt or go on.
    Pause,
    /// To take the mouse, or to give it back.
    Mouse,
}

/// Every key with what it does, for the help.
pub(super) const HELP: &[(&str, &str)] = &[
    ("1 … 6, Tab", "overview, kernels, requests, memory, batch, energy"),
    ("↑ ↓, j k", "select a line"),
    ("Enter", "look closely at what is selected; back with Esc"),
    ("s", "sort kernels by time, share of floor, launches or name"),
    ("space", "replay: halt, go on"),
    ("← →", "replay: five seconds back or forward; with PgUp, PgDn a minute"),
    ("Home, End", "replay: to the beginning or the end"),
    ("+ −", "replay: twice or half as fast"),
    ("m", "let the mouse wheel select; takes the terminal's own selection away"),
    ("?", "this help"),
    ("q", "leave; Ctrl-C also stops a run that this command made"),
];
