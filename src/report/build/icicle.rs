//! All device time, split by waste, then by cause, kernel and request.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::super::{Icicle, IcicleNode, LevelWord};
use super::Findings;
use super::ledgers;
use crate::unit::Share;
use crate::waste::{Books, Commodity, Level};

/// What has less of all device time than this, in thousandths, is gathered with its like.
const LEAST: u128 = 4;

/// A part and its parts.
#[derive(Default)]
struct Node {
    amount: u128,
    levels: [u128; 3],
    parts: BTreeMap<String, Node>,
}

impl Node {
    fn add(&mut self, level: Level, amount: u128) {
        self.amount += amount;
        self.levels[level as usize] += amount;
    }

    /// The level of most of it.
    fn level(&self) -> LevelWord {
        let most = (0..self.levels.len()).max_by_key(|at| self.levels[*at]).unwrap_or(0);
        [Level::Value, Level::Necessary, Level::Waste][most].code()
    }
}

/// The icicle of a run.
pub(super) fn icicle(findings: &Findings<'_>) -> Icicle {
    let root = grown(findings.books);
    let mut nodes = Vec::new();
    lay(&root, 0, 0.0, "Device time", root.amount, &mut nodes);
    if root.amount == 0 {
        nodes.clear();
    }
    let rows = ["ledger", "muda", "cause", "kernel", "request"].map(str::to_owned);
    Icicle { rows: rows.into(), nodes }
}

fn grown(books: &Books) -> Node {
    let mut root = Node::default();
    for (key, amount) in books.postings(Commodity::DeviceTime) {
        let account = &key.account;
        let level = books.level(account);
        let kernel = books.kernel_name(account).or_else(|| account.sub_reason.map(|r| r.code()));
        let request = key.request.map(|request| format!("request {request}"));
        let cause = account.cause;
        let mut path = vec![books.muda(cause).code().to_owned(), cause.code().to_owned()];
        if kernel.is_some() || request.is_some() {
            path.push(kernel.unwrap_or("no kernel").to_owned());
        }
        path.extend(request);
        root.add(level, amount);
        let mut node = &mut root;
        for name in path {
            node = node.parts.entry(name).or_default();
            node.add(level, amount);
        }
    }
    root
}

/// Puts a node and what is in it on the page, larger parts first, small ones together.
fn lay(node: &Node, depth: u8, from: f64, name: &str, whole: u128, to: &mut Vec<IcicleNode>) {
    let place = |amount: u128| amount as f64 / whole.max(1) as f64;
    let drawn = |label: String, depth, from: f64, node: &Node| IcicleNode {
        label,
        depth,
        from,
        to: from + place(node.amount),
        level: node.level(),
        text: ledgers::amount(Commodity::DeviceTime, node.amount),
        percent: Share::new(node.amount as i128, whole as i128).to_string(),
    };
    to.push(drawn(name.to_owned(), depth, from, node));
    let mut parts: Vec<(&String, &Node)> = node.parts.iter().collect();
    parts.sort_by_key(|(name, part)| (Reverse(part.amount), (*name).clone()));
    let large = |part: &Node| part.amount * 1000 >= whole * LEAST;
    let mut at = from;
    let mut rest = (0, Node::default());
    for (name, part) in parts {
        if large(part) {
            lay(part, depth + 1, at, name, whole, to);
            at += place(part.amount);
        } else {
            rest.0 += 1;
            rest.1.amount += part.amount;
            rest.1.levels.iter_mut().zip(part.levels).for_each(|(sum, more)| *sum += more);
        }
    }
    if large(&rest.1) {
        to.push(drawn(format!("{} more", rest.0), depth + 1, at, &rest.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(amount: u128, parts: Vec<(&str, Node)>) -> Node {
        let parts = parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect();
        Node { amount, levels: [0, 0, amount], parts }
    }

    #[test]
    fn parts_lie_under_their_whole_and_small_ones_together() {
        let small = |amount| node(amount, vec![]);
        let root = node(
            1000,
            vec![
                ("b", node(600, vec![("x", small(600))])),
                ("a", node(394, vec![])),
                ("c", small(3)),
                ("d", small(3)),
            ],
        );
        let mut nodes = Vec::new();
        lay(&root, 0, 0.0, "all", 1000, &mut nodes);
        let found: Vec<(&str, u8, f64, f64)> =
            nodes.iter().map(|n| (n.label.as_str(), n.depth, n.from, n.to)).collect();
        assert_eq!(
            found,
            [
                ("all", 0, 0.0, 1.0),
                ("b", 1, 0.0, 0.6),
                ("x", 2, 0.0, 0.6),
                ("a", 1, 0.6, 0.994),
                ("2 more", 1, 0.994, 1.0),
            ]
        );
        assert_eq!(nodes[0].level, "waste");
        assert_eq!(nodes[4].percent, "0.6 %");
    }
}
