//! What the user looks at.

use super::key::{Key, Wish};
use crate::report::live::{Focus, Live, Page};

/// What kernels are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum KernelOrder {
    #[default]
    Time,
    OfFloor,
    Launches,
    Name,
}

impl KernelOrder {
    const fn next(self) -> Self {
        match self {
            Self::Time => Self::OfFloor,
            Self::OfFloor => Self::Launches,
            Self::Launches => Self::Name,
            Self::Name => Self::Time,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::OfFloor => "share of floor, worst first",
            Self::Launches => "launches",
            Self::Name => "name",
        }
    }
}

/// What the user looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The page.
    pub page: Page,
    /// The selected cause, by its code and level: lines move, what is looked at stays.
    pub(super) cause: Option<(String, &'static str)>,
    /// The user has selected it; until then it is the largest.
    pub(super) chosen: bool,
    /// The selected request.
    pub(super) request: Option<u64>,
    /// The selected line of the other pages.
    pub(super) line: usize,
    pub(super) order: KernelOrder,
    /// Whether what is selected is shown closely.
    pub(super) close: bool,
    pub(super) help: bool,
    /// How the picture moves: `live`, `halted`, `replay 4×`.
    pub playback: String,
    /// Something to say in place of the keys.
    pub message: Option<String>,
}

impl View {
    /// What detail the picture needs.
    #[must_use]
    pub fn focus(&self) -> Focus {
        Focus { page: self.page, cause: self.cause.clone() }
    }

    /// Follows what is known: something is always selected where there is something.
    pub fn follow(&mut self, live: &Live) {
        self.chosen &= self.place_of_cause(live).is_some();
        if !self.chosen {
            self.cause = live.causes.first().map(|cause| (cause.row.code.clone(), cause.row.level));
        }
        if let Some(first) = live.requests.first()
            && self.place_of_request(live).is_none()
        {
            self.request = Some(first.request);
        }
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key, live: &Live) -> Wish {
        if self.help && !matches!(key, Key::Interrupt) {
            self.help = false;
            return Wish::Draw;
        }
        match key {
            Key::Char('q') => return Wish::Leave,
            Key::Escape if self.close => self.close = false,
            Key::Interrupt => return Wish::Interrupt,
            Key::Char('?' | 'h') => self.help = true,
            Key::Char(c @ '1'..='6') => {
                self.turn_to(Page::ALL[c.to_digit(10).map_or(0, |d| d as usize - 1)]);
            }
            Key::Tab => self.turn_by(1),
            Key::BackTab => self.turn_by(Page::ALL.len() - 1),
            Key::Enter => self.close = !self.close,
            Key::Char('s') => self.order = self.order.next(),
            Key::Char(' ') => return Wish::Pause,
            Key::Char('m') => return Wish::Mouse,
            Key::Char('+' | '=') => return Wish::Faster,
            Key::Char('-' | '_') => return Wish::Slower,
            Key::Left => return Wish::Seek(-5),
            Key::Right => return Wish::Seek(5),
            Key::PageUp => return Wish::Seek(-60),
            Key::PageDown => return Wish::Seek(60),
            Key::Home => return Wish::Begin,
            Key::End => return Wish::End,
            Key::Up | Key::Char('k') => self.select(live, -1),
            Key::Down | Key::Char('j') => self.select(live, 1),
            Key::Char(_) | Key::Escape | Key::Other => {}
        }
        Wish::Draw
    }

    fn turn_to(&mut self, page: Page) {
        self.page = page;
        self.close = false;
        self.line = 0;
    }

    fn turn_by(&mut self, pages: usize) {
        let here = Page::ALL.iter().position(|page| *page == self.page).unwrap_or(0);
        self.turn_to(Page::ALL[(here + pages) % Page::ALL.len()]);
    }

    /// The line of the selected cause.
    pub(super) fn place_of_cause(&self, live: &Live) -> Option<usize> {
        let (code, level) = self.cause.as_ref()?;
        live.causes.iter().position(|cause| cause.row.code == *code && cause.row.level == *level)
    }

