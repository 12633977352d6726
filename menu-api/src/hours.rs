//! Opening hours: the notation of OpenStreetMap, read in the time zone of the place.
//!
//! The `opening-hours` crate reads the notation and says which rules hold on which day. Three
//! things are done here instead, because its answers do not suit a place that takes orders:
//!
//! - What is open past midnight belongs to the evening on which it began. The crate drops the hours
//!   after midnight when another rule holds on the next day, so that `Mo-Fr 11:00-22:00; Sa-Su
//!   17:00-02:00` would close at midnight on Sundays. See [`squeeze`].
//! - Days are turned into instants by [`Hours::instant`], so that "is it open" and "when does it
//!   change" cannot contradict each other on the nights on which clocks are changed.
//! - Text that the crate would take minutes to read, or times that it would invent (sunset without
//!   a position), are refused.
//!
//! Where the notation is vague: `17:00+` ends at midnight, `unknown` is closed, a rule that is
//! nothing but a comment is unknown, and `PH` are the holidays of the whole country, not those of
//! its regions.

use std::{ops::Range, sync::Arc};

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc, Weekday};
use chrono_tz::{GapInfo, Tz};
use opening_hours::{Context, OpeningHours, RuleKind, localization::Country};
use opening_hours_syntax::{
    Error, ExtendedTime,
    rules::{
        OpeningHoursExpression, RuleOperator, RuleSequence,
        day::WeekDayRange,
        time::{Time, TimeSelector, TimeSpan},
    },
};

use crate::invalid::Invalid;

/// The longest text, in bytes: the time to read and to evaluate grows with it.
pub const OPENING_HOURS_MAX: usize = 1_000;
/// Enumerations such as `Jan Mo[1],Feb Mo[1]`: the crate takes three times as long for each further
/// one, and a hundred of them fit into the text.
const ENUMERATIONS_MAX: usize = 6;
/// The furthest change that is looked for.
const CHANGE_WITHIN: TimeDelta = TimeDelta::days(14);
/// The furthest opening that is looked for, and the longest time that is said to be open at once.
const OPEN_WITHIN: TimeDelta = TimeDelta::days(7);
const DAY_MINUTES: u16 = 24 * 60;
const HINT: &str =
    "write it as in OpenStreetMap: Mo-Fr 11:00-14:00,17:00-22:00; Sa-Su 17:00-02:00; PH off";

/// When a place is open. Cheap to clone; the same in all threads.
#[derive(Debug, Clone)]
pub struct Hours {
    /// The rules, on days whose minutes are numbers of `bounds`.
    squeezed: OpeningHours,
    /// Minutes after midnight, rising, up to 48:00.
    bounds: Arc<[u16]>,
    time_zone: Tz,
}

/// From when up to before when.
type Span = (DateTime<Utc>, DateTime<Utc>);

