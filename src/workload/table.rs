//! CSV tables: columns found by the header's names, rows checked against its width.

use std::borrow::Cow;
use std::io::BufRead;

use super::error::{Place, WorkloadError, quoted};
use super::line::{Line, Lines};

/// Reads a CSV file's header and gives each later row's fields in the asked order.
pub(super) struct Table {
    /// Positions of the asked columns; `None` where an optional one is absent.
    columns: Vec<Option<usize>>,
    width: usize,
    described: String,
}

impl Table {
    /// Finds `required` and `optional` columns by name, whatever their case and order.
    pub(super) fn open<R: BufRead>(
        lines: &mut Lines<R>,
        required: &[&str],
        optional: &[&str],
    ) -> Result<Self, WorkloadError> {
        let path = lines.path().to_path_buf();
        let Some(header) = lines.next()? else { return Err(WorkloadError::Empty { path }) };
        let names = fields(header.text);
        let position =
            |wanted: &str| names.iter().position(|name| name.trim().eq_ignore_ascii_case(wanted));
        if required.iter().any(|name| position(name).is_none()) {
            return Err(WorkloadError::Header {
                at: Place::line(&path, header.number),
                expected: required.join(","),
                found: quoted(header.text),
            });
        }
        let named = |wanted: &&&str| {
            let is = |name: &&Cow<'_, str>| name.trim().eq_ignore_ascii_case(wanted);
            names.iter().filter(is).count() > 1
        };
        if let Some(twice) = required.iter().chain(optional).find(named) {
            return Err(WorkloadError::Header {
                at: Place::line(&path, header.number),
                expected: format!("one column {twice}"),
                found: quoted(header.text),
            });
        }
        let columns = required.iter().chain(optional).map(|name| position(name)).collect();
        let described = format!("{} fields ({})", names.len(), quoted(header.text));
        Ok(Self { columns, width: names.len(), described })
    }

    /// Whether the file has the column that stands at `index` of those asked for.
    pub(super) fn has(&self, index: usize) -> bool {
        self.columns.get(index).copied().flatten().is_some()
    }

    /// The fields of a row in the order asked for, empty text where a column is absent.
    pub(super) fn row<'a, const N: usize>(
        &self,
        line: Line<'a>,
        at: &Place,
    ) -> Result<[Cow<'a, str>; N], WorkloadError> {
        let mut fields = fields(line.text);
        if fields.len() != self.width {
            let (at, expected) = (at.clone(), self.described.clone());
            let found = format!("{} in {}", fields.len(), quoted(line.text));
            return Err(if line.ended {
                WorkloadError::Row { at, expected, found }
            } else {
                WorkloadError::Truncated { at, expected, found }
            });
        }
        Ok(std::array::from_fn(|i| {
            let column = self.columns.get(i).copied().flatten();
            column.map(|at| std::mem::take(&mut fields[at])).unwrap_or_default()
        }))
    }
}

/// Splits a CSV line; quotes are understood, a field never spans lines.
fn fields(line: &str) -> Vec<Cow<'_, str>> {
    if !line.contains('"') {
        return line.split(',').map(Into::into).collect();
    }
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(line.as_bytes());
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(true) => record.iter().map(|field| field.to_owned().into()).collect(),
        _ => vec![line.into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn columns_are_found_by_name() {
        let mut lines = Lines::new(&b"B, a ,C\r\n1,\"2,5\",3\nx,y\n7,8"[..], Path::new("f"));
        let table = Table::open(&mut lines, &["a"], &["z", "b"]).unwrap();
        let at = Place::line(Path::new("f"), 2);
        let row = table.row::<3>(lines.next().unwrap().unwrap(), &at).unwrap();
        assert_eq!(row, ["2,5", "", "1"]);
        let short = table.row::<3>(lines.next().unwrap().unwrap(), &at);
        assert!(matches!(short, Err(WorkloadError::Row { .. })));
        let cut = table.row::<3>(lines.next().unwrap().unwrap(), &at);
        assert!(matches!(cut, Err(WorkloadError::Truncated { .. })));
    }

    #[test]
    fn a_missing_column_is_named() {
        let mut lines = Lines::new(&b"a,b\n"[..], Path::new("f"));
        let error = Table::open(&mut lines, &["a", "c"], &[]).err().unwrap();
        assert_eq!(
            error.to_string(),
            "read workload f:1: expected a header with a,c, found \"a,b\""
        );
    }

    #[test]
    fn a_column_that_stands_twice_is_refused() {
        let open = |header: &'static str| {
            let mut lines = Lines::new(header.as_bytes(), Path::new("f"));
            Table::open(&mut lines, &["a"], &["z"]).err().map(|error| error.to_string())
        };
        let said = |found| format!("read workload f:1: expected a header with {found}");
        assert_eq!(open("a,b, A \n"), Some(said("one column a, found \"a,b, A \"")));
        assert_eq!(open("a,z,Z\n"), Some(said("one column z, found \"a,z,Z\"")));
        assert_eq!(open("a,b,b\n"), None);
    }
}
