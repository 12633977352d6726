//! Checks of an answer: of its status, a header, its JSON or its text.

use serde::Deserialize;
use serde_json::Value;

/// A check as a file has it: what is looked at, and what it must be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheck {
    name: Option<String>,
    /// One of these statuses.
    status: Option<Statuses>,
    /// A header of this name.
    header: Option<String>,
    /// What is at this JSON pointer.
    json: Option<String>,
    /// The whole body contains this.
    body_contains: Option<String>,

    equals: Option<toml::Value>,
    contains: Option<String>,
    exists: Option<bool>,
    min: Option<f64>,
    max: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Statuses {
    One(u16),
    Any(Vec<u16>),
}

#[derive(Debug, Clone, PartialEq)]
enum Subject {
    Status(Vec<u16>),
    /// In lower case, as two checks may write one header in two ways.
    Header(String),
    Json(String),
    Body(String),
}

/// What a header or a JSON value must be; all of it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Must {
    equals: Option<Value>,
    contains: Option<String>,
    exists: Option<bool>,
    min: Option<f64>,
    max: Option<f64>,
}

/// A check.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Check {
    pub(super) name: String,
    subject: Subject,
    must: Must,
}

impl RawCheck {
    /// Reads it.
    ///
    /// # Errors
    /// It looks at nothing, or at more than one thing.
    pub(super) fn compile(&self) -> Result<Check, String> {
        let statuses = self.status.clone().map(|statuses| match statuses {
            Statuses::One(status) => vec![status],
            Statuses::Any(statuses) => statuses,
        });
        let subjects = [
            statuses.map(Subject::Status),
            self.header.as_deref().map(str::to_ascii_lowercase).map(Subject::Header),
            self.json.clone().map(Subject::Json),
            self.body_contains.clone().map(Subject::Body),
        ];
        let mut subjects = subjects.into_iter().flatten();
        let (Some(subject), None) = (subjects.next(), subjects.next()) else {
            return Err("a check has one of status, header, json and body_contains".into());
        };
        let must = Must {
            equals: match &self.equals {
                Some(value) => {
                    Some(serde_json::to_value(value).map_err(|error| error.to_string())?)
                }
                None => None,
            },
            contains: self.contains.clone(),
            exists: self.exists,
            min: self.min,
            max: self.max,
        };
        let is_bare = must == Must::default();
        let name = match &subject {
            Subject::Status(_) | Subject::Body(_) if !is_bare => {
                return Err("equals, contains, exists, min and max are of header and json".into());
            }
            Subject::Json(pointer) if !pointer.is_empty() && !pointer.starts_with('/') => {
                return Err(format!("{pointer:?} is not a JSON pointer such as /orders/0/id"));
            }
            Subject::Header(_) | Subject::Json(_) if is_bare => {
                return Err(
                    "a check of header or json needs equals, contains, exists, min or max".into()
                );
            }
            Subject::Status(statuses) => {
                let all: Vec<_> = statuses.iter().map(u16::to_string).collect();
                format!("status is {}", all.join(" or "))
            }
            Subject::Header(_) => {
                let written = self.header.as_deref().unwrap_or_default();
                format!("{written} {}", must.words())
            }
            Subject::Json(pointer) => format!("{pointer} {}", must.words()),
            Subject::Body(text) => format!("body contains {text:?}"),
        };
        Ok(Check { name: self.name.clone().unwrap_or(name), subject, must })
    }
}

impl Check {
    /// The header that is looked at, in lower case.
    pub(super) fn header(&self) -> Option<&str> {
        match &self.subject {
            Subject::Header(name) => Some(name),
            _ => None,
        }
    }

