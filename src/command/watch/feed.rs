//! Where a dashboard's facts come from.

use super::super::Failure;
use crate::event::Fact;
use crate::trace::Header;
use crate::tui::Wish;
use crate::unit::Nanos;

/// What came of asking for facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing at the moment, no fact either.
    Quiet,
    /// Facts came, and more may be there already.
    Facts,
    /// Everything is told anew, under the header as it is now.
    Anew,
    /// The run is over; where it ended by itself, at this moment.
    Over(Option<Nanos>),
}

/// A source of facts in the order of their saying.
pub(super) trait Feed {
    /// What runs, as far as it is known now.
    fn header(&self) -> &Header;

    /// Appends what has come since the last call; never waits long.
    fn poll(&mut self, facts: &mut Vec<Fact>) -> Result<News, Failure>;

    /// How the picture moves, in a word or two.
    fn playback(&self) -> String;

    /// What the user wishes of it; most sources only go on.
    fn wish(&mut self, _wish: Wish) {}
}
