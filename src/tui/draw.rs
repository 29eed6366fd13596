//! The frame: head, page, keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::key::HELP;
use super::paint::Palette;
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
    let mut pages = Vec::new();
    for (number, page) in Page::ALL.into_iter().enumerate() {
        let style = if page == view.page { palette.selected() } else { palette.faint() };
        // The names of the other pages only where there is room for them.
        let name = match area.width >= 110 || page == view.page {
            true => format!("{} {}", number + 1, page.name()),
            false => format!("{}", number + 1),
        };
        pages.push(Span::styled(name, style));
        pages.push(Span::raw(" "));
    }
    let pages = Line::from(pages);
    let [left, right] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(pages.width() as u16)])
            .areas(area);
    let title = Line::from(vec![
        Span::styled(live.title.clone(), palette.strong()),
        Span::raw(format!("  {} {} {}", live.status, live.clock, view.playback)),
    ]);
    frame.render_widget(title, left);
    frame.render_widget(pages, right);
}

fn draw_foot(view: &View, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let text = match &view.message {
        Some(message) => Line::styled(message.clone(), palette.strong()),
        None => Line::styled(
            "1-6 page  ↑↓ select  Enter closer  s sort  space halt  ←→ seek  +− speed  ? help  \
             q leave",
            palette.faint(),
        ),
    };
    frame.render_widget(text, area);
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
