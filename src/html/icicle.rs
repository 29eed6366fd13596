//! The icicle: nodes laid out in rows, each under its whole.

use super::geometry::{fill, length};
use crate::report::{Icicle, IcicleNode};

/// Pixels of a row.
const ROW: u32 = 26;
/// A narrower leaf has no room for its name, only for a hint.
const LEAST_NAMED: f64 = 0.035;

/// A node, laid out.
pub(super) struct Leaf<'a> {
    pub(super) x: String,
    pub(super) width: String,
    pub(super) y: u32,
    pub(super) height: u32,
    pub(super) fill: &'static str,
    pub(super) node: &'a IcicleNode,
    /// Whether there is room for its name.
    pub(super) named: bool,
}

/// Pixels of the whole drawing.
pub(super) fn height(icicle: &Icicle) -> u32 {
    icicle.rows.len() as u32 * ROW
}

/// Lays the nodes out.
pub(super) fn leaves<'a>(icicle: &'a Icicle) -> Vec<Leaf<'a>> {
    let leaf = |node: &'a IcicleNode| {
        let IcicleNode { from, to, depth, level, .. } = node;
        Leaf {
            x: length(*from),
            width: length(to - from),
            y: u32::from(*depth) * ROW,
            height: ROW - 2,
            // All of it and each waste hold several levels.
            fill: if *depth < 2 { "sum" } else { fill(level) },
            node,
            named: to - from >= LEAST_NAMED,
        }
    };
    icicle.nodes.iter().map(leaf).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lies_in_the_row_of_its_depth() {
        let node = |depth, level| IcicleNode {
            depth,
            level,
            from: 0.5,
            to: 0.75,
            ..IcicleNode::default()
        };
        let rows = vec![String::new(); 5];
        let icicle = Icicle { rows, nodes: vec![node(1, "waste"), node(3, "waste")] };
        let leaves = leaves(&icicle);
        let found: Vec<_> =
            leaves.iter().map(|l| (l.x.as_str(), l.width.as_str(), l.y, l.fill)).collect();
        assert_eq!(found, [("50%", "25%", 26, "sum"), ("50%", "25%", 78, "waste")]);
        assert_eq!(height(&icicle), 130);
    }
}
