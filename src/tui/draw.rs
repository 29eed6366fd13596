//! The frame: head, page, keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::key::HELP;
use super::paint::{Palette, clipped};
use super::view::View;
use super::{detail, overview, tables};
use crate::report::live::{Lit, Live, Page};

/// Smaller terminals get lines without a layout.
const SMALLEST: (u16, u16) = (50, 16);

/// Draws a dashboard:
///
/// ```text
/// title, status and time                                pages
/// ───────────────────────────── page ────────────────────────
/// keys, or a message
/// ```
pub fn draw(live: &Live, view: &View, palette: Palette, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        return small(live, view, palette, area, frame);
    }
    let [head, page, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(area);
    draw_head(live, view, palette, head, frame);
    match view.page {
        Page::Overview => overview::draw(live, view, palette, page, frame),
        Page::Kernels => tables::kernels(live, view, palette, page, frame),
        Page::Requests => tables::requests(live, view, palette, page, frame),
        Page::Memory => detail::memory(live, palette, page, frame),
        Page::Batch => tables::batch(live, view, palette, page, frame),
        Page::Energy => detail::energy(live, palette, page, frame),
    }
    draw_foot(view, palette, foot, frame);
    if view.help {
        draw_help(palette, area, frame);
    }
}

fn draw_head(live: &Live, view: &View, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let moves = format!("  {} {} {}", live.status, live.clock, view.playback);
    let said = live.title.chars().count() + moves.chars().count() + 1;
    let pages = |named: bool| {
        let mut pages = Vec::new();
        for (number, page) in Page::ALL.into_iter().enumerate() {
            let style = if page == view.page { palette.selected() } else { palette.faint() };
            let name = match named || page == view.page {
                true => format!("{} {}", number + 1, page.name()),
                false => format!("{}", number + 1),
            };
            pages.push(Span::styled(name, style));
            pages.push(Span::raw(" "));
        }
        Line::from(pages)
    };
    // The names of the other pages only where there is room for them.
    let named = pages(true);
    let all = named.width() + said <= usize::from(area.width);
    let pages = if all { named } else { pages(false) };
    let [left, right] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(pages.width() as u16)])
            .areas(area);
    // How the picture moves stays whole; a long title gives way.
    let room = usize::from(left.width).saturating_sub(moves.chars().count() + 1);
    let title = clipped(&live.title, room).to_owned();
    let title = Line::from(vec![Span::styled(title, palette.strong()), Span::raw(moves)]);
    frame.render_widget(title, left);
    frame.render_widget(pages, right);
}

fn draw_foot(view: &View, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let text = match &view.message {
        Some(message) => Line::styled(message.clone(), palette.strong()),
        None => Line::styled(keys(view, usize::from(area.width)), palette.faint()),
    };
    frame.render_widget(text, area);
}

/// The keys that do something here, as many as there is room for.
fn keys(view: &View, width: usize) -> String {
    let replay = view.playback.starts_with("replay");
    // Each with its place among those that are kept when there is little room.
    let mut keys = vec![
        (2, "1-6 page", true),
        (3, "↑↓ select", !matches!(view.page, Page::Memory | Page::Energy)),
        (4, "Enter closer", matches!(view.page, Page::Overview | Page::Requests)),
        (5, "s sort", view.page == Page::Kernels),
        (6, "space halt", replay),
        (7, "←→ seek", replay),
        (8, "+− speed", replay),
        (1, "? help", true),
        (0, "q leave", true),
    ];
    keys.retain(|(.., here)| *here);
    loop {
        let words: Vec<&str> = keys.iter().map(|(_, word, _)| *word).collect();
        let line = words.join("  ");
        if line.chars().count() <= width || keys.len() == 1 {
            return line;
        }
        let least = keys.iter().map(|(place, ..)| *place).max();
        keys.retain(|(place, ..)| Some(*place) != least);
    }
}

fn draw_help(palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let width = area.width.min(78);
    let height = (HELP.len() as u16 + 2).min(area.height);
    let (x, y) = ((area.width - width) / 2, (area.height - height) / 2);
    let window = Rect { x: area.x + x, y: area.y + y, width, height };
    let line = |(keys, what): &(&str, &str)| {
        let keys = Span::styled(format!("{keys:<11} "), palette.strong());
        Line::from(vec![keys, Span::raw((*what).to_owned())])
    };
    let lines: Vec<Line<'_>> = HELP.iter().map(line).collect();
    let block = Block::new().borders(Borders::ALL).title(" keys ");
    frame.render_widget(Clear, window);
    frame.render_widget(Paragraph::new(lines).block(block), window);
}

/// What matters most, line by line, as far as there is room.
fn small(live: &Live, view: &View, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let seal = if live.seal.balanced { "books balance" } else { "BOOKS DO NOT BALANCE" };
    let style = if live.seal.balanced { Style::new() } else { palette.alarm() };
    let mut lines = vec![
        Line::raw(format!("{} {} {}", live.status, live.clock, view.playback)),
        Line::styled(seal, style),
    ];
    for lamp in live.lamps.iter().filter(|lamp| lamp.lit == Lit::Alarm) {
        lines.push(Line::styled(format!("● {} {}", lamp.name, lamp.text), palette.alarm()));
    }
    for cause in &live.causes {
        lines.push(Line::raw(format!("{:>6} {}", cause.row.percent, cause.row.code)));
    }
    lines.truncate(usize::from(area.height).saturating_sub(1));
    lines.push(Line::styled("? q · more room shows more", palette.faint()));
    frame.render_widget(Paragraph::new(lines), area);
    if view.help {
        draw_help(palette, area, frame);
    }
}
