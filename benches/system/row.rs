//! What a row of the table is made of.

use serde_json::Value;

/// One row of the table: some runs, and what is to come of them.
pub(crate) struct Row {
    /// What `--only` matches.
    pub(crate) name: &'static str,
    /// What the table says.
    pub(crate) path: &'static str,
    /// Each on stores of its own.
    pub(crate) runs: &'static [Run],
    pub(crate) figures: &'static [Figure],
    pub(crate) when: When,
}

/// When a row is among those that are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// With `--soak`: half an hour and more.
    Soak,
    /// With `--growth`, or when `--only` names it: many minutes and some GB of disk.
    Growth,
    /// With `--trace`.
    Trace,
}

/// One load on private stores.
pub(crate) struct Run {
    pub(crate) around: Around,
    /// Settings of the services.
    pub(crate) env: &'static [(&'static str, &'static str)],
    /// Program and arguments; `ROWS` and `TRACE` are replaced.
    pub(crate) command: &'static str,
    /// `--duration` and `--warm-up` of the command in seconds; `None` when it has neither.
    pub(crate) seconds: Option<(u32, u32)>,
}

/// What runs around the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Around {
    /// The stores.
    Stores,
    /// All services in one process.
    Services,
    /// Logistics alone.
    Logistics,
    /// So many menu-api processes with so many restaurants of so many items.
    Menu { nodes: u32, restaurants: u32, items: u32 },
}

impl Run {
    /// A run with the services' usual settings.
    pub(crate) const fn new(
        around: Around,
        command: &'static str,
        seconds: Option<(u32, u32)>,
    ) -> Self {
        Self { around, env: &[], command, seconds }
    }
}

/// A number of the runs' summaries, and how good it should be.
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    pub(crate) bar: Option<f64>,
    pub(crate) aim: Option<f64>,
    /// Takes it out of the summaries, one for each run; null for a run that has none.
    pub(crate) of: fn(&[Value]) -> Option<f64>,
}

/// Units also say what is better: more per second, less of everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    PerSecond,
    Seconds,
    Ms,
    Us,
    Kb,
    Percent,
    Times,
    Bytes,
    Rows,
}

impl Unit {
    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::PerSecond => value >= bound,
            _ => value <= bound,
        }
    }

    fn bound(self, bound: f64) -> String {
        let sign = if self == Self::PerSecond { "" } else { "≤ " };
        let number = if bound >= 1_000.0 { thousands(bound) } else { bound.to_string() };
        format!("{sign}{}", self.with_unit(&number))
    }

    pub(crate) fn show(self, value: f64) -> String {
        self.with_unit(&match value.abs() {
            100.0.. => thousands(value),
            10.0.. => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        })
    }

    fn with_unit(self, number: &str) -> String {
        match self {
            Self::PerSecond => format!("{number}/s"),
            Self::Seconds => format!("{number} s"),
            Self::Ms => format!("{number} ms"),
            Self::Us => format!("{number} µs"),
            Self::Kb => format!("{number} KB"),
            Self::Percent => format!("{number} %"),
            Self::Times => format!("{number} ×"),
            Self::Bytes => format!("{number} bytes"),
            Self::Rows => format!("{number} rows"),
        }
    }
}

/// `12345.6` is `12,346`.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

/// How far a row came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// Nothing was asked for.
    Nothing,
    Aim,
    Bar,
    No,
}

impl Met {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Aim => "aim",
            Self::Bar => "bar",
            Self::No => "**no**",
        }
    }
}

impl Row {
    /// The bars of all figures, or their aims.
    pub(crate) fn bounds(&self, of: fn(&Figure) -> Option<f64>) -> String {
        let bounds = self.figures.iter().filter_map(|figure| {
            let bound = figure.unit.bound(of(figure)?);
            Some(format!("{} {bound}", figure.what).trim().to_owned())
        });
        bounds.collect::<Vec<_>>().join("; ")
    }

    /// What was measured.
    pub(crate) fn measured(&self, summaries: &[Value]) -> String {
        let measured = self.figures.iter().map(|figure| {
            let value =
                (figure.of)(summaries).map_or("?".to_owned(), |value| figure.unit.show(value));
            format!("{} {value}", figure.what).trim().to_owned()
        });
        measured.collect::<Vec<_>>().join("; ")
    }

    /// The least that any figure met; what was not measured meets nothing.
    pub(crate) fn met(&self, summaries: &[Value]) -> Met {
        let asked = self.figures.iter().filter(|one| one.bar.is_some() || one.aim.is_some());
        let (mut met, mut any) = (Met::Aim, false);
        for figure in asked {
            any = true;
            let value = (figure.of)(summaries);
            let holds = |bound: Option<f64>| {
                let Some(bound) = bound else { return true };
                value.is_some_and(|value| figure.unit.holds(value, bound))
            };
            // Without an aim of its own the bar is what is aimed at; without a bar nothing is
            // below the aim but falling short of it.
            match (holds(figure.bar), holds(figure.aim)) {
                (true, true) => {}
                (true, false) if met != Met::No && figure.bar.is_some() => met = Met::Bar,
                _ => met = Met::No,
            }
        }
        if any { met } else { Met::Nothing }
    }
}

/// A number of run `run`, by JSON pointer.
pub(crate) fn number(summaries: &[Value], run: usize, pointer: &str) -> Option<f64> {
    summaries.get(run)?.pointer(pointer)?.as_f64()
}

/// The greatest of all runs.
pub(crate) fn best(summaries: &[Value], pointer: &str) -> Option<f64> {
    (0..summaries.len()).filter_map(|run| number(summaries, run, pointer)).reduce(f64::max)
}

/// CPU time of each run for each event, request, order or message, as its summary has it.
pub(crate) fn cpu(summaries: &[Value]) -> String {
    let one = |summary: &Value| {
        let names = [
            "/cpu_us_per_event/total",
            "/cpu_us_per_request",
            "/cpu_us_per_order",
            "/cpu_us_per_message",
        ];
        let total = names.iter().find_map(|name| summary.pointer(name)?.as_f64())?;
        let split = ["/cpu_us_per_event", "/cpu_split_us"]
            .iter()
            .find_map(|name| summary.pointer(name)?.as_object());
        let part = |name: &str| split?.get(name)?.as_f64();
        let parts = match (part("service"), part("redis"), part("postgres")) {
            (Some(service), Some(redis), Some(postgres)) => {
                format!(" (service {service:.1}, Redis {redis:.1}, PostgreSQL {postgres:.1})")
            }
            _ => String::new(),
        };
        Some(format!("{total:.1} µs{parts}"))
    };
    summaries.iter().filter_map(one).collect::<Vec<_>>().join("; ")
}
