//! Reads one row per item; rows of one restaurant follow one another.

use std::{collections::HashMap, io::Read, str::FromStr};

use ::csv::{ByteRecord, ReaderBuilder, Trim};
use contracts::money::Currency;
use serde::{Deserialize, de::IntoDeserializer as _, de::value::StrDeserializer};

use super::{
    Failure, Format, Record,
    read::{Described, Sink},
};
use crate::{
    invalid::Invalid,
    menu::{NewCategory, NewItem, NewMenu},
    restaurant::{Profile, Status},
};

/// Columns of a restaurant, but for its `external_id`.
const OF_RESTAURANT: [&str; 19] = [
    "name",
    "description",
    "cuisines",
    "price_level",
    "address",
    "city",
    "postal_code",
    "country",
    "latitude",
    "longitude",
    "time_zone",
    "opening_hours",
    "phone",
    "photos",
    "currency",
    "delivery_fee",
    "minimum_order",
    "tax_basis_points",
    "status",
];
const OF_ITEM: [&str; 11] = [
    "category",
    "category_description",
    "item",
    "item_description",
    "price",
    "photo",
    "allergens",
    "dietary",
    "preparation_minutes",
    "available",
    "in_stock",
];
const NEEDED: [&str; 11] = [
    "external_id",
    "name",
    "cuisines",
    "address",
    "city",
    "country",
    "latitude",
    "longitude",
    "time_zone",
    "opening_hours",
    "currency",
];

pub(super) fn read(input: impl Read, sink: &mut Sink) {
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(input);
    let mut record = ByteRecord::new();
    let mut header = None;
    let mut group: Option<Group> = None;
    loop {
        let line = reader.position().line();
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                // What was read of the last restaurant may be half of it.
                let line = error.position().map_or(line, ::csv::Position::line);
                let mut failures = group.take().map(|group| group.failures).unwrap_or_default();
                failures.push(failure(line, None, "", format!("cannot be read: {error}")));
                let _nobody_reads = sink.put(Err(failures));
                return;
            }
        }
        let line = record.position().map_or(line, ::csv::Position::line);
        let Some(header) = &header else {
            match Header::read(&record) {
                Ok(read) => header = Some(read),
                Err(message) => {
                    let _nobody_reads = sink.put_failure(line, message);
                    return;
                }
            }
            continue;
        };
        let row = Row { header, record: &record, line };
        let id = row.text("external_id").unwrap_or_default();
        let same = group.as_ref().is_some_and(|group| id.is_empty() || group.external_id == id);
        if !same
            && let Some(done) = group.replace(Group::new(line, id))
            && !done.put(header, sink)
        {
            return;
        }
        if let Some(group) = &mut group {
            group.add(&row);
        }
    }
    match (header, group) {
        (Some(header), Some(group)) => {
            let _nobody_reads = group.put(&header, sink);
        }
        (None, _) => {
            let _nobody_reads = sink.put_failure(1, "has no line of column names");
        }
        (Some(_), None) => {}
    }
}

/// Where which column is.
struct Header {
    at: HashMap<String, usize>,
}

impl Header {
    fn read(record: &ByteRecord) -> Result<Self, String> {
        let mut at = HashMap::new();
        for (n, name) in record.iter().enumerate() {
            let name = String::from_utf8_lossy(name);
            let is_known = name == "external_id"
                || OF_RESTAURANT.contains(&&*name)
                || OF_ITEM.contains(&&*name);
            if !is_known {
                return Err(format!("has a column \"{name}\", which there is not"));
            }
            if at.insert(name.clone().into_owned(), n).is_some() {
                return Err(format!("has the column {name} twice"));
            }
        }
        match NEEDED.iter().find(|name| !at.contains_key(**name)) {
            Some(name) => Err(format!("has no column {name}")),
            None => Ok(Self { at }),
        }
    }
}

struct Row<'a> {
    header: &'a Header,
    record: &'a ByteRecord,
    line: u64,
}

