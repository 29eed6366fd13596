//! The matrix as text and as a page of the documentation.

use super::scenario::Row;
use super::unplanted;
use crate::unit::{Share, grouped};

/// The matrix for terminals.
#[must_use]
pub fn text(rows: &[Row]) -> String {
    let head = ["cause", "commodity", "by", "planted", "to cause", "elsewhere", "exact", "holds"];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let mut text = String::new();
    let whats = std::iter::once("what is planted").chain(rows.iter().map(|row| row.what));
    for (line, what) in lines.iter().zip(whats) {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Figures stand at the right.
            match column {
                3..=5 => text.push_str(&format!("{cell:>width$}  ")),
                _ => text.push_str(&format!("{cell:<width$}  ")),
            }
        }
        text.push_str(what);
        text.push('\n');
    }
    let failing = rows.iter().filter(|row| !row.holds).count();
    let count = rows.len();
    text.push_str(&match failing {
        0 => format!("\nall {count} rows hold\n"),
        failing => format!("\n{failing} of {count} rows do not hold\n"),
    });
    text
}

fn cells(row: &Row) -> [String; 8] {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    [
        name(row),
        row.commodity.to_owned(),
        row.kind.code().to_owned(),
        format!("{} {}", grouped(row.planted), row.unit),
        Share::new(row.booked, row.planted).to_string(),
        Share::new(row.elsewhere, row.planted).to_string(),
        yes(row.exact),
        yes(row.holds),
    ]
}

/// The cause with its finer reason and level, where they are part of the proof.
fn name(row: &Row) -> String {
    let parts = [Some(row.cause), row.sub_reason, row.level];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// The matrix as `docs/planted.md`.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut page = INTRODUCTION.to_owned();
    for row in rows {
        let [name, commodity, kind, planted, to_cause, elsewhere, exact, _] = cells(row);
        let what = row.what;
        page.push_str(&format!(
            "| `{name}` | {what} | {commodity} | {kind} | {planted} | {to_cause} | {elsewhere} | \
             {exact} |\n"
        ));
    }
    page.push_str("\n## Causes without a row\n\n| cause | why |\n|---|---|\n");
    for (entry, reason) in unplanted() {
        page.push_str(&format!("| `{}` | {reason} |\n", entry.code));
    }
    page
}

const INTRODUCTION: &str = "# The planted-waste matrix

`gemba planted` plays this table, and `tests/planted.rs` holds it to its bounds. For each cause a
scenario plants a known amount of exactly that waste into a run on the modelled device, whose
every nanosecond is known beforehand. The run without it is booked too, and the two sets of books
are compared, cause by cause. A row holds if

- the cause grew by 95 % to 102 % of what was planted, and
- all other causes together moved, up or down, by at most 2 % of it;
- rows and bytes are counted, so there the cause grew by exactly what was planted, and nothing
  else moved.

*Engine* rows plant by a switch, a device or a demand: they prove engine and books together.
*Facts* rows plant into the recorded facts: they prove the books. Memory is a fixed capacity:
what is planted there is taken from `free_headroom`, which must shrink by exactly as much.

This page is generated: `GEMBA_BLESS=1 cargo test --test planted`.

| cause | what is planted | commodity | by | planted | to cause | elsewhere | exact |
|---|---|---|---|---|---|---|---|
";
