//! A driver's stored positions of a time, in the formats that maps and spreadsheets read, and the
//! hourly sums.

use std::fmt::Write as _;

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use contracts::{ids::DriverId, position::Position};
use platform::{
    access::Row,
    auth::{Auth, Role},
    extract::{Json, Path, Query, Time},
    postgres,
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, geojson::geojson, get, only_self};
use crate::{
    history::{DriverHour, RouteCursor},
    location::{Location, OrderLocation},
};

/// One question spans at most so much: it reads one part of the history for every hour.
const SPAN_MAX: TimeDelta = TimeDelta::days(7);
const LIMIT_MAX: i64 = 10_000;
const LIMIT_DEFAULT: i64 = 1_000;

pub(super) const ACCESS: &[Row] = &[
    get("/drivers/{driver_id}/route", &[Role::Driver, Role::Admin]),
    get("/drivers/{driver_id}/hours", &[Role::Driver, Role::Admin]),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_route)).routes(routes!(get_hours))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Span {
    /// From, included; one hour before the end when absent.
    #[param(value_type = Option<DateTime<Utc>>)]
    start_time: Option<Time>,
    /// To, not included; now when absent.
    #[param(value_type = Option<DateTime<Utc>>)]
    end_time: Option<Time>,
    /// Up to 10,000; 1,000 when absent.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<i64>,
    /// `next` of the page before, with the same times.
    cursor: Option<String>,
}

/// From when to when; without `start` so long before the end.
fn span(
    start: Option<Time>,
    end: Option<Time>,
    length: TimeDelta,
) -> Result<(DateTime<Utc>, DateTime<Utc>), Problem> {
    let end = end.map_or_else(Utc::now, |end| end.0);
    let start = start.map_or_else(|| end - length, |start| start.0);
    let wrong = |message| Problem::unprocessable().field("start_time", message);
    if start > end {
        return Err(wrong("must not be after end_time"));
    }
    if end.signed_duration_since(start) > SPAN_MAX {
        return Err(wrong("must be at most 7 days before end_time"));
    }
    Ok((start, end))
}

impl Span {
    fn limit(&self) -> Result<i64, Problem> {
        Some(self.limit.unwrap_or(LIMIT_DEFAULT))
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| Problem::unprocessable().field("limit", "must be between 1 and 10000"))
    }
}

/// A driver's way.
#[derive(Serialize, ToSchema)]
struct Route {
    #[schema(value_type = i64, minimum = 1)]
    driver_id: DriverId,
    /// Oldest first.
    locations: Vec<OrderLocation>,
    start_time: DateTime<Utc>,
    end_time: DateTime<Utc>,
    /// Cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The forms a route is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    GeoJson,
    Gpx,
    Csv,
}

impl Format {
    /// The first known type that the client names wins; none named or `*/*` is JSON.
    fn accepted(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Self::Json) };
        let accept = accept.to_str().unwrap_or_default();
        let named = accept.split(',').find_map(|range| {
            match range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
                "application/json" | "application/*" | "*/*" => Some(Self::Json),
                "application/geo+json" => Some(Self::GeoJson),
                "application/gpx+xml" => Some(Self::Gpx),
                "text/csv" | "text/*" => Some(Self::Csv),
                _ => None,
            }
        });
        named.ok_or_else(|| {
            Problem::generic(axum::http::StatusCode::NOT_ACCEPTABLE).detail(
                "A route is application/json, application/geo+json, application/gpx+xml or text/csv.",
            )
        })
    }
}

