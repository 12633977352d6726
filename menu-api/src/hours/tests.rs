use std::time::{Duration, Instant};

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const LOS_ANGELES: &str = "America/Los_Angeles";

fn hours(text: &str, time_zone: &str) -> Hours {
    let country = if time_zone == LOS_ANGELES { "US" } else { "DE" };
    Hours::parse(text, time_zone, country).unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Everything that is open and begins after `from`, by the changes alone.
fn openings(hours: &Hours, from: &str, count: usize) -> Vec<(String, String)> {
    let mut now = at(from);
    assert!(!hours.is_open(now), "the list begins while it is closed");
    let text = |at: DateTime<Utc>| at.format("%m-%d %H:%M").to_string();
    (0..count)
        .map(|_| {
            let start = hours.next_change(now).unwrap();
            assert!(hours.is_open(start) && !hours.is_open(start - TimeDelta::seconds(1)));
            let end = hours.next_change(start).unwrap();
            assert!(!hours.is_open(end) && hours.is_open(end - TimeDelta::seconds(1)));
            assert_eq!(hours.interval(start), Some((start, end)));
            assert_eq!(hours.interval(end - TimeDelta::seconds(1)), Some((start, end)));
            now = end;
            (text(start), text(end))
        })
        .collect()
}

#[track_caller]
fn assert_openings(text: &str, time_zone: &str, from: &str, expected: &[(&str, &str)]) {
    let found = openings(&hours(text, time_zone), from, expected.len());
    let found: Vec<_> = found.iter().map(|(start, end)| (start.as_str(), end.as_str())).collect();
    assert_eq!(found, expected, "{text} in {time_zone}, in UTC");
}

#[test]
fn a_week_of_a_restaurant_with_a_break_and_long_nights() {
    // Friday, 20 November 2026, 04:00 in Los Angeles (UTC-8); Thursday the 26th is Thanksgiving.
    assert_openings(
        "Mo-Fr 11:00-14:00,17:00-22:00; Sa-Su 17:00-02:00; PH off",
        LOS_ANGELES,
        "2026-11-20T12:00:00Z",
        &[
            ("11-20 19:00", "11-20 22:00"),
            ("11-21 01:00", "11-21 06:00"),
            ("11-22 01:00", "11-22 10:00"),
            // Sunday night ends on Monday, which has other hours.
            ("11-23 01:00", "11-23 10:00"),
            ("11-23 19:00", "11-23 22:00"),
            ("11-24 01:00", "11-24 06:00"),
            ("11-24 19:00", "11-24 22:00"),
            ("11-25 01:00", "11-25 06:00"),
            ("11-25 19:00", "11-25 22:00"),
            ("11-26 01:00", "11-26 06:00"),
            ("11-27 19:00", "11-27 22:00"),
        ],
    );
}

#[test]
fn nights_belong_to_the_evening_on_which_they_began() {
    // Friday, 27 November 2026, noon.
    assert_openings(
        "Mo-Th 17:00-02:00; Fr-Sa 17:00-03:00; Su off",
        LOS_ANGELES,
        "2026-11-27T20:00:00Z",
        &[
            ("11-28 01:00", "11-28 11:00"),
            // Ends on Sunday, which is off, and nothing begins on Sunday.
            ("11-29 01:00", "11-29 11:00"),
            ("12-01 01:00", "12-01 10:00"),
        ],
    );
    // Nothing begins on Christmas, a Friday, but Thursday's night goes on until two.
    assert_openings(
        "17:00-02:00; PH off",
        LOS_ANGELES,
        "2026-12-24T20:00:00Z",
        &[("12-25 01:00", "12-25 10:00"), ("12-27 01:00", "12-27 10:00")],
    );
}

#[test]
fn clocks_go_forward() {
    // Los Angeles, 8 March 2026: 02:00 UTC-8 becomes 03:00 UTC-7 at 10:00Z.
    let from = "2026-03-07T20:00:00Z";
    let saturday_night = |text, end| {
        assert_openings(text, LOS_ANGELES, from, &[("03-08 01:00", end)]);
    };
    saturday_night("17:00-01:30", "03-08 09:30");
    saturday_night("17:00-02:00", "03-08 10:00");
    saturday_night("17:00-02:30", "03-08 10:00");
    saturday_night("17:00-03:00", "03-08 10:00");
    saturday_night("17:00-04:00", "03-08 11:00");
    assert_openings(
        "11:00-22:00",
        LOS_ANGELES,
        "2026-03-07T12:00:00Z",
        &[("03-07 19:00", "03-08 06:00"), ("03-08 18:00", "03-09 05:00")],
    );
    // Opens when the clocks skip its time; an opening that is skipped is none.
    assert_openings("Su 02:15-06:00", LOS_ANGELES, from, &[("03-08 10:00", "03-08 13:00")]);
    assert_openings("Su 02:15-02:45", LOS_ANGELES, from, &[("03-15 09:15", "03-15 09:45")]);
    // Berlin, 29 March 2026: 02:00 UTC+1 becomes 03:00 UTC+2 at 01:00Z.
    let from = "2026-03-28T12:00:00Z";
    assert_openings("18:00-04:00", "Europe/Berlin", from, &[("03-28 17:00", "03-29 02:00")]);
    assert_openings("18:00-02:00", "Europe/Berlin", from, &[("03-28 17:00", "03-29 01:00")]);
}

#[test]
fn clocks_go_back() {
    // Los Angeles, 1 November 2026: 02:00 UTC-7 becomes 01:00 UTC-8 at 09:00Z.
    let from = "2026-10-31T20:00:00Z";
    let saturday_night = |text, end| {
        assert_openings(text, LOS_ANGELES, from, &[("11-01 00:00", end)]);
    };
    saturday_night("17:00-00:30", "11-01 07:30");
    saturday_night("17:00-01:30", "11-01 09:30");
    saturday_night("17:00-02:00", "11-01 10:00");
    saturday_night("17:00-03:00", "11-01 11:00");
    assert_openings(
        "11:00-22:00",
        LOS_ANGELES,
        "2026-10-31T12:00:00Z",
        &[("10-31 18:00", "11-01 05:00"), ("11-01 19:00", "11-02 06:00")],
    );
    // Berlin, 25 October 2026: 03:00 UTC+2 becomes 02:00 UTC+1 at 01:00Z.
    let from = "2026-10-24T12:00:00Z";
    assert_openings("18:00-04:00", "Europe/Berlin", from, &[("10-24 16:00", "10-25 03:00")]);
    assert_openings("18:00-02:30", "Europe/Berlin", from, &[("10-24 16:00", "10-25 01:30")]);
    assert_openings("18:00-02:00", "Europe/Berlin", from, &[("10-24 16:00", "10-25 01:00")]);
}

#[test]
fn clocks_change_at_midnight() {
    // Cairo, 24 April 2026: 00:00 UTC+2 becomes 01:00 UTC+3 at 22:00Z, so the day has no midnight;
    // 30 October 2026: 00:00 UTC+3 becomes 23:00 UTC+2 at 21:00Z, so its eve is shown twice.
    let cairo = "Africa/Cairo";
    let from = "2026-04-23T12:00:00Z";
    assert_openings("20:00-00:00", cairo, from, &[("04-23 18:00", "04-23 22:00")]);
    assert_openings("20:00-00:30", cairo, from, &[("04-23 18:00", "04-23 22:00")]);
    assert_openings("Fr 00:00-06:00", cairo, from, &[("04-23 22:00", "04-24 03:00")]);
    let from = "2026-10-29T12:00:00Z";
    assert_openings("20:00-23:30", cairo, from, &[("10-29 17:00", "10-29 21:30")]);
    assert_openings("20:00-00:00", cairo, from, &[("10-29 17:00", "10-29 22:00")]);
    assert_openings("Fr 00:00-06:00", cairo, from, &[("10-29 22:00", "10-30 04:00")]);
}

#[test]
fn holidays_are_those_of_the_country() {
    // 3 October 2028 is a Tuesday, 26 December one too; both are holidays in Germany only.
    for (day, time_zone, open) in [
        ("2028-10-03", "Europe/Berlin", false),
        ("2028-12-26", "Europe/Berlin", false),
        ("2028-10-03", LOS_ANGELES, true),
        ("2028-12-26", LOS_ANGELES, true),
        // Thanksgiving.
        ("2028-11-23", LOS_ANGELES, false),
        ("2028-11-23", "Europe/Berlin", true),
        // Women's Day is a holiday in Berlin and not in Munich: not in the whole country.
        ("2028-03-08", "Europe/Berlin", true),
    ] {
        let hours = hours("Mo-Fr 00:00-24:00; PH off", time_zone);
        let zone: Tz = time_zone.parse().unwrap();
        let noon = day.parse::<NaiveDate>().unwrap().and_hms_opt(12, 0, 0).unwrap();
        let noon = zone.from_local_datetime(&noon).unwrap().to_utc();
        assert_eq!(hours.is_open(noon), open, "{day} {time_zone}");
    }
    // A country that has no known holidays has none.
    let hours = Hours::parse("Mo-Su 00:00-24:00; PH off", "UTC", "ZZ").unwrap();
    assert!(hours.is_open(at("2026-12-25T12:00:00Z")));
}

#[test]
fn always_and_never() {
    let now = at("2026-11-20T12:34:56Z");
    for text in ["24/7", "00:00-24:00", "Mo-Su", "12:00-36:00; Sa 12:00-40:00", "10:00-10:00"] {
        let hours = hours(text, LOS_ANGELES);
        assert!(hours.is_open(now), "{text}");
        assert_eq!(hours.next_change(now), None, "{text}");
        assert_eq!(hours.interval(now), Some((now, now + TimeDelta::days(7))), "{text}");
    }
    for text in [
        "off",
        "closed",
        "24/7 off",
        "unknown",
        "\"on appointment\"",
        "2020 Mo-Su 10:00-12:00",
        "PH off",
    ] {
        let hours = hours(text, LOS_ANGELES);
        assert!(!hours.is_open(now), "{text}");
        assert_eq!(hours.next_change(now), None, "{text}");
        assert_eq!(hours.interval(now), None, "{text}");
    }
    // Open all week but for one hour: from the last break to the next.
    let hours = hours("24/7; Mo 03:00-04:00 off", "UTC");
    let interval = (at("2026-11-16T04:00:00Z"), at("2026-11-23T03:00:00Z"));
    assert_eq!(hours.interval(now), Some(interval));
    assert_eq!(
        hours.interval(at("2026-11-23T03:00:00Z")),
        Some((at("2026-11-23T04:00:00Z"), at("2026-11-30T03:00:00Z"),))
    );
}

#[test]
fn looks_only_so_far_ahead() {
    let hours = hours("2026 Dec 24 10:00-12:00", "UTC");
    let opens = at("2026-12-24T10:00:00Z");
    let closes = at("2026-12-24T12:00:00Z");
    let second = TimeDelta::seconds(1);
    assert_eq!(hours.next_change(opens - TimeDelta::days(14)), Some(opens));
    assert_eq!(hours.next_change(opens - TimeDelta::days(14) - second), None);
    assert_eq!(hours.interval(opens - TimeDelta::days(7)), Some((opens, closes)));
    assert_eq!(hours.interval(opens - TimeDelta::days(7) - second), None);
    assert_eq!(hours.next_change(closes), None);
    for far in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
        assert!(!hours.is_open(far));
        assert_eq!(hours.next_change(far), None);
        assert_eq!(hours.interval(far), None);
    }
}

