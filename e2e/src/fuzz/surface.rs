//! What a service says that it can be asked: its operations, read from its OpenAPI document.

use anyhow::{Context as _, ensure};
use serde_json::Value;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The kind of value that a parameter or field is said to hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Integer,
    Number,
    Boolean,
    Time,
    Uuid,
    /// One of these words.
    Word(Vec<String>),
    Text,
    Other,
}

/// A parameter of a path or a query, or a field of a body.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Param {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// A method on a path.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) method: String,
    /// With its parameters in braces.
    pub(super) path: String,
    pub(super) in_path: Vec<Param>,
    pub(super) in_query: Vec<Param>,
    pub(super) headers: Vec<String>,
    /// Fields of a JSON body; `None` without one.
    pub(super) body: Option<Vec<Param>>,
}

/// Every operation of a document.
pub(super) fn operations(document: &Value) -> anyhow::Result<Vec<Operation>> {
    let paths = document["paths"].as_object().context("a document has paths")?;
    let mut found = Vec::new();
    for (path, item) in paths {
        for method in METHODS {
            let operation = &item[method];
            if operation.is_object() {
                found.push(read(document, method, path, item, operation));
            }
        }
    }
    ensure!(!found.is_empty(), "a document without an operation");
    Ok(found)
}

fn read(document: &Value, method: &str, path: &str, item: &Value, operation: &Value) -> Operation {
    let list = |of: &Value| of["parameters"].as_array().cloned().unwrap_or_default();
    let mut all = list(item);
    all.extend(list(operation));
    let of_place = |place: &str| -> Vec<Param> {
        let here = all.iter().map(|param| resolved(document, param));
        let here = here.filter(|param| param["in"] == place);
        here.filter_map(|param| {
            let name = param["name"].as_str()?.to_owned();
            Some(Param { name, kind: kind(document, &param["schema"]) })
        })
        .collect()
    };
    // A parameter that the document forgets is in the path all the same.
    let mut in_path = of_place("path");
    for name in path.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)) {
        if !in_path.iter().any(|param| param.name == name) {
            in_path.push(Param { name: name.to_owned(), kind: Kind::Text });
        }
    }
    let body = operation.get("requestBody").map(|body| {
        let content = &resolved(document, body)["content"];
        let schema = content["application/json"]["schema"].clone();
        let schema = resolved(document, &schema);
        let fields = schema["properties"].as_object().cloned().unwrap_or_default();
        let field = |(name, schema): (String, Value)| Param { name, kind: kind(document, &schema) };
        fields.into_iter().map(field).collect()
    });
    Operation {
        method: method.to_uppercase(),
        path: path.to_owned(),
        in_path,
        in_query: of_place("query"),
        headers: of_place("header").into_iter().map(|param| param.name).collect(),
        body,
    }
}

/// Follows a `$ref`, and the one schema of an optional value.
fn resolved(document: &Value, value: &Value) -> Value {
    let mut value = value;
    for _ in 0..8 {
        if let Some(pointer) = value["$ref"].as_str().and_then(|text| text.strip_prefix('#')) {
            value = document.pointer(pointer).unwrap_or(&Value::Null);
            continue;
        }
        let any = ["oneOf", "anyOf", "allOf"].iter().find_map(|name| value[*name].as_array());
        match any.and_then(|any| any.iter().find(|one| one["type"] != "null")) {
            Some(one) if value["type"].is_null() => value = one,
            _ => break,
        }
    }
    value.clone()
}

fn kind(document: &Value, schema: &Value) -> Kind {
    let schema = resolved(document, schema);
    if let Some(words) = schema["enum"].as_array() {
        return Kind::Word(words.iter().filter_map(|word| word.as_str().map(Into::into)).collect());
    }
    let named = |name: &str| match &schema["type"] {
        Value::Array(types) => types.iter().any(|one| one == name),
        one => one == name,
    };
    match schema["format"].as_str() {
        Some("date-time") => Kind::Time,
        Some("uuid") => Kind::Uuid,
        _ if named("integer") => Kind::Integer,
        _ if named("number") => Kind::Number,
        _ if named("boolean") => Kind::Boolean,
        _ if named("string") => Kind::Text,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_every_service_is_an_operation_with_its_parameters() {
        for document in
            [logistics::http::openapi(), menu_api::http::openapi(), order_api::http::openapi()]
        {
            let document = serde_json::to_value(document).unwrap();
            let found = operations(&document).unwrap();
            let said: usize = document["paths"]
                .as_object()
                .unwrap()
                .values()
                .map(|item| METHODS.iter().filter(|method| item[**method].is_object()).count())
                .sum();
            assert_eq!(found.len(), said);
            for operation in &found {
                assert_eq!(operation.in_path.len(), operation.path.matches('{').count());
            }
        }
    }

    #[test]
    fn kinds_are_those_of_the_document() {
        let document = serde_json::to_value(logistics::http::openapi()).unwrap();
        let found = operations(&document).unwrap();
        let of = |path: &str, method: &str| {
            let mut all = found.iter();
            all.find(|it| it.path.ends_with(path) && it.method == method).unwrap()
        };
        let route = of("/{driver_id}/route", "GET");
        let param = |name: &str| route.in_query.iter().find(|it| it.name == name).unwrap();
        assert_eq!(param("start_time").kind, Kind::Time);
        assert_eq!(param("limit").kind, Kind::Integer);
        assert_eq!(route.in_path[0].kind, Kind::Integer);
        assert!(route.body.is_none());
        let drivers = of("/drivers", "POST").body.clone().unwrap();
        let vehicle = drivers.iter().find(|it| it.name == "vehicle").unwrap();
        assert!(matches!(&vehicle.kind, Kind::Word(words) if words.len() == 4), "{vehicle:?}");
    }
}