    /// Whether an answer is as it must be; status 0 is none.
    pub(super) fn holds<'a>(
        &self,
        status: u16,
        header: impl Fn(&str) -> Option<&'a String>,
        json: &Value,
        body: &[u8],
    ) -> bool {
        match &self.subject {
            Subject::Status(statuses) => statuses.contains(&status),
            Subject::Header(name) => {
                let value = header(name).map(|value| Value::String(value.clone()));
                self.must.holds(value.as_ref())
            }
            Subject::Json(pointer) => self.must.holds(json.pointer(pointer)),
            Subject::Body(text) => String::from_utf8_lossy(body).contains(text),
        }
    }
}

impl Must {
    fn holds(&self, value: Option<&Value>) -> bool {
        if self.exists == Some(value.is_none()) {
            return false;
        }
        let Some(value) = value else { return self.exists == Some(false) };
        let number = || match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok(),
            Value::Array(list) => Some(list.len() as f64),
            _ => None,
        };
        // 5 and 5.0 are the same number.
        let equal = |wanted: &Value| match (wanted.as_f64(), value.as_f64()) {
            (Some(wanted), Some(value)) => wanted == value,
            _ => wanted == value,
        };
        self.equals.as_ref().is_none_or(equal)
            && self.contains.as_ref().is_none_or(|part| match value {
                Value::String(text) => text.contains(part),
                Value::Array(list) => list.iter().any(|one| one.as_str() == Some(part)),
                _ => false,
            })
            && self.min.is_none_or(|min| number().is_some_and(|number| number >= min))
            && self.max.is_none_or(|max| number().is_some_and(|number| number <= max))
    }

    fn words(&self) -> String {
        let words = [
            self.exists.map(|exists| if exists { "exists" } else { "is absent" }.to_owned()),
            self.equals.as_ref().map(|value| format!("is {value}")),
            self.contains.as_ref().map(|part| format!("contains {part:?}")),
            self.min.map(|min| format!("is at least {min}")),
            self.max.map(|max| format!("is at most {max}")),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Check, String> {
        toml::from_str::<RawCheck>(text).map_err(|error| error.message().to_owned())?.compile()
    }

    #[test]
    fn checks_look_at_one_thing() {
        let body = br#"{"a":{"n":5,"list":["x","y"],"none":null,"text":"hello"}}"#;
        let json: Value = serde_json::from_slice(body).unwrap();
        let etag = "W/\"1\"".to_owned();
        for (text, holds, name) in [
            ("status = 200", true, "status is 200"),
            ("status = [201, 202]", false, "status is 201 or 202"),
            ("json = '/a/n'\nequals = 5.0", true, "/a/n is 5.0"),
            ("json = '/a/n'\nmin = 6", false, "/a/n is at least 6"),
            ("json = '/a/n'\nmin = 5\nmax = 5", true, "/a/n is at least 5 and is at most 5"),
            ("json = '/a/list'\nmin = 2", true, "/a/list is at least 2"),
            ("json = '/a/list'\ncontains = 'y'", true, "/a/list contains \"y\""),
            ("json = '/a/text'\ncontains = 'lo'", true, "/a/text contains \"lo\""),
            ("json = '/a/text'\nmax = 5", false, "/a/text is at most 5"),
            ("json = '/b'\nexists = false", true, "/b is absent"),
            ("json = '/a'\nexists = false", false, "/a is absent"),
            ("json = '/b'\nequals = 1", false, "/b is 1"),
            ("json = '/a/none'\nexists = true", true, "/a/none exists"),
            ("header = 'ETag'\ncontains = '1'", true, "ETag contains \"1\""),
            ("header = 'x'\nexists = true", false, "x exists"),
            ("body_contains = 'hello'\nname = 'greets'", true, "greets"),
        ] {
            let check = check(text).unwrap();
            let header = |name: &str| (name == "etag").then_some(&etag);
            assert_eq!(check.holds(200, header, &json, body), holds, "{text}");
            assert_eq!(check.name, name);
        }
        for bad in [
            "",
            "equals = 1",
            "status = 200\njson = '/a'",
            "status = 200\nmin = 1",
            "json = '/a'",
            "json = 'a'\nmin = 1",
            "statos = 200",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
