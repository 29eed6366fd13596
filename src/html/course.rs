//! Causes over time: stretches of one shade, laid out along the window.

use super::geometry::{fill, length, trimmed};
use crate::report::CourseRow;

/// How dense each shade is drawn, from the lightest.
const OPACITY: [f64; 5] = [0.12, 0.28, 0.48, 0.74, 1.0];

/// A stretch, laid out.
pub(super) struct Block {
    pub(super) x: String,
    pub(super) width: String,
    pub(super) fill: &'static str,
    pub(super) shade: String,
}

/// How dense a shade is drawn; they are numbered from 1, and 0 is nothing.
pub(super) fn opacity(number: usize) -> String {
    let opacity = number.checked_sub(1).map(|at| OPACITY.get(at).copied().unwrap_or(1.0));
    trimmed(opacity.unwrap_or(0.0), 2)
}

/// Lays a cause out.
pub(super) fn blocks(row: &CourseRow) -> Vec<Block> {
    let block = |stretch: &crate::report::Stretch| Block {
        x: length(stretch.from),
        width: length(stretch.to - stretch.from),
        fill: fill(row.level),
        shade: opacity(stretch.shade.into()),
    };
    row.stretches.iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Stretch;

    #[test]
    fn a_stretch_lies_where_it_happened() {
        let stretches = vec![Stretch { from: 0.25, to: 0.5, shade: 5 }];
        let row = CourseRow { level: "waste", stretches, ..CourseRow::default() };
        let blocks = blocks(&row);
        assert_eq!(blocks.len(), 1);
        let Block { x, width, fill, shade } = &blocks[0];
        assert_eq!(
            (x.as_str(), width.as_str(), *fill, shade.as_str()),
            ("25%", "25%", "waste", "1")
        );
    }

    #[test]
    fn every_shade_is_denser_than_the_one_before() {
        let drawn: Vec<String> = (0..7).map(opacity).collect();
        assert_eq!(drawn, ["0", "0.12", "0.28", "0.48", "0.74", "1", "1"]);
    }
}
