//! Texts with `${…}` in them, checked before the first request.
//!
//! | | |
//! |---|---|
//! | `${env:NAME}` | an environment variable, read once |
//! | `${vu}`, `${iteration}`, `${scenario}`, `${seed}` | who sends |
//! | `${uuid}`, `${now}`, `${now_ms}`, `${random:1-100}` | new each time |
//! | `${users.name}` | a column of a data file; one row is chosen for each iteration |
//! | `${token}`, `${role}`, `${subject}` | of whom a request is from |
//! | `${anything}` | what a request before has captured |

use std::collections::{BTreeMap, BTreeSet};

use chrono::{SecondsFormat, Utc};
use rand::{Rng as _, rngs::SmallRng};
use serde_json::Value;

use super::data::{Row, Table};

/// What stands between `${` and `}`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Variable {
    Vu,
    Iteration,
    Scenario,
    Seed,
    Uuid,
    Now,
    NowMs,
    Random(i64, i64),
    Token,
    Role,
    Subject,
    Column(usize, usize),
    Captured(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

/// A text with variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

/// What variables there are where a template stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) tables: &'a [Table],
    pub(super) captured: &'a BTreeSet<String>,
    /// `${token}`, `${role}` and `${subject}` mean something here.
    pub(super) identity: bool,
}

/// What variables are when a template is filled in.
pub(super) struct Scope<'a> {
    pub(super) vu: u32,
    pub(super) iteration: u64,
    pub(super) scenario: &'a str,
    pub(super) seed: u64,
    pub(super) rows: &'a [Row],
    pub(super) captured: &'a BTreeMap<String, Value>,
    pub(super) token: &'a str,
    pub(super) role: &'a str,
    pub(super) subject: &'a str,
    pub(super) random: &'a mut SmallRng,
}

impl Template {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str, known: Known<'_>) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find("${") {
            push(&mut parts, &rest[..at]);
            let (name, after) = rest[at + 2..]
                .split_once('}')
                .ok_or_else(|| format!("{text:?} has a ${{ without its }}"))?;
            match name.strip_prefix("env:") {
                Some(name) => push(&mut parts, &env(name)?),
                None => parts.push(Part::Variable(variable(name.trim(), known)?)),
            }
            rest = after;
        }
        push(&mut parts, rest);
        Ok(Self(parts))
    }

    /// Whether all of it has a value: nobody has a token before a sender is known, nor what setup
    /// captures before it was captured.
    pub(super) fn is_known(&self, is_somebody: bool, captured: &BTreeMap<String, Value>) -> bool {
        use Variable as V;
        self.0.iter().all(|part| match part {
            Part::Variable(V::Token | V::Role | V::Subject) => is_somebody,
            Part::Variable(V::Captured(name)) => captured.contains_key(name),
            _ => true,
        })
    }

    /// Fills it in.
    pub(super) fn fill(&self, scope: &mut Scope<'_>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Variable(variable) => match variable.value(scope) {
                    Value::String(value) => text.push_str(&value),
                    value => text.push_str(&value.to_string()),
                },
            }
        }
        text
    }

    /// The same as JSON: a variable that stands alone keeps its type.
    fn value(&self, scope: &mut Scope<'_>) -> Value {
        match &self.0[..] {
            [Part::Variable(variable)] => variable.value(scope),
            _ => Value::String(self.fill(scope)),
        }
    }
}

fn push(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Text(last)) => last.push_str(text),
        _ if text.is_empty() => {}
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

fn env(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("the environment has no variable {name}"))
}

fn variable(name: &str, known: Known<'_>) -> Result<Variable, String> {
    Ok(match name {
        "vu" => Variable::Vu,
        "iteration" => Variable::Iteration,
        "scenario" => Variable::Scenario,
        "seed" => Variable::Seed,
        "uuid" => Variable::Uuid,
        "now" => Variable::Now,
        "now_ms" => Variable::NowMs,
        "token" if known.identity => Variable::Token,
        "role" if known.identity => Variable::Role,
        "subject" if known.identity => Variable::Subject,
        _ if known.captured.contains(name) => Variable::Captured(name.to_owned()),
        _ => {
            if let Some(range) = name.strip_prefix("random:") {
                return random(range).ok_or_else(|| format!("{range:?} is not a range like 1-100"));
            }
            let (table, column) = name.split_once('.').ok_or_else(|| {
                format!("${{{name}}} is unknown here: nothing captures it before")
            })?;
            let at = known.tables.iter().position(|one| one.name == table);
            let at = at.ok_or_else(|| format!("${{{name}}}: there is no [data.{table}]"))?;
            let columns = &known.tables[at].columns;
            let place = columns.iter().position(|one| one == column).ok_or_else(|| {
                let columns = columns.join(", ");
                format!("${{{name}}}: [data.{table}] has no column {column:?}, but {columns}")
            })?;
            Variable::Column(at, place)
        }
    })
}

fn random(range: &str) -> Option<Variable> {
    let (from, to) = range.split_once('-')?;
    let (from, to) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
    (from <= to).then_some(Variable::Random(from, to))
}