impl Hours {
    /// Reads opening hours, an IANA time zone and a country code (two capital letters; the public
    /// and school holidays of many countries are known, of others there are none).
    ///
    /// # Errors
    /// Names the field that cannot be read, and where.
    pub fn parse(opening_hours: &str, time_zone: &str, country: &str) -> Result<Self, Invalid> {
        let time_zone = time_zone.parse().map_err(|_| {
            Invalid::new("time_zone", "must be an IANA name, such as America/Los_Angeles")
        })?;
        if country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(Invalid::new("country", "must be two capital letters, such as US"));
        }
        let (squeezed, bounds) =
            read(opening_hours).map_err(|message| Invalid::new("opening_hours", message))?;
        let holidays = country.parse().map(Country::holidays).unwrap_or_default();
        let squeezed = squeezed.with_context(Context::default().with_holidays(holidays));
        Ok(Self { squeezed, bounds: bounds.into(), time_zone })
    }

    /// Whether it is open.
    pub fn is_open(&self, at: DateTime<Utc>) -> bool {
        self.spans(at, TimeDelta::zero(), TimeDelta::zero())
            .find(|(_, end)| *end > at)
            .is_some_and(|(start, _)| start <= at)
    }

    /// The first instant after `at` at which it opens or closes; none when that is more than 14
    /// days away.
    pub fn next_change(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (start, end) =
            self.spans(at, TimeDelta::zero(), CHANGE_WITHIN).find(|(_, end)| *end > at)?;
        let change = if start > at { start } else { end };
        (change <= at + CHANGE_WITHIN).then_some(change)
    }

    /// The time around `at` in which it is open without a break, from its beginning (or `at` when
    /// that is more than 7 days ago) up to before its end; else the next one that begins within 7
    /// days. Cut off 7 days after `at`, or after it begins.
    pub fn interval(&self, at: DateTime<Utc>) -> Option<Span> {
        let (start, end) =
            self.spans(at, OPEN_WITHIN, OPEN_WITHIN * 2).find(|(_, end)| *end > at)?;
        if start > at + OPEN_WITHIN {
            return None;
        }
        let start = if start < at - OPEN_WITHIN { at } else { start };
        Some((start, end.min(start.max(at) + OPEN_WITHIN)))
    }

    /// The times in which it is open, in order, neither touching nor overlapping: complete between
    /// `before` ahead of `at` and `after` behind it, and some of those around.
    fn spans(&self, at: DateTime<Utc>, before: TimeDelta, after: TimeDelta) -> Spans<'_> {
        // The calendar ends somewhere, and no restaurant outlives it.
        let at = if (1970..9000).contains(&at.year()) { at } else { DateTime::UNIX_EPOCH };
        let day = |at: DateTime<Utc>| at.with_timezone(&self.time_zone).date_naive();
        // Two days earlier: one for the hours after midnight, and one because an instant that
        // shows a new date for the first time can count as the day before (see `instant`).
        Spans {
            hours: self,
            day: day(at - before) - Days::new(2),
            last: day(at + after) + Days::new(1),
            found: Vec::new(),
        }
    }

    /// The instant at which clocks show so many minutes after the midnight with which `day` begins.
    ///
    /// A time that they show twice is the second, so that a place that closes in that hour stays
    /// open rather than closing twice; one that they skip is the moment at which they skip it. Thus
    /// later minutes are never earlier instants.
    fn instant(&self, day: NaiveDate, minutes: u16) -> DateTime<Utc> {
        let local = day.and_time(NaiveTime::MIN) + TimeDelta::minutes(minutes.into());
        if let Some(instant) = self.time_zone.from_local_datetime(&local).latest() {
            return instant.to_utc();
        }
        GapInfo::new(&local, &self.time_zone)
            .and_then(|gap| gap.end)
            .map_or_else(|| local.and_utc(), |end| end.to_utc())
    }

    /// Opening and closing of what begins on `day`, in minutes after its midnight.
    fn minutes(&self, day: NaiveDate) -> impl Iterator<Item = (u16, u16)> {
        let bound = |number: ExtendedTime| {
            self.bounds.get(usize::from(number.mins_from_midnight())).copied()
        };
        self.squeezed
            .schedule_at(day)
            .into_iter()
            .filter(|range| range.kind == RuleKind::Open)
            .filter_map(move |open| Some((bound(open.range.start)?, bound(open.range.end)?)))
    }
}

/// What is open from day to day, merged.
struct Spans<'a> {
    hours: &'a Hours,
    day: NaiveDate,
    last: NaiveDate,
    /// In order and disjoint; days still to come can only add to those that reach the next day.
    found: Vec<Span>,
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        while self.day <= self.last {
            let next_day = self.hours.instant(self.day, 0);
            if self.found.first().is_some_and(|(_, end)| *end < next_day) {
                break;
            }
            for (start, end) in self.hours.minutes(self.day) {
                let span = (self.hours.instant(self.day, start), self.hours.instant(self.day, end));
                if span.0 < span.1 {
                    self.found.push(span);
                }
            }
            self.found.sort_unstable();
            self.found.dedup_by(|later, earlier| {
                let touch = later.0 <= earlier.1;
                if touch {
                    earlier.1 = earlier.1.max(later.1);
                }
                touch
            });
            self.day = self.day + Days::new(1);
        }
        if self.found.is_empty() { None } else { Some(self.found.remove(0)) }
    }
}

/// Reads the notation: the rules on squeezed days, and what their minutes stand for.
fn read(text: &str) -> Result<(OpeningHours, Vec<u16>), String> {
    if text.len() > OPENING_HOURS_MAX {
        return Err("must be at most 1000 bytes".into());
    }
    if text.chars().any(char::is_control) {
        return Err("must be one line".into());
    }
    if text.matches("],").count() > ENUMERATIONS_MAX {
        return Err("must have at most 6 brackets with a comma after them".into());
    }
    let text = &text.split_whitespace().collect::<Vec<_>>().join(" ");
    let read = opening_hours_syntax::parse(text).map_err(|error| explain(text, &error))?;
    let says_open = text.contains("24/7") || text.to_ascii_lowercase().contains("open");
    let (squeezed, bounds) = squeeze(read, says_open)?;
    // The crate makes its evaluator from text only, and writes some rare rules (`PH +1 day`) so that
    // it does not read the same again.
    squeezed
        .to_string()
        .parse::<OpeningHours>()
        .ok()
        .filter(|reread| *reread.get_expression() == squeezed)
        .map(|reread| (reread, bounds))
        .ok_or_else(|| format!("has a form that is not supported; {HINT}"))
}

