//! The table: every row, what is run for it, and how good it should be.
//!
//! Bars and aims are for 2 cores that also run the generator, on stores that write everything down
//! (`appendfsync always`, `fsync`). Rows that load more than the bar offer a little more than the
//! aim, so that what is achieved is the aim or the most that the machine does; sockets, which do
//! not get as far as their aim here, what they just do: far above it most goes into repeating.

use crate::row::{
    Around::{Logistics, Menu, Services, Stores},
    Figure, Row, Run,
    Unit::{Bytes, Kb, Ms, PerSecond, Percent, Rows, Seconds, Times, Us},
    When, best, number,
};

/// 32 items are about 9 KB of JSON.
const MENU_9_KB: crate::row::Around = Menu { nodes: 1, restaurants: 5_000, items: 32 };
const MENU_60: crate::row::Around = Menu { nodes: 1, restaurants: 5_000, items: 60 };

/// A figure that is only told.
const fn told(what: &'static str, unit: crate::row::Unit, of: Of) -> Figure {
    Figure { what, unit, bar: None, aim: None, of }
}

/// A figure with a bar.
const fn bar(what: &'static str, unit: crate::row::Unit, bar: f64, of: Of) -> Figure {
    Figure { what, unit, bar: Some(bar), aim: None, of }
}

/// A figure with a bar and an aim.
const fn goal(what: &'static str, unit: crate::row::Unit, bar: f64, aim: f64, of: Of) -> Figure {
    Figure { what, unit, bar: Some(bar), aim: Some(aim), of }
}

type Of = fn(&[serde_json::Value]) -> Option<f64>;

