//! A frame as a picture for the documentation.

use std::fmt::Write as _;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

const CELL: (f64, f64) = (8.4, 18.0);
const INK: &str = "#d8d8d8";
const PAPER: &str = "#16181d";

fn hex(colour: Color, otherwise: &'static str) -> &'static str {
    match colour {
        Color::Blue => "#5e9cff",
        Color::Yellow => "#e0b040",
        Color::Magenta => "#e05fa8",
        Color::Cyan => "#58c5c9",
        _ => otherwise,
    }
}

/// Ink, paper and weight of a cell.
fn look(cell: &Cell) -> (&'static str, &'static str, &'static str, &'static str) {
    let (mut ink, mut paper) = (hex(cell.fg, INK), hex(cell.bg, PAPER));
    if cell.modifier.contains(Modifier::REVERSED) {
        (ink, paper) = (paper, ink);
    }
    let weight = if cell.modifier.contains(Modifier::BOLD) { "bold" } else { "normal" };
    let opacity = if cell.modifier.contains(Modifier::DIM) { "0.6" } else { "1" };
    (ink, paper, weight, opacity)
}

/// The frame as SVG, run by run of cells that look alike.
pub fn svg(buffer: &Buffer) -> String {
    let (width, height) = (usize::from(buffer.area.width), usize::from(buffer.area.height));
    let (w, h) = (width as f64 * CELL.0 + 16.0, height as f64 * CELL.1 + 16.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w:.0}\" height=\"{h:.0}\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{PAPER}\"/>\n"
    );
    for (y, row) in buffer.content.chunks(width).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|a, b| look(a) == look(b)) {
            let text: String = run.iter().map(Cell::symbol).collect();
            let (ink, paper, weight, opacity) = look(&run[0]);
            let left = 8.0 + x as f64 * CELL.0;
            let top = 8.0 + y as f64 * CELL.1;
            let long = run.len() as f64 * CELL.0;
            if paper != PAPER {
                let tall = CELL.1;
                writeln!(
                    svg,
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{long:.1}\" \
                     height=\"{tall}\" fill=\"{paper}\"/>"
                )
                .unwrap();
            }
            if !text.trim().is_empty() {
                let text = text.replace('&', "&amp;").replace('<', "&lt;");
                let base = top + 13.5;
                writeln!(
                    svg,
                    "<text x=\"{left:.1}\" y=\"{base:.1}\" textLength=\"{long:.1}\" \
                     xml:space=\"preserve\" fill=\"{ink}\" font-weight=\"{weight}\" \
                     opacity=\"{opacity}\">{text}</text>"
                )
                .unwrap();
            }
            x += run.len();
        }
    }
    svg.push_str("</svg>\n");
    svg
}