/// Replaces every time of day by its number among all times of day of the expression, which never
/// reaches 24:00.
///
/// Thus no rule reaches into another day, and which rule overrides which is decided among the rules
/// of the day on which an opening begins, however long it lasts. A rule that closes a whole day
/// closes all that begins on it.
fn squeeze(
    mut read: OpeningHoursExpression,
    says_open: bool,
) -> Result<(OpeningHoursExpression, Vec<u16>), String> {
    let mut bounds = vec![0];
    for rule in &mut read.rules {
        let only_comment = !rule.comment.is_empty() && rule.is_constant() && !says_open;
        if only_comment && rule.kind == RuleKind::Open {
            rule.kind = RuleKind::Unknown;
        }
        // Comments would keep apart what is open in the same way.
        rule.comment = "".into();
        if rule.operator == RuleOperator::Additional && rule.day_selector.is_empty() {
            // As the crate writes it, so that it reads the same again.
            rule.day_selector.weekday.push(WeekDayRange::Fixed {
                range: Weekday::Mon..=Weekday::Sun,
                offset: 0,
                nth_from_start: [true; 5],
                nth_from_end: [true; 5],
            });
        }
        for span in &rule.time_selector.spans {
            bounds.extend(<[u16; 2]>::from(fixed(span)?));
        }
    }
    bounds.sort_unstable();
    bounds.dedup();
    for rule in &mut read.rules {
        rule.time_selector = squeeze_rule(rule, &bounds)?;
    }
    Ok((read, bounds))
}

fn squeeze_rule(rule: &RuleSequence, bounds: &[u16]) -> Result<TimeSelector, String> {
    let whole_day = rule.time_selector == TimeSelector::default();
    if whole_day && rule.kind != RuleKind::Open {
        return Ok(TimeSelector::default());
    }
    let number = |minutes: u16| {
        let number = bounds.partition_point(|bound| *bound < minutes);
        u16::try_from(number)
            .ok()
            .filter(|number| *number < DAY_MINUTES)
            .and_then(ExtendedTime::from_mins_from_midnight)
            .ok_or("has too many times of day")
    };
    let spans = rule
        .time_selector
        .spans
        .iter()
        .map(|span| {
            let (start, end) = fixed(span)?;
            Ok(TimeSpan::fixed_range(number(start)?, number(end)?))
        })
        .collect::<Result<_, String>>()?;
    Ok(TimeSelector::new(spans))
}

/// Minutes after midnight from and up to which a rule holds; an end that is not after the beginning
/// is on the next day.
fn fixed(span: &TimeSpan) -> Result<(u16, u16), String> {
    let Range { start: Time::Fixed(start), end: Time::Fixed(end) } = span.range else {
        return Err("must give times of day, not sunrise, sunset, dawn or dusk".into());
    };
    if span.repeats.is_some() {
        return Err("must give times from and until, not an interval after a slash".into());
    }
    let (start, end) = (start.mins_from_midnight(), end.mins_from_midnight());
    Ok((start, if start < end { end } else { end + DAY_MINUTES }))
}

/// What cannot be read, in plain words. The crate's own are a drawing of several lines, of which
/// the column is of use: ` --> 1:7`.
fn explain(text: &str, error: &Error) -> String {
    if !matches!(error, Error::Syntax(_)) {
        return format!("cannot be used: {error}");
    }
    let drawn = error.to_string();
    let column = drawn
        .lines()
        .next()
        .and_then(|line| line.rsplit(':').next()?.trim().parse::<usize>().ok())
        .unwrap_or(1);
    let rest: String = text.chars().skip(column.saturating_sub(1)).take(20).collect();
    if text.is_empty() {
        format!("must not be empty; {HINT}")
    } else if rest.is_empty() {
        format!("ends too early; {HINT}")
    } else {
        format!("is not understood from \"{rest}\" on; {HINT}")
    }
}

#[cfg(test)]
mod tests;