#[test]
fn comments_do_not_part_what_is_open() {
    let hours =
        hours("10:00-12:00 open \"bar\", 12:00-14:00 open \"kitchen\" || \"call us\"", "UTC");
    let day = at("2026-11-20T10:00:00Z");
    assert_eq!(hours.interval(day), Some((day, at("2026-11-20T14:00:00Z"))));
    assert!(!hours.is_open(at("2026-11-20T15:00:00Z")));
}

#[test]
fn says_what_cannot_be_read() {
    let long = "Mo 10:00-12:00; ".repeat(70);
    let brackets = vec!["Jan Mo[1]"; 90].join(",");
    for (text, message) in [
        ("", "must not be empty; write it as"),
        ("Mo-Fr 10:00-12:00;", "ends too early; write it as"),
        ("Mo-Fr 9am-5pm", "is not understood from \"9am-5pm\" on; write it as"),
        ("täglich 10:00-12:00", "is not understood from \"täglich 10:00-12:00\" on"),
        ("Mo 10:00", "ends too early"),
        ("10:00-49:00", "is not understood from \"49:00\" on"),
        ("2030-2020 10:00-12:00", "cannot be used: Inverted year ranges"),
        ("sunrise-12:00", "must give times of day, not sunrise"),
        ("10:00-(sunset+23:59)", "must give times of day, not sunrise"),
        ("10:00-16:00/01:30", "must give times from and until"),
        ("PH +1 day 10:00-12:00", "has a form that is not supported"),
        ("Mo-Fr\n10:00-12:00", "must be one line"),
        (&long, "must be at most 1000 bytes"),
        (&brackets, "must have at most 6 brackets"),
    ] {
        let error = Hours::parse(text, "UTC", "US").unwrap_err();
        assert_eq!(error.field, "opening_hours");
        assert!(error.message.starts_with(message), "{text}: {}", error.message);
        assert!(!error.message.contains('\n'));
    }
    for zone in ["", "Mars/Olympus", "america/los_angeles", "+02:00"] {
        assert_eq!(Hours::parse("24/7", zone, "US").unwrap_err().field, "time_zone");
    }
    for country in ["", "us", "USA", "U1", "ÄÖ"] {
        assert_eq!(Hours::parse("24/7", "UTC", country).unwrap_err().field, "country");
    }
}