impl Row<'_> {
    /// The cell's text; empty when there is no such column.
    fn text(&self, column: &str) -> Result<&str, Invalid> {
        let cell = self.header.at.get(column).and_then(|at| self.record.get(*at));
        std::str::from_utf8(cell.unwrap_or_default())
            .map_err(|_| Invalid::new(column.to_owned(), "must be UTF-8"))
    }

    fn owned(&self, column: &str) -> Result<String, Invalid> {
        self.text(column).map(str::to_owned)
    }

    fn optional(&self, column: &str) -> Result<Option<String>, Invalid> {
        self.text(column).map(|text| (!text.is_empty()).then(|| text.to_owned()))
    }

    fn parsed<T: FromStr>(&self, column: &str, kind: &str) -> Result<T, Invalid> {
        let text = self.text(column)?;
        text.parse()
            .map_err(|_| Invalid::new(column.to_owned(), format!("must be {kind}, not \"{text}\"")))
    }

    fn parsed_or<T: FromStr>(&self, column: &str, kind: &str, absent: T) -> Result<T, Invalid> {
        if self.text(column)?.is_empty() { Ok(absent) } else { self.parsed(column, kind) }
    }

    fn list(&self, column: &str) -> Result<Vec<&str>, Invalid> {
        let text = self.text(column)?;
        let list = text.split('|').map(str::trim);
        Ok(if text.is_empty() { Vec::new() } else { list.collect() })
    }

    /// A list of names that serde knows.
    fn named<'de, T: Deserialize<'de>>(&'de self, column: &str) -> Result<Vec<T>, Invalid> {
        self.list(column)?.into_iter().map(|name| named(column, name)).collect()
    }

    fn profile(&self) -> Result<Profile, Invalid> {
        const WHOLE: &str = "a whole number";
        Ok(Profile {
            external_id: self.optional("external_id")?,
            name: self.owned("name")?,
            description: self.owned("description")?,
            cuisines: self.named("cuisines")?,
            price_level: self.parsed_or("price_level", WHOLE, 2)?,
            address: self.owned("address")?,
            city: self.owned("city")?,
            postal_code: self.owned("postal_code")?,
            country: self.owned("country")?,
            latitude: self.parsed("latitude", "a number of degrees")?,
            longitude: self.parsed("longitude", "a number of degrees")?,
            time_zone: self.owned("time_zone")?,
            opening_hours: self.owned("opening_hours")?,
            phone: self.optional("phone")?,
            photos: self.list("photos")?.into_iter().map(str::to_owned).collect(),
            currency: Currency::parse(self.text("currency")?)
                .map_err(|error| Invalid::new("currency", error.to_string()))?,
            delivery_fee: self.parsed_or("delivery_fee", WHOLE, 0)?,
            minimum_order: self.parsed_or("minimum_order", WHOLE, 0)?,
            tax_basis_points: self.parsed_or("tax_basis_points", "between 0 and 10000", 0)?,
        })
    }

    fn status(&self) -> Result<Option<Status>, Invalid> {
        let text = self.text("status")?;
        if text.is_empty() { Ok(None) } else { named("status", text).map(Some) }
    }

    fn item(&self) -> Result<Option<NewItem>, Invalid> {
        const BOOLEAN: &str = "true or false";
        let name = self.owned("item")?;
        if name.is_empty() {
            for column in &OF_ITEM[3..] {
                if !self.text(column)?.is_empty() {
                    return Err(Invalid::new("item", "must be named where the row describes one"));
                }
            }
            return Ok(None);
        }
        let item = NewItem {
            item_id: None,
            name,
            description: self.owned("item_description")?,
            price: self.parsed("price", "a whole number of minor units")?,
            photo: self.optional("photo")?,
            options: Vec::new(),
            allergens: self.named("allergens")?,
            dietary: self.named("dietary")?,
            preparation_minutes: self.parsed_or("preparation_minutes", "a whole number", 15)?,
            available: self.parsed_or("available", BOOLEAN, true)?,
            in_stock: self.parsed_or("in_stock", BOOLEAN, true)?,
        };
        item.check().map_err(|invalid| match &*invalid.field {
            "name" => Invalid::new("item", invalid.message),
            "description" => Invalid::new("item_description", invalid.message),
            _ => invalid,
        })?;
        Ok(Some(item))
    }
}

