//! Data files: rows that iterations take turns with.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context as _;
use rand::{Rng as _, rngs::SmallRng};
use serde::Deserialize;
use serde_json::Value;

/// One value for each column.
pub(super) type Row = Arc<[Value]>;

/// Which row an iteration has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Pick {
    /// Iteration n of its scenario has row n, from the first again after the last.
    Sequential,
    /// Any, by the seed.
    Random,
    /// Each virtual user has one for itself.
    PerVu,
}

/// `[data.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    /// csv with a header line, or jsonl with the same fields in each line; beside the scenario file.
    pub(super) file: String,
    #[serde(default = "sequential")]
    pub(super) pick: Pick,
}

fn sequential() -> Pick {
    Pick::Sequential
}

/// What templates need to know of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
}

/// A file's rows; at least one.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) table: Table,
    pick: Pick,
    rows: Vec<Row>,
}

impl Rows {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, has no row, or a row that is not like the others.
    pub(super) fn load(name: &str, source: &Source, folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(&source.file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        let (columns, rows) = match extension {
            Some("csv") => csv_rows(&text),
            Some("jsonl" | "ndjson") => json_rows(&text),
            _ => anyhow::bail!("{} is neither .csv nor .jsonl", path.display()),
        }
        .with_context(|| path.display().to_string())?;
        anyhow::ensure!(!rows.is_empty(), "{} has no row", path.display());
        let table = Table { name: name.to_owned(), columns };
        Ok(Self { table, pick: source.pick, rows })
    }

    /// The row of an iteration.
    pub(super) fn row(&self, vu: u32, iteration: u64, random: &mut SmallRng) -> Row {
        let count = self.rows.len();
        let at = match self.pick {
            Pick::Sequential => (iteration % count as u64) as usize,
            Pick::Random => random.random_range(0..count),
            Pick::PerVu => vu as usize % count,
        };
        Arc::clone(&self.rows[at])
    }
}

fn csv_rows(text: &str) -> anyhow::Result<(Vec<String>, Vec<Row>)> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let columns = reader.headers()?.iter().map(str::to_owned).collect();
    let row = |record: Result<csv::StringRecord, csv::Error>| -> anyhow::Result<Row> {
        Ok(record?.iter().map(|field| Value::String(field.to_owned())).collect())
    };
    Ok((columns, reader.records().map(row).collect::<Result<_, _>>()?))
}

fn json_rows(text: &str) -> anyhow::Result<(Vec<String>, Vec<Row>)> {
    let (mut columns, mut rows) = (Vec::<String>::new(), Vec::new());
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let context = || format!("line {}", at + 1);
        let mut object: serde_json::Map<String, Value> =
            serde_json::from_str(line).with_context(context)?;
        if rows.is_empty() {
            columns = object.keys().cloned().collect();
        }
        let row: Option<Row> = columns.iter().map(|column| object.remove(column)).collect();
        let row = row.filter(|_| object.is_empty());
        let columns = || format!("line {} has other fields than {}", at + 1, columns.join(", "));
        rows.push(row.with_context(columns)?);
    }
    Ok((columns, rows))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use serde_json::json;

    use super::*;

    fn load(name: &str, text: &str, pick: Pick) -> anyhow::Result<Rows> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), text).unwrap();
        Rows::load("users", &Source { file: name.into(), pick }, folder.path())
    }

    #[test]
    fn both_forms_are_read() {
        let rows = load("a.csv", "id,name\n1, Ann \n2,\"B, b\"\n", Pick::Sequential).unwrap();
        assert_eq!(rows.table.columns, ["id", "name"]);
        assert_eq!(rows.rows[1].to_vec(), [json!("2"), json!("B, b")]);
        let text = "{\"id\":1,\"tags\":[1]}\n\n{\"tags\":null,\"id\":2}\n";
        let rows = load("a.jsonl", text, Pick::Sequential).unwrap();
        assert_eq!(rows.table.columns, ["id", "tags"]);
        assert_eq!(rows.rows[1].to_vec(), [json!(2), json!(null)]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |name, text| format!("{:#}", load(name, text, Pick::Random).unwrap_err());
        assert!(error("a.csv", "id,name\n1\n").contains("line: 2"));
        assert!(error("a.csv", "id,name\n").contains("no row"));
        assert!(error("a.jsonl", "{\"a\":1}\n{\"b\":1}\n").contains("line 2"));
        assert!(error("a.jsonl", "{\"a\":1}\n[]\n").contains("line 2"));
        assert!(error("a.txt", "x").contains("neither"));
        let missing = Source { file: "none.csv".into(), pick: Pick::Random };
        assert!(Rows::load("users", &missing, Path::new("/nowhere")).is_err());
    }

    #[test]
    fn rows_are_picked_in_turn_at_random_or_one_for_each_user() {
        let text = "id\n0\n1\n2\n";
        let mut random = SmallRng::seed_from_u64(1);
        let mut picks = |pick| {
            let rows = load("a.csv", text, pick).unwrap();
            let id =
                |n: u64| rows.row(n as u32 / 4, n, &mut random)[0].as_str().unwrap().to_owned();
            (0..8).map(id).collect::<String>()
        };
        assert_eq!(picks(Pick::Sequential), "01201201");
        assert_eq!(picks(Pick::PerVu), "00001111");
        let (some, others) = (picks(Pick::Random), picks(Pick::Random));
        assert_ne!(some, others, "the random numbers go on");
    }
}
