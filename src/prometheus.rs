//! Numbers in Prometheus' text format. Prints what `report` has worked out.

use std::fmt::Write;

use crate::report::Family;

/// The page of these numbers.
#[must_use]
pub fn render(families: &[Family]) -> String {
    let mut page = String::new();
    for Family { name, help, samples } in families {
        // Writing to a string does not fail.
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} gauge");
        for sample in samples {
            let label = |(name, value): &(&str, String)| format!("{name}=\"{}\"", escaped(value));
            let labels: Vec<String> = sample.labels.iter().map(label).collect();
            let labels = match labels.is_empty() {
                true => String::new(),
                false => format!("{{{}}}", labels.join(",")),
            };
            let _ = writeln!(page, "{name}{labels} {}", sample.value);
        }
    }
    page
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Sample;

    #[test]
    fn a_page_names_explains_and_counts() {
        let family = Family {
            name: "gemba_rows".to_owned(),
            help: "Rows.".to_owned(),
            samples: vec![
                Sample { labels: vec![("cause", "a\"b\\".to_owned())], value: 2.5 },
                Sample { labels: Vec::new(), value: 3.0 },
            ],
        };
        assert_eq!(
            render(&[family]),
            "# HELP gemba_rows Rows.\n# TYPE gemba_rows gauge\n\
             gemba_rows{cause=\"a\\\"b\\\\\"} 2.5\ngemba_rows 3\n"
        );
    }
}
