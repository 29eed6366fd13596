//! The dashboard: a [`Live`](crate::report::live::Live) drawn into a terminal.
//!
//! [`draw`] is a function of what is known, of what the user looks at ([`View`]) and of the
//! room there is; keys change the view and nothing else ([`View::key`]). [`Screen`] holds the
//! terminal and gives it back on every way out. This module knows `report`: no run folder, no
//! engine, no books; it makes no figure, it turns shares into lengths.
//!
//! All meaning survives without colour: levels have patterns, lamps have signs.

mod detail;
mod draw;
mod graph;
mod key;
mod overview;
mod paint;
mod screen;
mod tables;
mod view;

pub use draw::draw;
pub use key::{Key, Wish};
pub use paint::Palette;
pub use screen::{Input, Screen};
pub use view::View;
