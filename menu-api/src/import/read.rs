//! Opens the file and hands on what its readers find, checked.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use anyhow::bail;
use flate2::read::MultiGzDecoder;
use h3o::LatLng;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tokio::sync::mpsc;

use super::{Failure, Format, ImportArgs, Record};
use crate::{
    hours::Hours,
    invalid::Invalid,
    menu::NewMenu,
    restaurant::{Profile, Status},
    store::list::CELL_RESOLUTION,
};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
const STANDARD_INPUT: &str = "-";

/// A restaurant that can be written as it is.
pub(super) struct Described {
    pub(super) line: u64,
    pub(super) external_id: String,
    pub(super) profile: Profile,
    pub(super) hours: Hours,
    /// H3 cell, as lists look for it.
    pub(super) cell: i64,
    pub(super) status: Option<Status>,
    pub(super) menu: Option<NewMenu>,
}

/// What a reader came upon.
pub(super) enum Found {
    Restaurant(Box<Described>),
    /// One restaurant, or something that is none.
    Failed(Vec<Failure>),
}

/// Where readers put what they find. Sees to it that each restaurant is there once.
pub(super) struct Sink {
    found: mpsc::Sender<Found>,
    lines: HashMap<String, u64>,
}

impl Sink {
    pub(super) fn new(found: mpsc::Sender<Found>) -> Self {
        Self { found, lines: HashMap::new() }
    }

    /// False when nobody wants more.
    #[must_use]
    pub(super) fn put(&mut self, read: Result<Described, Vec<Failure>>) -> bool {
        let id = match &read {
            Ok(described) => Some((described.external_id.clone(), described.line)),
            Err(failures) => failures
                .first()
                .and_then(|failure| Some((failure.external_id.clone()?, failure.line))),
        };
        let before = id.and_then(|(id, line)| match self.lines.get(&id) {
            Some(before) => Some((id, line, *before)),
            None => {
                self.lines.insert(id, line);
                None
            }
        });
        let found = match (before, read) {
            (Some((id, line, before)), _) => Found::Failed(vec![Failure {
                line,
                external_id: Some(id),
                field: "external_id".into(),
                message: format!("is on line {before} already; all of it must be in one place"),
            }]),
            (None, Ok(described)) => Found::Restaurant(Box::new(described)),
            (None, Err(failures)) => Found::Failed(failures),
        };
        self.found.blocking_send(found).is_ok()
    }

    /// Something that belongs to no restaurant.
    #[must_use]
    pub(super) fn put_failure(&mut self, line: u64, message: impl Into<String>) -> bool {
        let message = message.into();
        let failure = Failure { line, external_id: None, field: String::new(), message };
        self.found.blocking_send(Found::Failed(vec![failure])).is_ok()
    }
}

impl Described {
    /// Checks all of a restaurant; `format` decides how fields are called.
    pub(super) fn check(line: u64, record: Record, format: Format) -> Result<Self, Failure> {
        let Record { restaurant: profile, status, menu } = record;
        let failure = |place: &str, invalid: Invalid| {
            let invalid = if format == Format::Json { invalid.inside(place) } else { invalid };
            Failure {
                line,
                external_id: profile.external_id.clone(),
                field: invalid.field.into(),
                message: invalid.message.into(),
            }
        };
        let Some(external_id) = profile.external_id.clone() else {
            let invalid =
                Invalid::new("external_id", "is needed, so that the restaurant is found again");
            return Err(failure("restaurant", invalid));
        };
        let hours = profile.check().map_err(|invalid| failure("restaurant", invalid))?;
        if let Some(menu) = &menu {
            menu.check()
                .and_then(|()| without_ids(menu))
                .map_err(|error| failure("menu", error))?;
        }
        let cell = LatLng::new(profile.latitude, profile.longitude)
            .map_err(|_| failure("restaurant", Invalid::new("latitude", "is not a position")))?
            .to_cell(CELL_RESOLUTION);
        let cell = u64::from(cell).cast_signed();
        Ok(Self { line, external_id, profile, hours, cell, status, menu })
    }

    pub(super) fn items(&self) -> usize {
        self.menu
            .iter()
            .flat_map(|menu| &menu.categories)
            .map(|category| category.items.len())
            .sum()
    }

    pub(super) fn failure(&self, field: &str, message: &str) -> Failure {
        Failure {
            line: self.line,
            external_id: Some(self.external_id.clone()),
            field: field.into(),
            message: message.into(),
        }
    }
}

/// Another system cannot know our ids, and an id of another restaurant would do harm.
fn without_ids(menu: &NewMenu) -> Result<(), Invalid> {
    let refused = |field: String| {
        Invalid::new(field, "cannot be given; what is imported is found again by its name")
    };
    for (c, category) in menu.categories.iter().enumerate() {
        if category.category_id.is_some() {
            return Err(refused(format!("categories[{c}].category_id")));
        }
        if let Some(i) = category.items.iter().position(|item| item.item_id.is_some()) {
            return Err(refused(format!("categories[{c}].items[{i}].item_id")));
        }
    }
    Ok(())
}

/// The form of the file by the option, or else by its ending.
pub(super) fn format(args: &ImportArgs) -> anyhow::Result<Format> {
    if let Some(format) = args.format {
        return Ok(format);
    }
    let name = args.file.to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("csv") => Ok(Format::Csv),
        Some("json" | "jsonl" | "ndjson") => Ok(Format::Json),
        _ => bail!(
            "the form of {} does not follow from its name; say --format csv or json",
            args.file.display()
        ),
    }
}

/// The file's text, unpacked, and a bar on a terminal that shows how much of it was read.
pub(super) fn open(path: &Path) -> std::io::Result<(Box<dyn BufRead + Send>, ProgressBar)> {
    let (bar, raw): (_, Box<dyn Read + Send>) = if path.as_os_str() == STANDARD_INPUT {
        (ProgressBar::hidden(), Box::new(std::io::stdin()))
    } else {
        let file = File::open(path)?;
        let bar = bar(file.metadata()?.len());
        (bar.clone(), Box::new(bar.wrap_read(file)))
    };
    let is_packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    let mut input: Box<dyn BufRead + Send> = if is_packed {
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(raw)))
    } else {
        Box::new(BufReader::with_capacity(BUFFER, raw))
    };
    // Some editors and spreadsheets mark UTF-8 by these bytes.
    if input.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
    }
    Ok((input, bar))
}

fn bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed}  {eta} left");
    // Draws on standard error, and only when that is a terminal.
    ProgressBar::new(bytes)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_finish(ProgressFinish::AndClear)
}