/// Whatever was read must answer, soon, and not contradict itself.
fn check_answers(hours: &Hours, now: DateTime<Utc>) -> Result<(), TestCaseError> {
    let open = hours.is_open(now);
    let second = TimeDelta::seconds(1);
    match hours.next_change(now) {
        Some(change) => {
            prop_assert!(change > now && change <= now + CHANGE_WITHIN);
            prop_assert_eq!(hours.is_open(change), !open);
            prop_assert_eq!(hours.is_open(change - second), open);
            let halfway = now + (change - now) / 2;
            prop_assert_eq!(hours.is_open(halfway), open);
            prop_assert_eq!(hours.next_change(halfway), Some(change));
        }
        None => prop_assert_eq!(hours.is_open(now + TimeDelta::days(10)), open),
    }
    match hours.interval(now) {
        Some((start, end)) => {
            prop_assert!(start < end && end > now);
            prop_assert_eq!(start <= now, open);
            prop_assert!(start <= now + OPEN_WITHIN && start >= now - OPEN_WITHIN);
            prop_assert!(hours.is_open(start) && hours.is_open(end - second));
            prop_assert!(end == start.max(now) + OPEN_WITHIN || !hours.is_open(end));
        }
        None => {
            prop_assert!(!open);
            prop_assert!(hours.next_change(now).is_none_or(|change| change > now + OPEN_WITHIN));
        }
    }
    Ok(())
}