    /// The line of the selected request.
    pub(super) fn place_of_request(&self, live: &Live) -> Option<usize> {
        live.requests.iter().position(|request| Some(request.request) == self.request)
    }

    fn select(&mut self, live: &Live, by: isize) {
        let moved = |place: Option<usize>, lines: usize| {
            let last = lines.saturating_sub(1);
            place.unwrap_or(0).saturating_add_signed(by).min(last)
        };
        match self.page {
            Page::Overview => {
                let place = moved(self.place_of_cause(live), live.causes.len());
                let cause = live.causes.get(place);
                self.cause = cause.map(|cause| (cause.row.code.clone(), cause.row.level));
                self.chosen = self.cause.is_some();
            }
            Page::Requests => {
                let place = moved(self.place_of_request(live), live.requests.len());
                self.request = live.requests.get(place).map(|request| request.request);
            }
            Page::Kernels => self.line = moved(Some(self.line), live.kernels.len()),
            Page::Batch => self.line = moved(Some(self.line), live.steps.len()),
            Page::Memory | Page::Energy => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::live::LiveCause;
    use crate::report::{CauseRow, RequestRow};

    fn live() -> Live {
        let cause = |code: &str, level| LiveCause {
            row: CauseRow { code: code.to_owned(), level, ..CauseRow::default() },
            course: Vec::new(),
        };
        let causes = vec![cause("host", "waste"), cause("gap", "necessary"), cause("gap", "waste")];
        let requests = (0..3).map(|request| RequestRow { request, ..RequestRow::default() });
        Live { causes, requests: requests.collect(), ..Live::default() }
    }

    #[test]
    fn a_selected_cause_stays_selected_when_lines_move() {
        let (mut view, mut live) = (View::default(), live());
        view.follow(&live);
        assert_eq!(view.place_of_cause(&live), Some(0));
        view.key(Key::Down, &live);
        view.key(Key::Char('j'), &live);
        view.key(Key::Down, &live);
        assert_eq!(view.place_of_cause(&live), Some(2));
        assert_eq!(view.focus().cause, Some(("gap".to_owned(), "waste")));
        live.causes.rotate_left(2);
        view.follow(&live);
        assert_eq!(view.place_of_cause(&live), Some(0));
        let all = std::mem::take(&mut live.causes);
        view.follow(&live);
        assert_eq!(view.place_of_cause(&live), None);
        // What was chosen is gone: from now on the largest again, whichever that is.
        live.causes = all;
        view.follow(&live);
        live.causes.rotate_left(1);
        view.follow(&live);
        assert_eq!(view.place_of_cause(&live), Some(0));
        live.causes.clear();
        view.follow(&live);
        view.key(Key::Up, &live);
        assert_eq!(view.place_of_cause(&live), None);
    }

    #[test]
    fn keys_turn_pages_and_ask() {
        let (mut view, live) = (View::default(), live());
        for (key, wish) in [
            (Key::Char('q'), Wish::Leave),
            (Key::Interrupt, Wish::Interrupt),
            (Key::Left, Wish::Seek(-5)),
            (Key::PageDown, Wish::Seek(60)),
            (Key::Char('+'), Wish::Faster),
            (Key::Char(' '), Wish::Pause),
            (Key::Other, Wish::Draw),
        ] {
            assert_eq!(view.key(key, &live), wish);
        }
        view.key(Key::Char('3'), &live);
        assert_eq!(view.page, Page::Requests);
        view.key(Key::Tab, &live);
        assert_eq!(view.page, Page::Memory);
        view.key(Key::BackTab, &live);
        view.key(Key::BackTab, &live);
        assert_eq!(view.page, Page::Kernels);
        view.key(Key::Char('?'), &live);
        assert_eq!(view.key(Key::Char('q'), &live), Wish::Draw, "any key closes the help");
        assert_eq!(view.key(Key::Char('q'), &live), Wish::Leave);
    }
}
