//! Frames of the dashboard as goldens, at several sizes, and what no frame may do.
//!
//! `GEMBA_BLESS=1` writes the goldens and the pictures under `docs/`; a missing one fails.

#![cfg(feature = "watch")]
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::path::Path;

use gemba::report::live::{Focus, Live, Page, live};
use gemba::trace::Status;
use gemba::tui::{Key, Palette, View, draw};
use gemba::unit::Nanos;
use gemba::waste::BooksOptions;
use gemba::waste::live::LiveBooks;
use ratatui::backend::{CrosstermBackend, TestBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::{Terminal, TerminalOptions, Viewport};

#[path = "live/eventful.rs"]
mod eventful;
#[path = "tui/picture.rs"]
mod picture;
#[path = "live/session.rs"]
mod session;

const INTERVAL: Nanos = Nanos(5_000_000);

/// An eventful run of which `share` has happened.
fn books(share: f64) -> LiveBooks {
    let (mut header, facts) = eventful::eventful();
    let until = (facts.len() as f64 * share) as usize;
    header.status = if share < 1.0 { Status::Running } else { header.status };
    let mut books = LiveBooks::new(&header, &BooksOptions::default(), INTERVAL);
    let count = facts.len();
    books.extend(facts.into_iter().take(until));
    if until == count {
        books.close(header.window.end_ns);
    }
    books
}

/// What is seen of `books` after these keys.
fn seen(books: &LiveBooks, keys: &[Key]) -> (Live, View) {
    let mut view = View::default();
    let mut shown = live(books, &Focus::default());
    view.follow(&shown);
    for key in keys {
        view.key(*key, &shown);
        shown = live(books, &view.focus());
        view.follow(&shown);
    }
    shown = live(books, &view.focus());
    (shown, view)
}

fn frame(live: &Live, view: &View, size: (u16, u16), palette: Palette) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal.draw(|frame| draw(live, view, palette, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let mut text = String::new();
    for row in buffer.content.chunks(width) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn golden(folder: &str, name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
    if std::env::var_os("GEMBA_BLESS").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == found,
        "{folder}/{name} is not what is drawn; GEMBA_BLESS=1 writes it\n{found}"
    );
}

#[test]
fn frames_are_as_they_were() {
    let running = books(0.6);
    let down = Key::Down;
    let cases: [(&str, &[Key], (u16, u16)); 13] = [
        ("overview.80x24", &[], (80, 24)),
        ("overview.120x40", &[], (120, 40)),
        ("overview.200x60", &[], (200, 60)),
        ("overview.close.80x24", &[down, down, Key::Enter], (80, 24)),
        ("overview.20x5", &[], (20, 5)),
        ("overview.49x15", &[], (49, 15)),
        ("kernels.by-floor.80x24", &[Key::Char('2'), Key::Char('s'), down], (80, 24)),
        ("kernels.120x40", &[Key::Char('2')], (120, 40)),
        ("requests.120x40", &[Key::Char('3'), down, down, Key::Enter], (120, 40)),
        ("memory.80x24", &[Key::Char('4')], (80, 24)),
        ("batch.120x40", &[Key::Char('5'), down], (120, 40)),
        ("energy.80x24", &[Key::Char('6')], (80, 24)),
        ("help.80x24", &[Key::Char('?')], (80, 24)),
    ];
    for (name, keys, size) in cases {
        let (live, view) = seen(&running, keys);
        let found = text(&frame(&live, &view, size, Palette::PLAIN));
        golden("tests/golden/tui", &format!("{name}.txt"), &found);
    }
    let (live, mut view) = seen(&books(1.0), &[]);
    view.playback = "replay at its end of 400 ms".to_owned();
    view.message = Some("the run is over: q leaves and prints the books".to_owned());
    let found = text(&frame(&live, &view, (80, 24), Palette::PLAIN));
    golden("tests/golden/tui", "over.80x24.txt", &found);
    let (live, view) = seen(&books(0.0), &[]);
    let found = text(&frame(&live, &view, (80, 24), Palette::PLAIN));
    golden("tests/golden/tui", "nothing-yet.80x24.txt", &found);
}

#[test]
fn the_pictures_of_the_documentation_are_frames() {
    let running = books(0.6);
    for (name, keys) in [
        ("watch-overview.svg", &[Key::Down][..]),
        ("watch-kernels.svg", &[Key::Char('2')]),
        ("watch-requests.svg", &[Key::Char('3'), Key::Down]),
        ("watch-memory.svg", &[Key::Char('4')]),
        ("watch-batch.svg", &[Key::Char('5')]),
    ] {
        let (live, view) = seen(&running, keys);
        let buffer = frame(&live, &view, (120, 40), Palette::COLOUR);
        golden("docs", name, &picture::svg(&buffer));
    }
}

/// Every page at sizes from nothing to a wall, one after the other on the same terminal.
#[test]
fn no_size_and_no_storm_of_sizes_breaks_a_frame() {
    let running = books(0.6);
    for page in 1..=Page::ALL.len() {
        for keys in [vec![], vec![Key::Enter], vec![Key::Char('?')]] {
            let digit = char::from_digit(page as u32, 10).unwrap();
            let keys = [vec![Key::Char(digit)], keys].concat();
            let (live, view) = seen(&running, &keys);
            let mut terminal = Terminal::new(TestBackend::new(1, 1)).unwrap();
            for step in 0..120_u32 {
                let (width, height) = (1 + step * 37 % 211, 1 + step * 23 % 71);
                terminal.backend_mut().resize(width as u16, height as u16);
                terminal.draw(|frame| draw(&live, &view, Palette::COLOUR, frame)).unwrap();
            }
        }
    }
}

#[test]
fn nothing_is_known_and_still_a_frame_is_drawn() {
    for size in [(20, 5), (80, 24), (1, 1), (300, 100)] {
        for page in Page::ALL {
            let mut view = View::default();
            view.page = page;
            frame(&Live::default(), &view, size, Palette::COLOUR);
        }
    }
}

#[test]
fn without_colour_the_signs_say_it() {
    let (live, view) = seen(&books(0.6), &[]);
    let plain = frame(&live, &view, (80, 24), Palette::PLAIN);
    assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let text = text(&plain);
    for sign in ["✔ books balance", "● orphan", "· throttle", "█ value", "▒ necessary", "░ waste"]
    {
        assert!(text.contains(sign), "{sign} is missing:\n{text}");
    }
    let colour = frame(&live, &view, (80, 24), Palette::COLOUR);
    assert!(colour.content.iter().any(|cell| cell.fg != Color::Reset));
}

/// Counts what a terminal would be told.
#[derive(Clone, Default)]
struct Wire(std::rc::Rc<std::cell::Cell<usize>>);

impl std::io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.set(self.0.get() + bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What has not changed is not written: nothing can flicker.
#[test]
fn the_same_picture_writes_nothing() {
    let (live, view) = seen(&books(0.6), &[]);
    let wire = Wire::default();
    let viewport = Viewport::Fixed(Rect::new(0, 0, 80, 24));
    let backend = CrosstermBackend::new(wire.clone());
    let mut terminal = Terminal::with_options(backend, TerminalOptions { viewport }).unwrap();
    let mut drawn = |view: &View| {
        let before = wire.0.get();
        terminal.draw(|frame| draw(&live, view, Palette::COLOUR, frame)).unwrap();
        wire.0.get() - before
    };
    let (first, again) = (drawn(&view), drawn(&view));
    assert!(first > 1_000, "the first frame wrote {first} bytes");
    assert!(again < 40, "the same frame wrote {again} bytes");
    let mut said = view.clone();
    said.message = Some("a few words".to_owned());
    assert!((40..600).contains(&drawn(&said)), "only the line that changed");
}
