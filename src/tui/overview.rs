//! The first page.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::graph::{chart, level_bar, share_bar, sparkline};
use super::paint::{Palette, clipped, draw_lines, fitting, pattern, sign};
use super::view::View;
use super::{detail, tables};
use crate::report::live::{Budget, Lit, Live};

/// With this many rows, the selected cause stands beside the latencies, not in their place.
const TALL: u16 = 36;

/// With this many columns, every lamp says why.
const ROOMY: u16 = 112;

/// Draws the first page:
///
/// ```text
/// seal
/// lamps
/// ledger bar and legend
/// causes with their courses        │ tokens/s
///                                  │ waiting
/// latencies, jitter, takt          │ longest gap
/// or the selected cause, closely
/// ```
pub(super) fn draw(live: &Live, view: &View, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let low = 8 + live.budgets.len() as u16;
    let closely = if area.height >= TALL { 10 } else { 0 };
    let [seal, lamps, bar, legend, middle, bottom, close] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(5),
        Constraint::Length(low),
        Constraint::Length(closely),
    ])
    .areas(area);
    let style = if live.seal.balanced { Style::new() } else { palette.alarm() };
    let mark = if live.seal.balanced { "✔" } else { "✘" };
    frame.render_widget(Line::styled(format!("{mark} {}", live.seal.text), style), seal);
    frame.render_widget(lamp_line(live, palette, area.width), lamps);
    ledger(live, palette, bar, legend, frame);
    let [causes, charts] = Layout::horizontal([Constraint::Percentage(60), Constraint::Min(0)])
        .spacing(1)
        .areas(middle);
    pareto(live, view, palette, causes, frame);
    let [tokens, queue] =
        Layout::vertical([Constraint::Percentage(55), Constraint::Min(0)]).areas(charts);
    chart(&live.throughput, tokens, frame.buffer_mut(), palette);
    chart(&live.queue, queue, frame.buffer_mut(), palette);
    if view.close && closely == 0 {
        detail::cause(live, palette, bottom, frame);
    } else {
        experience(live, palette, bottom, frame);
    }
    if closely > 0 {
        detail::cause(live, palette, close, frame);
    }
}

/// The lamps in a row; where there is little room, only those that are lit say why, in a word.
fn lamp_line(live: &Live, palette: Palette, width: u16) -> Line<'static> {
    let mut spans = Vec::new();
    for lamp in &live.lamps {
        let lit = matches!(lamp.lit, Lit::Warn | Lit::Alarm);
        let why = match (width >= ROOMY, lit) {
            (true, _) => lamp.text.as_str(),
            (false, true) => lamp.text.split(' ').next().unwrap_or_default(),
            (false, false) => "",
        };
        let text = format!("{} {} {why}", sign(lamp.lit), lamp.name);
        spans.push(Span::styled(text.trim_end().to_owned(), palette.lamp(lamp.lit)));
        spans.push(Span::raw(if width >= ROOMY { "  " } else { " " }));
    }
    Line::from(spans)
}

fn ledger(live: &Live, palette: Palette, bar: Rect, legend: Rect, frame: &mut Frame<'_>) {
    let total = format!(" {}", live.total);
    let width = usize::from(bar.width).saturating_sub(total.chars().count());
    let mut line = level_bar(&live.levels, width, palette);
    line.push_span(Span::raw(total));
    frame.render_widget(line, bar);
    let mut spans = vec![Span::styled("device time: ", palette.faint())];
    for part in &live.levels {
        let text = format!("{} {} {}", pattern(part.level), part.label, part.percent);
        spans.push(Span::styled(text, palette.level(part.level)));
        spans.push(Span::raw("   "));
    }
    let taken = Line::from(spans.clone()).width();
    let room = usize::from(legend.width).saturating_sub(taken);
    spans.push(Span::styled(fitting(&live.counts, ", ", room), palette.faint()));
    frame.render_widget(Line::from(spans), legend);
}

fn pareto(live: &Live, view: &View, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let rows = usize::from(area.height).saturating_sub(1);
    let selected = view.place_of_cause(live).unwrap_or(0);
    let course = usize::from(area.width).saturating_sub(22 + 8 + 9 + 2);
    let head = format!("{:<22}{:>8} {:>8}  {}", "cause", "share", "time", "lately");
    let mut lines = vec![Line::styled(head, palette.faint())];
    for (place, cause) in tables::window(&live.causes, selected, rows) {
        let row = &cause.row;
        let top = cause.course.iter().copied().fold(0.0, f64::max);
        let mark = pattern(row.level);
        let name = format!("{mark} {:<20.20}", row.code);
        let figures = format!("{:>8} {:>8}", row.percent, row.text);
        let mut line = Line::from(vec![
            Span::styled(name, palette.level(row.level)),
            Span::raw(figures),
            Span::raw("  "),
            Span::styled(sparkline(&cause.course, top, course), palette.level(row.level)),
        ]);
        if place == selected {
            line = line.patch_style(palette.selected());
        }
        lines.push(line);
    }
    if live.causes.is_empty() {
        lines.push(Line::raw("nothing booked yet"));
    }
    draw_lines(&lines, area, frame.buffer_mut());
}

/// Percentiles, promises, takt and jitter, with the gaps beside them.
fn experience(live: &Live, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(60), Constraint::Min(0)]).spacing(1).areas(area);
    let names = ["p50", "p90", "p99", "mean", "max"].map(|name| format!("{name:>8}")).concat();
    let mut lines = vec![Line::styled(format!("{:<6}{names}", "recent"), palette.faint())];
    for row in live.latencies.iter().take(5) {
        let figures = row.figures.each_ref().map(|figure| format!("{figure:>8}")).concat();
        lines.push(Line::raw(format!("{:<6}{figures}", row.name)));
    }
    let width = usize::from(left.width);
    lines.extend(live.budgets.iter().map(|one| budget(one, width)));
    lines.push(Line::raw(clipped(&live.takt, width)));
    let stall =
        live.jitter.last().map_or_else(String::new, |(name, text)| format!("{name} {text}"));
    lines.push(Line::raw(clipped(&stall, width)));
    draw_lines(&lines, left, frame.buffer_mut());
    chart(
        &live.gaps,
        Rect { height: right.height.saturating_sub(1), ..right },
        frame.buffer_mut(),
        palette,
    );
    if let Some((name, text)) = live.jitter.first().filter(|_| right.height > 0) {
        let line = Rect { y: right.bottom() - 1, height: 1, ..right };
        let text = format!("{name} {text}");
        frame.render_widget(Line::raw(clipped(&text, usize::from(right.width))), line);
    }
}

fn budget(budget: &Budget, width: usize) -> Line<'static> {
    let head = format!("{:<4} {:>7} ▕{}▏", budget.name, budget.limit, share_bar(budget.p99, 8));
    let room = width.saturating_sub(head.chars().count());
    Line::raw(head + clipped(&budget.text, room))
}
