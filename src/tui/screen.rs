//! The terminal: taken once, given back on every way out.

use std::io::{self, BufWriter, Stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{
    self, DisableMouseCapture, EnableMouseCapture, Event, KeyCode, KeyEvent, KeyEventKind,
    KeyModifiers, MouseEventKind,
};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, enable_raw_mode};

use super::draw::draw;
use super::key::Key;
use super::paint::Palette;
use super::view::View;
use crate::report::live::Live;

/// What came from the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key.
    Key(Key),
    /// The terminal has another size.
    Resized,
}

/// Whether a [`Screen`] holds the terminal. Leaving the second screen twice would put the cursor
/// back over what was printed in between, so it is left once.
static HELD: AtomicBool = AtomicBool::new(false);

static HOOK: Once = Once::new();

fn give_back() {
    if HELD.swap(false, Ordering::AcqRel) {
        // The terminal may be gone; there is nobody to tell.
        let _ = execute!(io::stdout(), DisableMouseCapture, Show);
        ratatui::restore();
    }
}

/// A frame is written at once: the standard output's own buffer is emptied every kilobyte.
const FRAME_BYTES: usize = 1 << 16;

/// The terminal, in raw mode on its second screen. A panic anywhere gives it back before its
/// message is printed; so does dropping this.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    palette: Palette,
    mouse: bool,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// Those of the terminal; it is given back then.
    pub fn take() -> io::Result<Self> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        HELD.store(true, Ordering::Release);
        let terminal = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen))
            .and_then(|()| {
                let stdout = BufWriter::with_capacity(FRAME_BYTES, io::stdout());
                Terminal::new(CrosstermBackend::new(stdout))
            })
            .inspect_err(|_| give_back())?;
        Ok(Self { terminal, palette: Palette::from_environment(), mouse: false })
    }

    /// Draws a frame. Only cells that changed are written.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn draw(&mut self, live: &Live, view: &View) -> io::Result<()> {
        if !HELD.load(Ordering::Acquire) {
            return Err(io::Error::other("it was given back after a panic"));
        }
        let palette = self.palette;
        self.terminal.draw(|frame| draw(live, view, palette, frame)).map(|_| ())
    }

    /// Gives the terminal back before its time, where the process is about to end.
    pub fn give_back(&mut self) {
        give_back();
    }

    /// Takes the mouse, or gives it back.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn toggle_mouse(&mut self) -> io::Result<()> {
        self.mouse = !self.mouse;
        match self.mouse {
            true => execute!(io::stdout(), EnableMouseCapture),
            false => execute!(io::stdout(), DisableMouseCapture),
        }
    }

    /// Waits for input until `timeout` is over.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn input(&mut self, timeout: Duration) -> io::Result<Option<Input>> {
        if !event::poll(timeout)? {
            return Ok(None);
        }
        Ok(match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => Some(Input::Key(known(key))),
            Event::Mouse(mouse) => match mouse.kind {
                MouseEventKind::ScrollUp => Some(Input::Key(Key::Up)),
                MouseEventKind::ScrollDown => Some(Input::Key(Key::Down)),
                _ => None,
            },
            Event::Resize(..) => Some(Input::Resized),
            _ => None,
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn known(key: KeyEvent) -> Key {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Key::Interrupt,
            _ => Key::Other,
        };
    }
    match key.code {
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => Key::Other,
    }
}
