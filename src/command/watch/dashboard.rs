//! The loop: facts in, frames out.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::run::Ui;
use super::super::{Failure, print};
use super::feed::{Feed, News};
use crate::cli::render_watch;
use crate::event::Fact;
use crate::report::live::{Live, live};
use crate::trace::Header;
use crate::tui::{Input, Screen, View, Wish};
use crate::unit::Nanos;
use crate::waste::BooksOptions;
use crate::waste::live::LiveBooks;

/// Ten frames a second at most.
const FRAME: Duration = Duration::from_millis(100);

/// Without a terminal, a line is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// An interval of the charts: two minutes fit into the picture.
const INTERVAL: Nanos = Nanos(500_000_000);

/// What can be shown of what was asked for.
pub(super) fn ui(asked: Ui) -> Ui {
    if asked != Ui::Tui || super::is_terminal() {
        return asked;
    }
    Ui::Plain
}

/// A dashboard: what is known, and what of it is looked at.
pub(super) struct Dashboard {
    options: BooksOptions,
    books: LiveBooks,
    view: View,
    live: Live,
    /// What came of the feed last; its room is used again.
    facts: Vec<Fact>,
    /// There is news that `live` does not tell, and something that the screen does not show.
    news: bool,
    stale: bool,
    over: bool,
}

impl Dashboard {
    pub(super) fn new(header: &Header, options: &BooksOptions) -> Self {
        let books = LiveBooks::new(header, options, INTERVAL);
        let mut dashboard = Self {
            options: options.clone(),
            books,
            view: View::default(),
            live: Live::default(),
            facts: Vec::new(),
            news: false,
            stale: true,
            over: false,
        };
        dashboard.look();
        dashboard
    }

    /// Whether the books balance at the moment.
    pub(super) fn balanced(&self) -> bool {
        self.live.seal.balanced
    }

    /// Whether the run is over.
    pub(super) const fn over(&self) -> bool {
        self.over
    }

    /// Says something in place of the keys, from the next frame on.
    pub(super) fn say(&mut self, message: Option<String>) {
        self.stale |= self.view.message != message;
        self.view.message = message;
    }

    /// Takes what the feed has.
    pub(super) fn take(&mut self, feed: &mut dyn Feed) -> Result<News, Failure> {
        self.facts.clear();
        let news = feed.poll(&mut self.facts)?;
        match news {
            News::Quiet => {}
            News::Anew => {
                self.books = LiveBooks::new(feed.header(), &self.options, INTERVAL);
                self.over = false;
            }
            News::Facts => self.books.extend(self.facts.drain(..)),
            News::Over(end) => {
                self.books.extend(self.facts.drain(..));
                let end = end.unwrap_or(self.books.now()).max(self.books.now());
                self.books.close(end);
                self.books.tell_status(feed.header().status);
                self.over = true;
            }
        }
        self.news |= news != News::Quiet;
        Ok(news)
    }

    /// Works out what is to be seen now.
    fn look(&mut self) {
        self.news = false;
        self.live = live(&self.books, &self.view.focus());
        self.view.follow(&self.live);
    }

    /// Draws on the terminal until the user leaves or `stop` is set.
    pub(super) fn show(&mut self, feed: &mut dyn Feed, stop: &AtomicBool) -> Result<(), Failure> {
        let mut screen = Screen::take().map_err(terminal)?;
        while !stop.load(Ordering::Acquire) {
            match self.turn(feed, &mut screen)? {
                Wish::Leave | Wish::Interrupt => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    /// One frame: takes facts, draws if there is news, and hears the user. Gives what the user
    /// wishes beyond the picture.
    pub(super) fn turn(
        &mut self,
        feed: &mut dyn Feed,
        screen: &mut Screen,
    ) -> Result<Wish, Failure> {
        let began = Instant::now();
        // As much as half a frame's time may go into catching up.
        loop {
            let news = self.take(feed)?;
            if news != News::Facts || began.elapsed() > FRAME / 2 {
                break;
            }
        }
        let playback = feed.playback();
        self.stale |= playback != self.view.playback;
        self.view.playback = playback;
        let mut wish = Wish::Draw;
        let mut first = true;
        loop {
            if self.news {
                self.look();
                self.stale = true;
            }
            if std::mem::take(&mut self.stale) {
                screen.draw(&self.live, &self.view).map_err(terminal)?;
            }
            let left = FRAME.saturating_sub(began.elapsed());
            if left.is_zero() && !first {
                return Ok(wish);
            }
            first = false;
            let Some(input) = screen.input(left).map_err(terminal)? else { return Ok(wish) };
            self.stale = true;
            if let Input::Key(key) = input {
                // Another page has other lists.
                self.news = true;
                let new = self.view.key(key, &self.live);
                match new {
                    Wish::Mouse => screen.toggle_mouse().map_err(terminal)?,
                    Wish::Leave | Wish::Interrupt => return Ok(new),
                    other => feed.wish(other),
                }
                wish = new;
            }
        }
    }

    /// Prints a line now and then until the run is over or `stop` is set, and the state at the
    /// end.
    pub(super) fn print(
        &mut self,
        feed: &mut dyn Feed,
        stop: &AtomicBool,
        lines: bool,
    ) -> Result<(), Failure> {
        if lines {
            say("no terminal here, or plain lines asked for: a line every five seconds\n");
        }
        let mut printed = Instant::now();
        while !self.over && !stop.load(Ordering::Acquire) {
            let news = self.take(feed)?;
            if lines && printed.elapsed() >= LINE_EVERY {
                printed = Instant::now();
                self.look();
                say(&render_watch(&self.live, &feed.playback()));
            }
            if news == News::Quiet {
                std::thread::sleep(FRAME);
            }
        }
        self.look();
        print(&render_watch(&self.live, &feed.playback()))
    }
}

/// Talk, on stderr.
fn say(text: &str) {
    // Where stderr is gone there is nobody left to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

pub(super) fn terminal(error: std::io::Error) -> Failure {
    Failure::new(format!("use the terminal: {error}"), Some("--ui plain prints lines"))
}