const ACCEPT: Figure = told("accepted p99", Ms, |runs| number(runs, 0, "/accept_ms/p99"));
const DRAIN: Figure =
    told("queue empty after", Seconds, |runs| number(runs, runs.len() - 1, "/drain_s"));

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "even",
        path: "2,000 fixes/s of 10,000 drivers, 500 watchers",
        when: When::Always,
        runs: &[Run::new(
            Services,
            "loadtest gps --rate 2000 --drivers 10000 --watchers 500",
            Some((120, 5)),
        )],
        figures: &[
            bar("accepted p99", Ms, 20.0, |runs| number(runs, 0, "/accept_ms/p99")),
            bar("in history p99", Ms, 1_000.0, |runs| number(runs, 0, "/history_lag_ms/p99")),
            bar("at the socket p99", Ms, 50.0, |runs| number(runs, 0, "/push_ms/p99")),
        ],
    },
    Row {
        name: "reports",
        path: "2,000 fixes/s of 10,000 drivers, beside 64 parallel reports of one driver",
        when: When::Always,
        runs: &[Run::new(
            Services,
            "loadtest gps --rate 2000 --drivers 10000 --reports 64",
            Some((60, 5)),
        )],
        figures: &[
            bar("accepted p99", Ms, 20.0, |runs| number(runs, 0, "/accept_ms/p99")),
            bar("in history p99", Ms, 1_000.0, |runs| number(runs, 0, "/history_lag_ms/p99")),
            told("others' reads p99", Ms, |runs| number(runs, 0, "/reports/others_ms/p99")),
            told("reports answered", Rows, |runs| number(runs, 0, "/reports/answered")),
        ],
    },
    Row {
        name: "single",
        path: "GPS, one fix per request, accepted and stored",
        when: When::Always,
        runs: &[
            Run::new(Services, "loadtest gps --rate 30000 --drivers 10000", Some((30, 5))),
            Run::new(Services, "loadtest gps --rate 41000 --drivers 10000", Some((30, 5))),
        ],
        figures: &[
            goal("", PerSecond, 25_000.0, 40_000.0, |runs| best(runs, "/achieved_rate")),
            ACCEPT,
            DRAIN,
        ],
    },
    Row {
        name: "batch",
        path: "GPS, batches of 100",
        when: When::Always,
        runs: &[
            Run::new(
                Services,
                "loadtest gps --rate 80000 --batch 100 --drivers 10000",
                Some((30, 5)),
            ),
            Run::new(
                Services,
                "loadtest gps --rate 153000 --batch 100 --drivers 10000",
                Some((30, 5)),
            ),
        ],
        figures: &[
            goal("", PerSecond, 80_000.0, 150_000.0, |runs| best(runs, "/achieved_rate")),
            ACCEPT,
            DRAIN,
        ],
    },
    Row {
        name: "ws",
        path: "GPS over the drivers' WebSockets, one fix per JSON frame",
        when: When::Always,
        runs: &[
            ws("loadtest gps --rate 41000 --drivers 10000 --transport ws --frames json"),
            ws("loadtest gps --rate 48000 --drivers 10000 --transport ws --frames json"),
        ],
        figures: &WS,
    },
    Row {
        name: "ws-binary",
        path: "GPS over the drivers' WebSockets, one fix per binary frame",
        when: When::Always,
        runs: &[
            ws("loadtest gps --rate 41000 --drivers 10000 --transport ws --frames binary"),
            ws("loadtest gps --rate 55000 --drivers 10000 --transport ws --frames binary"),
        ],
        figures: &WS,
    },
    Row {
        name: "cpu",
        path: "CPU per event of batches, and of XADD, XREADGROUP, COPY and XACK alone",
        when: When::Always,
        runs: &[
            Run::new(
                Services,
                "loadtest gps --rate 80000 --batch 100 --drivers 10000",
                Some((30, 5)),
            ),
            Run::new(Stores, "bench-system bare --rate 80000", Some((20, 3))),
        ],
        figures: &[
            bar("", Us, 15.0, |runs| number(runs, 0, "/cpu_us_per_event/total")),
            Figure {
                what: "of the bare cost",
                unit: Times,
                bar: None,
                aim: Some(1.5),
                of: |runs| {
                    let per_event = |run| number(runs, run, "/cpu_us_per_event/total");
                    Some(per_event(0)? / per_event(1)?)
                },
            },
        ],
    },
    Row {
        name: "device-socket",
        path: "device to socket, 2,000/s of 10,000 drivers, 10,000 sockets",
        when: When::Always,
        runs: &[Run::new(
            Services,
            "loadtest gps --rate 2000 --drivers 10000 --watchers 10000",
            Some((60, 10)),
        )],
        figures: &[goal("p99", Ms, 20.0, 5.0, |runs| number(runs, 0, "/push_ms/p99"))],
    },
    Row {
        name: "sockets",
        path: "the same, 1 % of whom never read",
        when: When::Always,
        runs: &[Run::new(
            Services,
            "loadtest gps --rate 2000 --drivers 10000 --watchers 10000 --slow-watchers 1%",
            Some((60, 5)),
        )],
        figures: &[bar("p99", Ms, 250.0, |runs| number(runs, 0, "/push_ms/p99"))],
    },
    Row {
        name: "push",
        path: "published to socket, 2,000/s, 10,000 sockets (Node ws: 2.1 ms, 46 µs; Socket.IO: 2.4 ms, 70 µs)",
        when: When::Always,
        runs: &[Run::new(Logistics, "loadtest push --sockets 10000 --rate 2000", Some((40, 10)))],
        figures: &[
            bar("p99", Ms, 2.0, |runs| number(runs, 0, "/push_ms/p99")),
            bar("CPU of the service", Us, 40.0, |runs| number(runs, 0, "/cpu_us_per_message")),
        ],
    },
    Row {
        name: "idle-sockets",
        path: "memory of a socket that rests, of 10,000",
        when: When::Always,
        runs: &[Run::new(Logistics, "loadtest push --sockets 10000", Some((40, 0)))],
        figures: &[goal("", Kb, 12.0, 6.0, |runs| number(runs, 0, "/kb_per_socket"))],
    },
    Row {
        name: "menu-hits",
        path: "menus from memory, 9 KB each, one process on one core",
        when: When::Always,
        runs: &[
            Run::new(MENU_9_KB, "loadtest menu --what menu --rate 51000", Some((30, 10))),
            Run::new(MENU_9_KB, "loadtest menu --what menu --rate 82000", Some((30, 10))),
        ],
        figures: &[
            goal("", PerSecond, 50_000.0, 80_000.0, |runs| best(runs, "/achieved_rate")),
            told("body", Bytes, |runs| number(runs, 0, "/body_bytes")),
            told("p99 at 51,000/s", Ms, |runs| number(runs, 0, "/latency_ms/p99")),
        ],
    },
    Row {
        name: "menu-even",
        path: "menus of 60 items from memory, 10,000/s, one core",
        when: When::Always,
        runs: &[Run::new(MENU_60, "loadtest menu --what menu --rate 10000", Some((30, 10)))],
        figures: &[MENU_P99_5],
    },
    Row {
        name: "menu-cold",
        path: "menus from the database, 1,000/s, after 1,000 readers of one at once",
        when: When::Always,
        runs: &[Run::new(
            MENU_60,
            "loadtest menu --what menu --cold --readers 1000 --rate 1000",
            Some((20, 5)),
        )],
        figures: &[MENU_P99_50],
    },
    Row {
        name: "menu-mixed",
        path: "menus and lists, 8,000/s, 1 % operators' writes, two processes, gzip",
        when: When::Always,
        runs: &[Run::new(
            Menu { nodes: 2, restaurants: 5_000, items: 60 },
            "loadtest menu --rate 8000 --writes 1% --encoding gzip",
            Some((135, 10)),
        )],
        figures: &[MENU_P99],
    },
    Row {
        name: "menu-lists-cold",
        path: "lists of 50,000 restaurants that are not in memory, 50/s",
        when: When::Always,
        runs: &[Run::new(LISTS, "loadtest menu --what list --cold --rate 50", Some((20, 5)))],
        figures: &[MENU_P99_50],
    },
    Row {
        name: "menu-lists",
        path: "lists of 50,000 restaurants, 1,000/s",
        when: When::Always,
        runs: &[Run::new(LISTS, "loadtest menu --what list --rate 1000", Some((30, 20)))],
        figures: &[MENU_P99],
    },
    Row {
        name: "orders",
        path: "orders, 100/s",
        when: When::Always,
        runs: &[Run::new(Services, "loadtest orders --rate 100", Some((60, 5)))],
        figures: &ORDERS_EVEN,
    },
    Row {
        name: "orders-peak",
        path: "orders accepted",
        when: When::Always,
        runs: &[
            Run::new(Services, "loadtest orders --rate 2050 --connections 512", Some((30, 5))),
            Run::new(Services, "loadtest orders --rate 4100 --connections 512", Some((20, 5))),
        ],
        figures: &[
            goal("", PerSecond, 2_000.0, 4_000.0, |runs| best(runs, "/achieved_rate")),
            told("p99 at 2,050/s", Ms, |runs| number(runs, 0, "/latency_ms/p99")),
        ],
    },
    Row {
        name: "payments",
        path: "payments settled by one worker, gateway takes 100 ms",
        when: When::Always,
        runs: &[Run {
            around: Services,
            env: &[("PAYMENT_SIM_LATENCY", "100ms")],
            command: "loadtest orders --rate 1030 --connections 512",
            seconds: Some((30, 5)),
        }],
        figures: &[
            // All of the run, with the time after it in which the rest was settled.
            goal("", PerSecond, 500.0, 1_000.0, |runs| {
                let of = |name| number(runs, 0, name);
                let settled = of("/paid")? + of("/payment_failed")?;
                let seconds = of("/warm_up_s")? + of("/measured_s")?;
                // What is paid within the gateway's own time after the last order kept up.
                let late_s = (of("/settle_s")? - 0.5).max(0.0);
                Some(settled / (seconds + late_s))
            }),
            told("paid p99", Ms, |runs| number(runs, 0, "/paid_ms/p99")),
        ],
    },
    Row {
        name: "start",
        path: "start of logistics with the positions of 10,000 drivers",
        when: When::Always,
        runs: &[Run::new(Stores, "bench-system start --drivers 10000", None)],
        figures: &[
            goal("live Redis intact", Seconds, 2.0, 0.5, |runs| number(runs, 0, "/intact_s")),
            goal("flushed", Seconds, 2.0, 0.5, |runs| number(runs, 0, "/flushed_s")),
        ],
    },
    Row {
        name: "replay-600x",
        path: "a day of taxis in 144 s, batches of 100",
        when: When::Trace,
        runs: &[Run::new(Services, "loadtest replay --trace TRACE --speed 600x --batch 100", None)],
        figures: &[ACCEPT, DRAIN],
    },
    Row {
        name: "replay-drivers",
        path: "2,000/s of 10,000 drivers that go where taxis went",
        when: When::Trace,
        runs: &[Run {
            around: Services,
            env: &[],
            command: "loadtest replay --trace TRACE --drivers 10000 --rate 2000",
            seconds: Some((60, 0)),
        }],
        figures: &[ACCEPT, DRAIN],
    },
    Row {
        name: "growth",
        path: "CPU per event from 1,000 to 100,000 drivers and with stored rows; a route of one day",
        when: When::Growth,
        runs: &[Run::new(Services, "bench-system growth --rows ROWS", Some((20, 5)))],
        figures: &[
            told("stored", Rows, |runs| number(runs, 0, "/rows")),
            bar("100,000 drivers", Percent, 10.0, |runs| number(runs, 0, "/drivers_percent")),
            bar("with the rows", Percent, 10.0, |runs| number(runs, 0, "/rows_percent")),
            bar("route p99", Ms, 100.0, |runs| number(runs, 0, "/route_ms/p99")),
            told("route p50", Ms, |runs| number(runs, 0, "/route_ms/p50")),
        ],
    },
    Row {
        name: "orders-soak",
        path: "orders, 100/s for 10 minutes",
        when: When::Soak,
        runs: &[Run::new(Services, "loadtest orders --rate 100", Some((600, 0)))],
        figures: &ORDERS_EVEN,
    },
    Row {
        name: "soak",
        path: "2,000 fixes/s for half an hour",
        when: When::Soak,
        runs: &[Run::new(Services, "loadtest gps --rate 2000 --drivers 10000", Some((1_800, 0)))],
        figures: &[ACCEPT, DRAIN],
    },
];

const WS: [Figure; 3] =
    [goal("", PerSecond, 40_000.0, 80_000.0, |runs| best(runs, "/achieved_rate")), ACCEPT, DRAIN];

/// 8 frames a second of each driver, above the usual limit: the sockets of more drivers do not fit
/// into the file descriptors of a usual shell.
const fn ws(command: &'static str) -> Run {
    Run { around: Services, env: &[("LOGISTICS_FIX_RATE", "20")], command, seconds: Some((30, 5)) }
}

const LISTS: crate::row::Around = Menu { nodes: 1, restaurants: 50_000, items: 8 };
const MENU_P99: Figure = told("p99", Ms, |runs| number(runs, 0, "/latency_ms/p99"));
const MENU_P99_5: Figure = bar("p99", Ms, 5.0, |runs| number(runs, 0, "/latency_ms/p99"));
const MENU_P99_50: Figure = bar("p99", Ms, 50.0, |runs| number(runs, 0, "/latency_ms/p99"));
const ORDERS_EVEN: [Figure; 2] = [
    bar("accepted p99", Ms, 50.0, |runs| number(runs, 0, "/latency_ms/p99")),
    bar("paid p99", Ms, 2_000.0, |runs| number(runs, 0, "/paid_ms/p99")),
];