impl Variable {
    fn value(&self, scope: &mut Scope<'_>) -> Value {
        match self {
            Self::Vu => scope.vu.into(),
            Self::Iteration => scope.iteration.into(),
            Self::Scenario => scope.scenario.into(),
            Self::Seed => scope.seed.into(),
            // Not by the seed: to a key of an earlier run a server has its answer already.
            Self::Uuid => uuid::Uuid::new_v4().to_string().into(),
            Self::Now => Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true).into(),
            Self::NowMs => Utc::now().timestamp_millis().into(),
            Self::Random(from, to) => scope.random.random_range(*from..=*to).into(),
            Self::Token => scope.token.into(),
            Self::Role => scope.role.into(),
            Self::Subject => scope.subject.into(),
            Self::Column(table, column) => {
                let row = scope.rows.get(*table);
                row.and_then(|row| row.get(*column)).cloned().unwrap_or(Value::Null)
            }
            Self::Captured(name) => scope.captured.get(name).cloned().unwrap_or(Value::Null),
        }
    }
}

/// JSON whose texts have variables.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Text(Template),
    Is(Value),
    List(Vec<Self>),
    Table(Vec<(String, Self)>),
}

impl Json {
    /// Reads the texts of a value.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub(super) fn parse(value: &toml::Value, known: Known<'_>) -> Result<Self, String> {
        Ok(match value {
            toml::Value::String(text) => Self::Text(Template::parse(text, known)?),
            toml::Value::Integer(number) => Self::Is((*number).into()),
            toml::Value::Float(number) => Self::Is((*number).into()),
            toml::Value::Boolean(is_so) => Self::Is((*is_so).into()),
            toml::Value::Datetime(time) => Self::Is(time.to_string().into()),
            toml::Value::Array(list) => Self::List(
                list.iter().map(|one| Self::parse(one, known)).collect::<Result<_, _>>()?,
            ),
            toml::Value::Table(table) => Self::Table(
                table
                    .iter()
                    .map(|(key, one)| Ok((key.clone(), Self::parse(one, known)?)))
                    .collect::<Result<_, String>>()?,
            ),
        })
    }

    /// Fills it in.
    pub(super) fn fill(&self, scope: &mut Scope<'_>) -> Value {
        match self {
            Self::Text(template) => template.value(scope),
            Self::Is(value) => value.clone(),
            Self::List(list) => list.iter().map(|one| one.fill(scope)).collect(),
            Self::Table(table) => {
                table.iter().map(|(key, one)| (key.clone(), one.fill(scope))).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use serde_json::json;

    use super::*;

    fn tables() -> Vec<Table> {
        vec![Table { name: "users".into(), columns: vec!["id".into(), "name".into()] }]
    }

    fn parse(text: &str) -> Result<Template, String> {
        let captured = BTreeSet::from(["order".to_owned()]);
        Template::parse(text, Known { tables: &tables(), captured: &captured, identity: true })
    }

    fn with_scope<T>(use_it: impl FnOnce(&mut Scope<'_>) -> T) -> T {
        let rows = [Row::from([json!(7), json!("Ann")])];
        let captured = BTreeMap::from([("order".to_owned(), json!({"id": 5}))]);
        use_it(&mut Scope {
            vu: 3,
            iteration: 12,
            scenario: "shop",
            seed: 1,
            rows: &rows,
            captured: &captured,
            token: "t",
            role: "customer",
            subject: "9",
            random: &mut SmallRng::seed_from_u64(1),
        })
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, filled) in [
            ("", ""),
            ("plain $ {x} }", "plain $ {x} }"),
            ("/u/${users.id}/${users.name}?v=${vu}&i=${iteration}", "/u/7/Ann?v=3&i=12"),
            ("Bearer ${token}", "Bearer t"),
            ("${role}:${subject} ${scenario}${seed}", "customer:9 shop1"),
            ("${order}", r#"{"id":5}"#),
            ("${random:4-4}", "4"),
        ] {
            assert_eq!(with_scope(|scope| parse(text).unwrap().fill(scope)), filled, "{text}");
        }
        let id = with_scope(|scope| parse("${uuid}").unwrap().fill(scope));
        assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 4);
        assert_ne!(id, with_scope(|scope| parse("${uuid}").unwrap().fill(scope)), "of each run");
        assert!(parse("${env:CARGO_PKG_NAME}").unwrap() == parse("loadtest").unwrap());
    }

    #[test]
    fn what_is_unknown_is_refused_with_its_name() {
        for (text, word) in [
            ("${", "without its }"),
            ("${nobody}", "nobody"),
            ("${users.age}", "id, name"),
            ("${cars.id}", "data.cars"),
            ("${random:9-1}", "9-1"),
            ("${env:NO_SUCH_VARIABLE_HERE}", "NO_SUCH_VARIABLE_HERE"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        let captured = BTreeSet::new();
        let known = Known { tables: &[], captured: &captured, identity: false };
        assert!(Template::parse("${token}", known).is_err());
    }

    #[test]
    fn a_variable_that_stands_alone_keeps_its_type() {
        let captured = BTreeSet::from(["order".to_owned()]);
        let known = Known { tables: &tables(), captured: &captured, identity: false };
        let toml = "a = ['${users.id}', 'no ${users.id}', 2, 1.5, true]\nb = { c = '${order}' }";
        let value: toml::Table = toml.parse().unwrap();
        let json = Json::parse(&toml::Value::Table(value), known).unwrap();
        assert_eq!(
            with_scope(|scope| json.fill(scope)),
            json!({"a": [7, "no 7", 2, 1.5, true], "b": {"c": {"id": 5}}})
        );
    }
}