fn named<'de, T: Deserialize<'de>>(column: &str, name: &'de str) -> Result<T, Invalid> {
    let name: StrDeserializer<'de, serde::de::value::Error> = name.into_deserializer();
    T::deserialize(name).map_err(|error| Invalid::new(column.to_owned(), error.to_string()))
}

fn failure(line: u64, id: Option<&str>, field: &str, message: impl Into<String>) -> Failure {
    let external_id = id.filter(|id| !id.is_empty()).map(str::to_owned);
    Failure { line, external_id, field: field.into(), message: message.into() }
}

/// The rows of one restaurant so far.
struct Group {
    line: u64,
    external_id: String,
    /// The first row.
    first: ByteRecord,
    record: Option<(Profile, Option<Status>)>,
    categories: Vec<NewCategory>,
    /// Where in `categories` a name is.
    at: HashMap<String, usize>,
    failures: Vec<Failure>,
}

impl Group {
    fn new(line: u64, external_id: &str) -> Self {
        Self {
            line,
            external_id: external_id.to_owned(),
            first: ByteRecord::new(),
            record: None,
            categories: Vec::new(),
            at: HashMap::new(),
            failures: Vec::new(),
        }
    }

    fn add(&mut self, row: &Row<'_>) {
        if let Err(invalid) = self.try_add(row) {
            let (field, message) = (&invalid.field, invalid.message.as_ref());
            self.failures.push(failure(row.line, Some(&self.external_id), field, message));
        }
    }

    fn try_add(&mut self, row: &Row<'_>) -> Result<(), Invalid> {
        let (cells, columns) = (row.record.len(), row.header.at.len());
        if cells != columns {
            let message = format!("must have {columns} cells like the first line, not {cells}");
            return Err(Invalid::new("", message));
        }
        if row.text("external_id")?.is_empty() {
            return Err(Invalid::new("external_id", "must be on every row"));
        }
        if self.first.is_empty() {
            self.first = row.record.clone();
            self.record = Some((row.profile()?, row.status()?));
        } else {
            self.repeats(row)?;
        }
        let category = row.text("category")?;
        let item = row.item()?;
        if category.is_empty() {
            return match item {
                None => Ok(()),
                Some(_) => Err(Invalid::new("category", "must be named where there is an item")),
            };
        }
        let at = match self.at.get(category) {
            Some(at) => *at,
            None => {
                self.at.insert(category.to_owned(), self.categories.len());
                self.categories.push(NewCategory {
                    category_id: None,
                    name: category.to_owned(),
                    description: String::new(),
                    items: Vec::new(),
                });
                self.categories.len() - 1
            }
        };
        let category = &mut self.categories[at];
        if category.description.is_empty() {
            category.description = row.owned("category_description")?;
        }
        category.check().map_err(|invalid| match &*invalid.field {
            "name" => Invalid::new("category", invalid.message),
            _ => Invalid::new("category_description", invalid.message),
        })?;
        category.items.extend(item);
        Ok(())
    }

    /// A restaurant whose rows say different things about it was meant to be something else.
    fn repeats(&self, row: &Row<'_>) -> Result<(), Invalid> {
        let first = Row { header: row.header, record: &self.first, line: self.line };
        for column in OF_RESTAURANT {
            let cell = row.text(column)?;
            if !cell.is_empty() && Ok(cell) != first.text(column) {
                let message = format!("must be empty or the same as on line {}", self.line);
                return Err(Invalid::new(column, message));
            }
        }
        Ok(())
    }

    /// False when nobody wants more.
    fn put(self, header: &Header, sink: &mut Sink) -> bool {
        let Some((profile, status)) = self.record.filter(|_| self.failures.is_empty()) else {
            return sink.put(Err(self.failures));
        };
        let menu = header.at.contains_key("category").then_some(self.categories);
        let menu = menu.map(|categories| NewMenu { categories });
        let record = Record { restaurant: profile, status, menu };
        let described = Described::check(self.line, record, Format::Csv);
        sink.put(described.map_err(|failure| vec![failure]))
    }
}
