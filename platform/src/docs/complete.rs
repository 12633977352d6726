//! What holds for every route and is therefore said once: who may call it, and how it refuses.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use utoipa::PartialSchema as _;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Content, Header, OpenApi, Ref, RefOr, Response, ResponseBuilder, Server, path::ParameterIn,
};

use crate::access::{AccessTable, Who};
use crate::problem::{FieldError, PROBLEM_JSON, Problem};

const SCHEME: &str = "bearer";

/// Adds to a document what the access table and the kinds of routes imply: the security scheme and
/// the roles of each operation, refusals as `application/problem+json`, and the server.
#[must_use]
pub fn complete(mut document: OpenApi, access: &AccessTable) -> OpenApi {
    let components = document.components.get_or_insert_default();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
    components.schemas.insert("Problem".to_owned(), Problem::schema());
    components.schemas.insert("FieldError".to_owned(), FieldError::schema());
    // Relative: the address from which the document was read.
    document.servers.get_or_insert_with(|| vec![Server::new("/")]);
    let mut used = BTreeSet::new();
    for (route, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let who = access.who(&method, route).unwrap_or(Who::Anyone);
            used.extend(refusals(operation, who));
        }
    }
    for status in used {
        components.responses.insert(name(status), refusal(status).into());
    }
    document
}

/// The operations of a path, with their methods.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::DELETE, &mut item.delete),
        (Method::PATCH, &mut item.patch),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Adds the refusals that its route implies to an operation, and returns those it had not yet.
/// Those that it describes itself get the form that all have.
fn refusals(operation: &mut Operation, who: Who) -> Vec<StatusCode> {
    // A store is away, the process is full or stopping; an answer took too long.
    let mut implied = vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    if let Who::Roles(roles) = who {
        // OpenAPI 3.1 takes names of roles in the place of scopes; any of them will do.
        let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        operation.security = Some(vec![SecurityRequirement::new(SCHEME, roles.clone())]);
        let roles = format!("Roles: {}.", roles.join(", "));
        operation.description = Some(match operation.description.take() {
            Some(text) if !text.is_empty() => format!("{text}\n\n{roles}"),
            _ => roles,
        });
        implied.extend([StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
    }
    if operation.request_body.is_some() {
        implied.extend([
            StatusCode::BAD_REQUEST,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            StatusCode::UNPROCESSABLE_ENTITY,
        ]);
    }
    for parameter in operation.parameters.iter().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        match parameter.parameter_in {
            ParameterIn::Path | ParameterIn::Query | ParameterIn::QueryString => {
                implied.push(StatusCode::UNPROCESSABLE_ENTITY);
            }
            ParameterIn::Header | ParameterIn::Cookie => implied.push(StatusCode::BAD_REQUEST),
        }
    }
    for (status, response) in &mut operation.responses.responses {
        if status.starts_with(['4', '5'])
            && let RefOr::T(response) = response
        {
            take_form(response);
        }
    }
    let known = &mut operation.responses.responses;
    implied.retain(|status| {
        let is_new = !known.contains_key(status.as_str());
        if is_new {
            known.insert(status.as_str().to_owned(), Ref::from_response_name(name(*status)).into());
        }
        is_new
    });
    implied
}

fn take_form(response: &mut Response) {
    response.content.clear();
    let content = Content::new(Some(Ref::from_schema_name("Problem")));
    response.content.insert(PROBLEM_JSON.to_owned(), content.into());
}

/// The name of a shared refusal.
fn name(status: StatusCode) -> String {
    format!("Problem{}", status.as_str())
}

fn refusal(status: StatusCode) -> Response {
    let description = match status {
        StatusCode::BAD_REQUEST => "The request could not be understood.",
        StatusCode::UNAUTHORIZED => "There is no valid access token.",
        StatusCode::FORBIDDEN => "The role may not do this.",
        StatusCode::REQUEST_TIMEOUT => "The body took too long to arrive.",
        StatusCode::PAYLOAD_TOO_LARGE => "The body is too large.",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "The body is not JSON by its Content-Type.",
        StatusCode::UNPROCESSABLE_ENTITY => "A field or parameter is not valid; `errors` names it.",
        StatusCode::SERVICE_UNAVAILABLE => "Not now; try again after `Retry-After` seconds.",
        _ => "The answer took too long; whether the request had an effect is not known.",
    };
    let mut response = ResponseBuilder::new().description(description).build();
    take_form(&mut response);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let seconds = Header::new(i32::schema());
        response.headers.insert("Retry-After".to_owned(), seconds.into());
    }
    response
}
