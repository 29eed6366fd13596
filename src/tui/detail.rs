//! A cause looked at closely; memory and its blocks; energy and money.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::graph::{chart, level_bar};
use super::paint::{Palette, draw_lines, pattern};
use crate::report::live::{Block, Live};

/// Definition, formula, countermeasure, and what cost most.
pub(super) fn cause(live: &Live, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let Some(detail) = &live.detail else {
        return frame.render_widget(Line::raw("no cause is selected"), area);
    };
    let row = &detail.row;
    let [text, tops] =
        Layout::vertical([Constraint::Length(area.height.min(5)), Constraint::Min(0)]).areas(area);
    let title = format!(
        "{} ({}, {}; {}): {} {}",
        row.code, row.muda, row.level, row.basis, row.text, row.percent
    );
    let reasons: Vec<String> =
        row.reasons.iter().map(|(reason, share)| format!("{reason} {share}")).collect();
    let reasons =
        if reasons.is_empty() { String::new() } else { format!(" [{}]", reasons.join(", ")) };
    let lines = vec![
        Line::styled(format!("{title}{reasons}"), palette.strong()),
        Line::raw(row.definition),
        Line::raw(format!("= {}", row.formula)),
        Line::raw(format!("→ {}", row.countermeasure)),
    ];
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), text);
    let columns = Layout::horizontal([Constraint::Fill(1); 3]).spacing(2).split(tops);
    let lists =
        [("kernel", &detail.kernels), ("step", &detail.steps), ("request", &detail.requests)];
    for ((name, list), column) in lists.into_iter().zip(columns.iter()) {
        let mut lines = vec![Line::styled(format!("dearest by {name}"), palette.faint())];
        if list.is_empty() {
            lines.push(Line::raw("–"));
        }
        let width = usize::from(column.width);
        lines.extend(list.iter().map(|(name, amount)| Line::raw(entry(name, amount, width))));
        draw_lines(&lines, *column, frame.buffer_mut());
    }
}

/// The widest entry: an amount stands near its name.
const ENTRY: usize = 26;

/// A name on the left of a column and its amount on the right, which is never cut; of a long name
/// as much as there is room for.
fn entry(name: &str, amount: &str, width: usize) -> String {
    let room = width.min(ENTRY).saturating_sub(amount.chars().count() + 1);
    if name.chars().count() <= room {
        return format!("{name:<room$} {amount}");
    }
    let shown: String = name.chars().take(room.saturating_sub(1)).collect();
    format!("{shown}… {amount}")
}

/// What holds memory now, and every KV block.
pub(super) fn memory(live: &Live, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let parts = live.memory.parts.len() as u16 + 2;
    let [top, map] =
        Layout::vertical([Constraint::Length(parts + 1), Constraint::Min(0)]).areas(area);
    let [bar, list] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(top);
    frame.render_widget(level_bar(&live.memory.parts, usize::from(bar.width), palette), bar);
    let [names, course] =
        Layout::horizontal([Constraint::Length(44), Constraint::Min(0)]).spacing(1).areas(list);
    let lines: Vec<Line<'_>> = live
        .memory
        .parts
        .iter()
        .map(|part| {
            let mark = Span::styled(format!("{} ", pattern(part.level)), palette.level(part.level));
            let text = format!("{:<20}{:>9} {:>8}", part.label, part.text, part.percent);
            Line::from(vec![mark, Span::raw(text)])
        })
        .collect();
    draw_lines(&lines, names, frame.buffer_mut());
    chart(&live.kv, course, frame.buffer_mut(), palette);
    block_map(live, palette, map, frame);
}

fn block_map(live: &Live, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let width = usize::from(area.width).max(1);
    let room = width * usize::from(area.height).saturating_sub(2);
    let blocks = &live.memory.blocks;
    let shown = &blocks[..blocks.len().min(room)];
    let left = blocks.len() - shown.len();
    let more = if left > 0 { format!("; {left} more do not fit") } else { String::new() };
    let legend = "█ full  ▓ being filled  ░ reserved  ▒ cached  · free";
    let head = format!("KV blocks: {}{more}", live.memory.text);
    let mut lines =
        vec![Line::styled(head, palette.faint()), Line::styled(legend, palette.faint())];
    for row in shown.chunks(width) {
        let spans = row.chunk_by(|a, b| a == b).map(|run| {
            let (mark, level) = match run[0] {
                Block::Free => ("·", None),
                Block::Full => ("█", Some("value")),
                Block::Partial => ("▓", Some("value")),
                Block::Reserved => ("░", Some("waste")),
                Block::Cached => ("▒", Some("necessary")),
            };
            let style = level.map_or_else(|| palette.faint(), |level| palette.level(level));
            Span::styled(mark.repeat(run.len()), style)
        });
        lines.push(Line::from(spans.collect::<Vec<_>>()));
    }
    draw_lines(&lines, area, frame.buffer_mut());
}

/// Energy and money so far.
pub(super) fn energy(live: &Live, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let [text, course, notes] = Layout::vertical([
        Constraint::Length(live.energy.len() as u16 + 1),
        Constraint::Min(0),
        Constraint::Length(live.notes.len() as u16),
    ])
    .areas(area);
    let line = |(label, value): &(String, String)| {
        let label = Span::styled(format!("{label:<12}"), palette.strong());
        Line::from(vec![label, Span::raw(value.clone())])
    };
    let lines: Vec<Line<'_>> = live.energy.iter().map(line).collect();
    draw_lines(&lines, text, frame.buffer_mut());
    chart(&live.power, course, frame.buffer_mut(), palette);
    let lines: Vec<Line<'_>> =
        live.notes.iter().map(|note| Line::raw(format!("! {note}"))).collect();
    draw_lines(&lines, notes, frame.buffer_mut());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_never_cut() {
        for (name, width, expected) in [
            ("gate_up", 38, "gate_up            9.74 ms"),
            ("gate_up", 25, "gate_up           9.74 ms"),
            ("attention_prefill", 25, "attention_prefill 9.74 ms"),
            ("attention_prefill", 24, "attention_prefi… 9.74 ms"),
            ("attention_prefill", 9, "… 9.74 ms"),
        ] {
            assert_eq!(entry(name, "9.74 ms", width), expected, "{width}");
        }
    }
}