/// Pieces of the notation in any order: most of it is read up to somewhere, some of it whole.
fn pieces() -> impl Strategy<Value = String> {
    let piece = select(
        concat!(
            "Mo~Tu-Th~Fr,Sa~Su~PH~SH~PH +1 day~Mo[1]~Mo[-1]~Fr[2-4]~Sa[1],~Jan~Feb 29~",
            "Dec 24-Jan 2~Mar-Oct~easter~easter -2 days~2026~2020-2030/2~2025+~",
            "week 10-20/2~week 53~Jan Mo[1]~Jan Mo[1],~Oct Su[-1] +9999 days~10:00-12:00~",
            "17:00-02:00~22:00-30:00~00:00-48:00~17:00+~9:00-9:00~23:59-00:01~",
            "sunrise-sunset~(dusk+23:00)-(dawn-05:00)~10:00-16:00/30~24/7~off~closed~open~",
            "unknown~\"comment\"~; ~, ~ || ~ ~,~-~:~+",
        )
        .split('~')
        .collect::<Vec<_>>(),
    );
    vec(piece, 1..20).prop_map(|pieces| pieces.concat())
}

/// Well-formed rules, of which nearly all are read.
fn rules() -> impl Strategy<Value = String> {
    let days = select(
        concat!(
            "~Mo ~Tu-Th ~Fr,Sa ~Sa-Mo ~PH ~SH ~Mo,PH ~Mo[1] ~Mo[-1] ~PH -1 day ~Jan ~",
            "Feb 29 ~Dec 24-Jan 2 ~Nov-Feb ~easter -2 days ~easter-easter +9999 days ~",
            "2026 ~2026-2028 Mo ~week 1-53/2 ~Nov Su[1] ~Nov Su[-1] -9999 days ~",
            "2026 Nov 1 ~2026 Nov 1+ ~Nov 1-Nov 9 Mo ",
        )
        .split('~')
        .collect::<Vec<_>>(),
    );
    let times = select(vec![
        "",
        "10:00-12:00",
        "11:00-14:00,17:00-22:00",
        "17:00-02:00",
        "22:00-30:00",
        "00:00-48:00",
        "00:00-24:00",
        "9:00-9:00",
        "23:59-00:01",
        "01:15-01:45",
        "02:15-02:45",
        "17:00+",
    ]);
    let kind = select(vec!["", " open", " off", " unknown", " \"x\""]);
    let rule = (days, times, kind).prop_map(|(days, times, kind)| format!("{days}{times}{kind}"));
    let separator = select(vec!["; ", ", ", " || "]);
    vec((rule, separator), 1..8).prop_map(|rules| {
        let mut text: String = rules.iter().flat_map(|(rule, end)| [rule.trim(), end]).collect();
        text.truncate(text.len() - rules[rules.len() - 1].1.len());
        text
    })
}

