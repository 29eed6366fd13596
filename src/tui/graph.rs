//! Bars and charts of blocks of eighths.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::paint::{Palette, clipped, pattern};
use crate::report::Part;
use crate::report::live::Chart;

const EIGHTHS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// A row of blocks, one per value from 0 to `top`, the newest at the right.
pub(super) fn sparkline(values: &[f64], top: f64, width: usize) -> String {
    let shown = &values[values.len().saturating_sub(width)..];
    let block = |value: &f64| match value {
        v if *v <= 0.0 || top <= 0.0 => " ",
        v => EIGHTHS[((v / top * 8.0).ceil() as usize).clamp(1, 8) - 1],
    };
    let line: String = shown.iter().map(block).collect();
    format!("{line:>width$}")
}

/// A bar of parts with a pattern for each level, `width` cells long.
pub(super) fn level_bar(parts: &[Part], width: usize, palette: Palette) -> Line<'static> {
    let (mut drawn, mut so_far) = (0_usize, 0.0);
    let mut spans = Vec::new();
    for part in parts {
        so_far += part.share;
        let until = ((so_far * width as f64).round() as usize).min(width);
        let cells = pattern(part.level).repeat(until.saturating_sub(drawn));
        spans.push(Span::styled(cells, palette.level(part.level)));
        drawn = until.max(drawn);
    }
    spans.push(Span::raw(" ".repeat(width - drawn)));
    Line::from(spans)
}

/// A share from 0 to 1 as a bar.
pub(super) fn share_bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    let bar = format!("{}{rest}", "█".repeat(eighths / 8));
    format!("{bar:<width$}")
}

/// A chart with its name, its newest value and the top of its scale in the first row.
pub(super) fn chart(chart: &Chart, area: Rect, buffer: &mut Buffer, palette: Palette) {
    if area.height == 0 || area.width < 8 {
        return;
    }
    let width = usize::from(area.width);
    let line = chart.line.as_ref().map_or_else(String::new, |(_, name)| format!(" ┄ {name}"));
    let head = format!("{} {}{line}", chart.name, chart.now);
    let scale = format!("max {} in {}", chart.top_text, chart.span);
    let head = clipped(&head, width);
    buffer.set_string(area.x, area.y, head, palette.strong());
    let room = width.saturating_sub(head.chars().count() + 2);
    if scale.chars().count() <= room {
        let x = area.right() - scale.chars().count() as u16;
        buffer.set_string(x, area.y, &scale, palette.faint());
    }
    let plot = Rect { y: area.y + 1, height: area.height - 1, ..area };
    columns(chart, plot, buffer, palette.chart());
    rule(chart, plot, buffer, palette.faint());
}

fn columns(chart: &Chart, plot: Rect, buffer: &mut Buffer, style: Style) {
    let points = &chart.points[chart.points.len().saturating_sub(usize::from(plot.width))..];
    let first = plot.right() - points.len() as u16;
    let rows = f64::from(plot.height);
    for (column, point) in points.iter().enumerate() {
        let eighths = (point / chart.top * rows * 8.0).ceil().max(0.0) as usize;
        for row in 0..plot.height {
            let filled = eighths.saturating_sub(usize::from(row) * 8).min(8);
            if filled > 0 {
                let (x, y) = (first + column as u16, plot.bottom() - 1 - row);
                buffer[(x, y)].set_symbol(EIGHTHS[filled - 1]).set_style(style);
            }
        }
    }
}

/// The value to hold against, where no column stands.
fn rule(chart: &Chart, plot: Rect, buffer: &mut Buffer, style: Style) {
    let Some((value, _)) = &chart.line else { return };
    let rows = f64::from(plot.height);
    let up = (value / chart.top * rows).ceil().clamp(1.0, rows.max(1.0)) as u16;
    if plot.height == 0 {
        return;
    }
    let y = plot.bottom() - up;
    for x in plot.left()..plot.right() {
        let cell = &mut buffer[(x, y)];
        if cell.symbol() == " " {
            cell.set_symbol("┄").set_style(style);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparklines_keep_the_newest_and_show_what_is_small() {
        assert_eq!(sparkline(&[0.0, 0.01, 0.5, 1.0], 1.0, 4), " ▁▄█");
        assert_eq!(sparkline(&[1.0, 0.0, 1.0], 1.0, 2), " █");
        assert_eq!(sparkline(&[1.0], 1.0, 3), "  █");
        assert_eq!(sparkline(&[1.0, 2.0], 0.0, 2), "  ");
    }

    #[test]
    fn bars_fill_their_width() {
        assert_eq!(share_bar(0.5, 4), "██  ");
        assert_eq!(share_bar(0.30, 2), "▋ ");
        assert_eq!(share_bar(7.0, 2), "██");
        let part = |level, share| Part { level, share, ..Part::default() };
        let parts = [part("value", 0.25), part("necessary", 0.25), part("waste", 0.5)];
        let text: String =
            level_bar(&parts, 8, Palette::PLAIN).spans.iter().map(|s| s.content.as_ref()).collect();
        assert_eq!(text, "██▒▒░░░░");
    }
}