/// A driver's stored positions
///
/// Every accepted position is here once, at the time the device recorded it.
#[utoipa::path(
    get, path = "/drivers/{driver_id}/route", operation_id = "get_driver_route", tag = "drivers",
    params(("driver_id" = i64, Path, minimum = 1), Span),
    responses(
        (status = 200, description = "Oldest first", content(
            (Route = "application/json"),
            (String = "application/geo+json"),
            (String = "application/gpx+xml"),
            (String = "text/csv"),
        )),
        (status = 404, description = "Another driver"),
        (status = 406, description = "None of the four formats"),
        (status = 422, description = "A parameter is out of range"),
        (status = 429, description = "Too many reports of the caller at a time"),
        (status = 503, description = "Too many reports at a time, or the database is away"),
    ),
)]
async fn get_route(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(driver_id): Path<DriverId>,
    Query(asked): Query<Span>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    only_self(&caller, driver_id)?;
    let format = Format::accepted(&headers)?;
    let (start_time, end_time) = span(asked.start_time, asked.end_time, TimeDelta::hours(1))?;
    let limit = asked.limit()?;
    let cursor = match &asked.cursor {
        Some(cursor) => cursor
            .parse()
            .map_err(|_| Problem::unprocessable().field("cursor", "is not one that was given"))?,
        None => RouteCursor::start(start_time),
    };
    let _report = app.reports.begin(&caller).await?;
    let positions = app
        .history
        .route(driver_id, cursor, end_time, limit)
        .await
        .map_err(|error| postgres::problem(&error))?;
    let next = (positions.len() as i64 == limit)
        .then(|| positions.last().map(|last| RouteCursor::behind(last).to_string()))
        .flatten();
    let (content_type, body) = match format {
        Format::Json => {
            let locations = positions.iter().map(OrderLocation::of).collect();
            let route = Route { driver_id, locations, start_time, end_time, next };
            return Ok(Json(route).into_response());
        }
        Format::GeoJson => ("application/geo+json", geojson(driver_id, &positions)),
        Format::Gpx => ("application/gpx+xml", gpx(driver_id, &positions)),
        Format::Csv => ("text/csv; charset=utf-8", csv(&positions)),
    };
    let mut response = ([(header::CONTENT_TYPE, content_type)], body).into_response();
    // The other formats have no room for a cursor.
    if let Some(link) = next.and_then(|next| format!("<?cursor={next}>; rel=\"next\"").parse().ok())
    {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

fn time(position: &Position) -> String {
    position.recorded_at().to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// GPX 1.1: one track of one segment.
fn gpx(driver_id: DriverId, positions: &[Position]) -> String {
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <gpx version=\"1.1\" creator=\"Swift Eats\" xmlns=\"http://www.topografix.com/GPX/1/1\">\n\
         <trk><name>driver {driver_id}</name><trkseg>\n"
    );
    for position in positions {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<trkpt lat=\"{}\" lon=\"{}\"><time>{}</time></trkpt>",
            position.latitude(),
            position.longitude(),
            time(position)
        );
    }
    out.push_str("</trkseg></trk>\n</gpx>\n");
    out
}

fn csv(positions: &[Position]) -> String {
    let mut out = "timestamp,latitude,longitude,speed,heading,accuracy,order_id\n".to_owned();
    for position in positions {
        let location = Location::of(position);
        fn number(value: Option<impl ToString>) -> String {
            value.map(|value| value.to_string()).unwrap_or_default()
        }
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{}",
            location.timestamp,
            location.latitude,
            location.longitude,
            number(location.speed),
            number(location.heading),
            number(location.accuracy),
            position.order_id.map(|id| id.to_string()).unwrap_or_default(),
        );
    }
    out
}

/// A driver's hours.
#[derive(Serialize, ToSchema)]
struct Hours {
    #[schema(value_type = i64, minimum = 1)]
    driver_id: DriverId,
    /// Oldest first; an hour without a position is not there.
    hours: Vec<DriverHour>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HoursSpan {
    /// From, included; 24 hours before the end when absent.
    #[param(value_type = Option<DateTime<Utc>>)]
    start_time: Option<Time>,
    /// To, not included; now when absent.
    #[param(value_type = Option<DateTime<Utc>>)]
    end_time: Option<Time>,
}

/// A driver's points and metres by the hour
#[utoipa::path(
    get, path = "/drivers/{driver_id}/hours", operation_id = "get_driver_hours", tag = "drivers",
    params(("driver_id" = i64, Path, minimum = 1), HoursSpan),
    responses(
        (status = 200, description = "Oldest first", body = Hours),
        (status = 404, description = "Another driver"),
        (status = 422, description = "A parameter is out of range"),
        (status = 429, description = "Too many reports of the caller at a time"),
        (status = 503, description = "Too many reports at a time, or the database is away"),
    ),
)]
async fn get_hours(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(driver_id): Path<DriverId>,
    Query(asked): Query<HoursSpan>,
) -> Result<Json<Hours>, Problem> {
    only_self(&caller, driver_id)?;
    let (start, end) = span(asked.start_time, asked.end_time, TimeDelta::hours(24))?;
    let _report = app.reports.begin(&caller).await?;
    let hours = app
        .history
        .hours(driver_id, start, end)
        .await
        .map_err(|error| postgres::problem(&error))?;
    Ok(Json(Hours { driver_id, hours }))
}

#[cfg(test)]
mod tests {
    use contracts::ids::EventId;

    use super::*;

    fn position() -> Position {
        Position {
            driver_id: DriverId::new(7).unwrap(),
            recorded_at_us: 1_700_000_000_123_456,
            seq: 0,
            event_id: EventId(1),
            lat_e7: 377_700_001,
            lon_e7: -1_224_100_000,
            speed_mps: Some(10.0),
            heading_deg: None,
            accuracy_m: None,
            order_id: None,
        }
    }

    #[test]
    fn the_first_known_type_wins() {
        let accepted = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            Format::accepted(&headers).ok()
        };
        assert_eq!(accepted("text/html, application/gpx+xml;q=0.9, */*"), Some(Format::Gpx));
        assert_eq!(accepted("Text/CSV"), Some(Format::Csv));
        assert_eq!(accepted("image/png"), None);
        assert_eq!(Format::accepted(&HeaderMap::new()).ok(), Some(Format::Json));
    }

    #[test]
    fn all_formats_tell_the_same_place_and_time() {
        let driver = DriverId::new(7).unwrap();
        assert_eq!(
            csv(&[position()]).lines().nth(1),
            Some("2023-11-14T22:13:20.123456Z,37.7700001,-122.41,36,,,")
        );
        assert!(gpx(driver, &[position()]).contains(
            "<trkpt lat=\"37.7700001\" lon=\"-122.41\"><time>2023-11-14T22:13:20.123456Z</time>"
        ));
    }
}