/// Instants, many of them close to where clocks are changed.
fn instants() -> impl Strategy<Value = DateTime<Utc>> {
    let near = select(vec!["2026-03-08T10:00:00Z", "2026-11-01T09:00:00Z", "2026-10-29T21:00:00Z"]);
    prop_oneof![
        (1_600_000_000..2_000_000_000_i64).prop_map(|at| DateTime::from_timestamp(at, 0).unwrap()),
        (near, -300_000..300_000_i64).prop_map(|(near, by)| at(near) + TimeDelta::seconds(by)),
    ]
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in prop_oneof!["\\PC{0,60}", ".{0,1100}", pieces()], now in instants()) {
        let began = Instant::now();
        if let Ok(hours) = Hours::parse(&text, LOS_ANGELES, "US") {
            check_answers(&hours, now)?;
        }
        prop_assert!(began.elapsed() < Duration::from_secs(5), "{text} takes for ever");
    }

    #[test]
    fn rules_answer_without_contradiction(
        text in rules(),
        zone in select(vec![LOS_ANGELES, "Europe/Berlin", "Africa/Cairo", "Australia/Lord_Howe", "UTC"]),
        now in instants(),
    ) {
        let hours = Hours::parse(&text, zone, "US");
        prop_assume!(hours.is_ok());
        check_answers(&hours.unwrap(), now)?;
    }

    /// Against the plainest reading of a week: of the rules that name a weekday the last one holds.
    #[test]
    fn weeks_are_as_written(
        rules in vec((0..7_u8, 0..7_u8, 0..288_u16, 1..280_u16), 1..6),
        now in instants(),
    ) {
        let minutes = |start: u16, length: u16| (start * 5, start * 5 + length * 5);
        let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        let day = |day: u8| ["Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"][usize::from(day)];
        let text: Vec<String> = rules
            .iter()
            .map(|&(first, last, start, length)| {
                let (start, end) = minutes(start, length);
                format!("{}-{} {}-{}", day(first), day(last), clock(start), clock(end))
            })
            .collect();
        let open_on = |weekday: Weekday, minute: u16| {
            let weekday = u8::try_from(weekday.num_days_from_monday()).unwrap();
            let rule = rules.iter().rev().find(|&&(first, last, ..)| {
                (7 + weekday - first) % 7 <= (7 + last - first) % 7
            });
            rule.is_some_and(|&(_, _, start, length)| {
                let (start, end) = minutes(start, length);
                (start..end).contains(&minute)
            })
        };
        let minute = u16::try_from(now.time().signed_duration_since(NaiveTime::MIN).num_minutes()).unwrap();
        let expected = open_on(now.weekday(), minute)
            || open_on(now.weekday().pred(), minute + DAY_MINUTES);
        let hours = Hours::parse(&text.join("; "), "UTC", "US");
        prop_assert!(hours.is_ok(), "{text:?}: {hours:?}");
        prop_assert_eq!(hours.unwrap().is_open(now), expected, "{:?}", text);
    }
}
