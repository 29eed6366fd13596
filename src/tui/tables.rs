//! Kernels, requests, batch: lists with a selected line.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};

use super::graph::{level_bar, share_bar};
use super::paint::{Palette, draw_lines, pattern};
use super::view::{KernelOrder, View};
use crate::report::live::Live;
use crate::report::{KernelRow, RequestRow};

/// The items of a list that fit into `rows` with the selected one among them, with their places.
pub(super) fn window<T>(
    items: &[T],
    selected: usize,
    rows: usize,
) -> impl Iterator<Item = (usize, &T)> {
    let last = items.len().saturating_sub(rows);
    let first = (selected + 1).saturating_sub(rows).min(last);
    items.iter().enumerate().skip(first).take(rows)
}

/// Every kernel with its share of its floor.
pub(super) fn kernels(
    live: &Live,
    view: &View,
    palette: Palette,
    area: Rect,
    frame: &mut Frame<'_>,
) {
    let mut rows: Vec<&KernelRow> = live.kernels.iter().collect();
    match view.order {
        KernelOrder::Time => {}
        KernelOrder::OfFloor => rows.sort_by(|a, b| a.of_floor.total_cmp(&b.of_floor)),
        KernelOrder::Launches => rows.sort_by_key(|row| std::cmp::Reverse(row.launches)),
        KernelOrder::Name => rows.sort_by(|a, b| a.name.cmp(&b.name)),
    }
    let mut lines = vec![
        Line::raw(format!("kernels by {} (s sorts)", view.order.name())),
        Line::styled(
            format!(
                "{:<20}{:>9}{:>9}{:>8} {:<8}{:>8}{:>11}{:>11} {}",
                "kernel",
                "launches",
                "time",
                "share",
                "of floor",
                "",
                "bytes/s",
                "op/s",
                "bound by"
            ),
            palette.faint(),
        ),
    ];
    for (place, row) in window(&rows, view.line, usize::from(area.height).saturating_sub(2)) {
        let [launches, share, floor, bytes, ops, _] = &row.texts;
        let text = format!(
            "{:<20.20}{launches:>9}{:>9}{share:>8} {}{floor:>8}{bytes:>11}{ops:>11} {}",
            row.name,
            row.text,
            share_bar(row.of_floor, 8),
            row.bound
        );
        let style = if place == view.line { palette.selected() } else { Default::default() };
        lines.push(Line::styled(text, style));
    }
    draw_lines(&lines, area, frame.buffer_mut());
}

/// Requests, and where the time of the selected one went.
pub(super) fn requests(
    live: &Live,
    view: &View,
    palette: Palette,
    area: Rect,
    frame: &mut Frame<'_>,
) {
    let selected = view.place_of_request(live).unwrap_or(0);
    let below = if view.close { area.height / 2 } else { 9.min(area.height / 3) };
    let [list, one] = Layout::vertical([Constraint::Min(0), Constraint::Length(below)]).areas(area);
    let head = format!(
        "{:>8} {:<10}{:>8}{:>8}{:>8}{:>10}{:>10}{:>10}  {}",
        "request",
        "outcome",
        "prompt",
        "cached",
        "tokens",
        "lead",
        "TTFT",
        "paid",
        "where its time went"
    );
    let mut lines = vec![Line::styled(head, palette.faint())];
    let width = usize::from(area.width).saturating_sub(76);
    for (place, row) in window(&live.requests, selected, usize::from(list.height).saturating_sub(1))
    {
        let [prompt, cached, output] = row.tokens;
        let text = format!(
            "{:>8} {:<10}{prompt:>8}{cached:>8}{output:>8}{:>10}{:>10}{:>10}  ",
            row.request, row.outcome, row.lead, row.ttft, row.paid
        );
        let mut line = level_bar(&row.parts, width, palette);
        line.spans.insert(0, Span::raw(text));
        if place == selected {
            line = line.patch_style(palette.selected());
        }
        lines.push(line);
    }
    draw_lines(&lines, list, frame.buffer_mut());
    if let Some(row) = live.requests.get(selected) {
        waterfall(row, palette, one, frame);
    }
}

/// A request's life, part below part.
fn waterfall(row: &RequestRow, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let width = usize::from(area.width).saturating_sub(22 + 10 + 9);
    let title = format!("request {} {}: {} from arrival", row.request, row.class, row.lead);
    let mut lines = vec![Line::styled(title, palette.strong())];
    let mut before = 0.0;
    for part in row.parts.iter().take(usize::from(area.height).saturating_sub(1)) {
        let indent = (before * width as f64).round() as usize;
        before += part.share;
        let until = (before * width as f64).round() as usize;
        let bar = pattern(part.level).repeat(until.saturating_sub(indent).max(1));
        lines.push(Line::from(vec![
            Span::raw(format!("{:<22}{:>9} {:>8}  ", part.label, part.text, part.percent)),
            Span::raw(" ".repeat(indent)),
            Span::styled(bar, palette.level(part.level)),
        ]));
    }
    draw_lines(&lines, area, frame.buffer_mut());
}

/// Rows of recent steps by what became of them.
pub(super) fn batch(live: &Live, view: &View, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let below = (live.fates.len() as u16 + 1).min(area.height / 3);
    let [list, sums] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(below)]).areas(area);
    let most = live.steps.iter().map(|step| step.rows[0] + step.rows[1]).max().unwrap_or(1).max(1);
    let width = usize::from(area.width) / 3;
    let head = format!("{:>9} {:<width$} {}", "step", "rows: useful █, thrown away ░", "what");
    let mut lines = vec![Line::styled(head, palette.faint())];
    let newest_first: Vec<_> = live.steps.iter().rev().collect();
    let rows = usize::from(list.height).saturating_sub(1);
    for (place, step) in window(&newest_first, view.line, rows) {
        let cells = |rows: u32| (rows as usize * width).div_ceil(most as usize);
        let useful = cells(step.rows[0]).min(width);
        let thrown = cells(step.rows[1]).min(width - useful);
        let mut line = Line::from(vec![
            Span::raw(format!("{:>9} ", step.step)),
            Span::styled("█".repeat(useful), palette.level("value")),
            Span::styled("░".repeat(thrown), palette.level("waste")),
            Span::raw(" ".repeat(width - useful - thrown + 1)),
            Span::raw(step.text.clone()),
        ]);
        if place == view.line {
            line = line.patch_style(palette.selected());
        }
        lines.push(line);
    }
    draw_lines(&lines, list, frame.buffer_mut());
    let mut lines = vec![Line::styled("rows of these steps", palette.strong())];
    for (cause, level, text) in &live.fates {
        let name = format!("{} {cause:<22}", pattern(level));
        lines.push(Line::from(vec![
            Span::styled(name, palette.level(level)),
            Span::raw(text.clone()),
        ]));
    }
    draw_lines(&lines, sums, frame.buffer_mut());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selected_line_is_always_seen() {
        let items: Vec<usize> = (0..10).collect();
        for selected in 0..10 {
            let shown: Vec<usize> = window(&items, selected, 4).map(|(place, _)| place).collect();
            assert_eq!(shown.len(), 4);
            assert!(shown.contains(&selected));
        }
        assert_eq!(window(&items, 3, 0).count(), 0);
        assert_eq!(window(&items, 3, 100).count(), 10);
    }
}
