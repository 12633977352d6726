//! The report to look at: one HTML file that needs nothing else.

use std::fmt::Write as _;

use super::{
    chart::{Axis, Series, Thin, colour, lines},
    seconds::{Second, Slot},
    summary::{CpuAt, Summary},
    text::{bytes, time},
};

const STYLE: &str = include_str!("page.css");

impl Summary {
    /// The report.
    ///
    /// # Errors
    /// A chart cannot be drawn.
    pub fn to_html(&self) -> anyhow::Result<String> {
        let mut page = Page(String::with_capacity(1 << 17));
        let result = if self.passed { ("passed", "good") } else { ("failed", "bad") };
        page.put(format_args!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{title}</title><style>{STYLE}</style></head><body><main>\
             <header><h1>{title}</h1><span class=\"badge {}\">{}</span>\
             <p>{started} · {duration:.1} s · seed {seed}</p></header>",
            result.1,
            result.0,
            title = Text(&self.file),
            started = Text(&self.started_at),
            duration = self.duration_s,
            seed = self.seed,
        ));
        for why in self.aborted.iter().chain(&self.teardown_failed) {
            page.put(format_args!("<p class=\"note bad\">{}</p>", Text(why)));
        }
        for warning in &self.generator.warnings {
            page.put(format_args!("<p class=\"note warn\">{}</p>", Text(warning)));
        }
        self.cards(&mut page);
        self.verdicts(&mut page);
        self.charts(&mut page)?;
        self.tables(&mut page);
        self.machine(&mut page);
        page.put(format_args!("</main></body></html>\n"));
        Ok(page.0)
    }

    fn figure(&self, metric: &str, name: &str) -> Option<f64> {
        self.metrics.get(metric)?.values.get(name).copied()
    }

    fn cards(&self, page: &mut Page) {
        let figure = |metric, name| self.figure(metric, name);
        let per_s =
            |rate: f64| if rate < 10.0 { format!("{rate:.2}") } else { format!("{rate:.0}") };
        let percent = |rate: f64| format!("{:.2} %", rate * 100.0);
        let cards = [
            ("requests a second", figure("http_reqs", "rate").map(per_s)),
            ("request p95", figure("http_req_duration", "p(95)").map(time)),
            ("request p99", figure("http_req_duration", "p(99)").map(time)),
            ("failed", figure("http_req_failed", "rate").map(percent)),
            ("checks", figure("checks", "rate").map(percent)),
            ("iterations", figure("iterations", "count").map(|count| count.to_string())),
            ("dropped", figure("dropped_iterations", "count").map(|count| count.to_string())),
            ("fixes a second", figure("fixes", "rate").map(per_s)),
            ("paid p95", figure("order_paid_duration", "p(95)").map(time)),
            ("push p95", figure("push_latency", "p(95)").map(time)),
            ("received", figure("data_received", "count").map(bytes)),
        ];
        page.put(format_args!("<section class=\"cards\">"));
        for (name, value) in cards.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
        {
            page.put(format_args!("<div><b>{value}</b><span>{name}</span></div>"));
        }
        page.put(format_args!("</section>"));
    }

    fn verdicts(&self, page: &mut Page) {
        if !self.thresholds.is_empty() {
            page.put(format_args!(
                "<h2>Thresholds</h2><table><tr><th></th><th>metric</th><th>threshold</th>\
                 <th class=n>was</th></tr>"
            ));
            for one in &self.thresholds {
                let value = one.value.map_or("not measured".into(), |value| format!("{value:.3}"));
                page.put(format_args!(
                    "<tr><td>{}</td><td>{}</td><td><code>{}</code></td><td class=n>{value}</td></tr>",
                    Mark(one.passed),
                    Text(&one.metric),
                    Text(&one.threshold),
                ));
            }
            page.put(format_args!("</table>"));
        }
    }

    fn charts(&self, page: &mut Page) -> anyhow::Result<()> {
        let all = |name: &str, of: fn(&Slot) -> f64| Series {
            name: name.to_owned(),
            points: self.seconds.iter().map(|one| (f64::from(one.at_s), of(&one.all))).collect(),
        };
        let rate = |name: &str, of: fn(&Slot) -> u32| Series {
            name: name.to_owned(),
            points: rates(&self.seconds, |one| Some(of(&one.all))),
        };
        let each = |of: fn(&Slot) -> f64| -> Vec<Series> {
            let one = |(at, scenario): (usize, &super::summary::Scenario)| Series {
                name: scenario.name.clone(),
                points: self
                    .seconds
                    .iter()
                    .filter_map(|one| Some((f64::from(one.at_s), of(one.scenarios.get(at)?))))
                    .collect(),
            };
            self.scenarios.iter().enumerate().map(one).collect()
        };
        let throughput =
            [rate("requests", |slot| slot.requests), rate("failed", |slot| slot.failed)];
        let iterations = self.scenarios.iter().enumerate().map(|(at, scenario)| Series {
            name: scenario.name.clone(),
            points: rates(&self.seconds, |one| Some(one.scenarios.get(at)?.iterations)),
        });
        let iterations: Vec<_> = iterations.collect();
        let latency = [
            all("p99", |slot| f64::from(slot.p99_ms)),
            all("p95", |slot| f64::from(slot.p95_ms)),
            all("median", |slot| f64::from(slot.med_ms)),
        ];
        let curve =
            self.curve.iter().map(|(percent, us)| (-(1.0 - percent / 100.0).log10(), us / 1_000.0));
        let curve = [Series { name: "all requests".into(), points: curve.collect() }];
        let mut users = [
            all("virtual users", |slot| f64::from(slot.vus)),
            rate("dropped iterations a second", |slot| slot.dropped),
        ];
        // At the very end there are none, which says nothing.
        cut(&mut users[0].points);
        page.put(format_args!("<section class=\"charts\">"));
        if self.seconds.iter().any(|second| second.all.requests > 0) {
            page.chart("Requests a second", &throughput, Axis::Time, Thin::Mean)?;
            page.chart("Latency over time, ms", &latency, Axis::Time, Thin::Peak)?;
            page.chart("Latency by percentile, ms", &curve, Axis::Nines, Thin::Peak)?;
        }
        if self.scenarios.len() > 1 {
            let p95 = each(|slot| f64::from(slot.p95_ms));
            page.chart("p95 by scenario, ms", &p95, Axis::Time, Thin::Peak)?;
        }
        page.chart("Iterations a second", &iterations, Axis::Time, Thin::Mean)?;
        page.chart("Virtual users", &users, Axis::Time, Thin::Mean)?;
        page.chart("CPU, busy cores", &self.cpu_lines(), Axis::Time, Thin::Mean)?;
        page.put(format_args!("</section>"));
        Ok(())
    }

    fn cpu_lines(&self) -> Vec<Series> {
        type Of = fn(&CpuAt) -> Option<f64>;
        let kinds: [(&str, Of); 4] = [
            ("services", |at| at.system.map(|system| system.service)),
            ("PostgreSQL", |at| at.system.map(|system| system.postgres)),
            ("Redis", |at| at.system.map(|system| system.redis)),
            ("generator", |at| Some(at.generator)),
        ];
        let line = |(name, of): (&str, Of)| Series {
            name: name.to_owned(),
            points: self.cpu_cores.iter().filter_map(|at| Some((at.at_s, of(at)?))).collect(),
        };
        kinds.into_iter().map(line).filter(|series| !series.points.is_empty()).collect()
    }

    fn tables(&self, page: &mut Page) {
        page.put(format_args!(
            "<h2>Scenarios</h2><table><tr><th>scenario</th><th>flow</th><th>load</th>\
             <th class=n>iterations</th><th class=n>dropped</th><th class=n>interrupted</th></tr>"
        ));
        for one in &self.scenarios {
            page.put(format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=n>{}</td><td class=n>{}</td>\
                 <td class=n>{}</td></tr>",
                Text(&one.name),
                one.flow,
                Text(&one.load),
                one.iterations,
                one.dropped,
                one.interrupted
            ));
        }
        page.put(format_args!(
            "</table><h2>Requests</h2><table><tr><th>scenario</th><th>request</th>\
             <th class=n>count</th><th class=n>failed</th><th class=n>median</th><th class=n>p95</th>\
             <th class=n>p99</th><th class=n>max</th><th>answers</th></tr>"
        ));
        for one in &self.requests {
            let answers = one.statuses.iter().map(|(status, count)| match status {
                0 => format!("none: {count}"),
                status => format!("{status}: {count}"),
            });
            page.put(format_args!(
                "<tr><td>{}</td><td>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td>\
                 <td class=n>{}</td><td class=n>{}</td><td class=n>{}</td><td>{}</td></tr>",
                Text(&one.scenario),
                Text(&one.name),
                one.count,
                one.failed,
                time(one.med_ms),
                time(one.p95_ms),
                time(one.p99_ms),
                time(one.max_ms),
                answers.collect::<Vec<_>>().join(", ")
            ));
        }
        page.put(format_args!("</table>"));
        self.failures(page);
        if !self.checks.is_empty() {
            page.put(format_args!(
                "<h2>Checks</h2><table><tr><th></th><th>scenario</th><th>check</th>\
                 <th class=n>held</th><th class=n>did not</th></tr>"
            ));
            for one in &self.checks {
                page.put(format_args!(
                    "<tr><td>{}</td><td>{}</td><td>{}</td><td class=n>{}</td><td class=n>{}</td></tr>",
                    Mark(one.fails == 0),
                    Text(&one.scenario),
                    Text(&one.name),
                    one.passes,
                    one.fails
                ));
            }
            page.put(format_args!("</table>"));
        }
        page.put(format_args!(
            "<h2>Times</h2><table><tr><th>metric</th><th class=n>count</th><th class=n>average</th>\
             <th class=n>min</th><th class=n>median</th><th class=n>p90</th><th class=n>p95</th>\
             <th class=n>p99</th><th class=n>max</th></tr>"
        ));
        for (name, figures) in self.metrics.iter().filter(|(_, one)| one.r#type == "trend") {
            let count = figures.values.get("count").copied().unwrap_or_default();
            page.put(format_args!("<tr><td>{}</td><td class=n>{count}</td>", Text(name)));
            for figure in ["avg", "min", "med", "p(90)", "p(95)", "p(99)", "max"] {
                let value = figures.values.get(figure).map_or("–".to_owned(), |ms| time(*ms));
                page.put(format_args!("<td class=n>{value}</td>"));
            }
            page.put(format_args!("</tr>"));
        }
        page.put(format_args!("</table>"));
    }

    fn failures(&self, page: &mut Page) {
        if self.failures.is_empty() {
            return;
        }
        page.put(format_args!(
            "<h2>Failed requests</h2><table><tr><th>scenario</th><th>reason</th>\
             <th class=n>count</th><th class=n>share</th></tr>"
        ));
        for one in &self.failures {
            page.put(format_args!(
                "<tr><td>{}</td><td>{}</td><td class=n>{}</td><td class=n>{:.2} %</td></tr>",
                Text(&one.scenario),
                Text(&one.reason),
                one.count,
                one.share * 100.0
            ));
        }
        page.put(format_args!("</table>"));
    }

    fn machine(&self, page: &mut Page) {
        page.put(format_args!("<h2>The generator itself</h2><pre>"));
        let said = super::text::generator(&self.generator);
        let said: Vec<_> = said.lines().map(str::trim).collect();
        page.put(format_args!("{}</pre>", Text(&said.join("\n"))));
    }
}

/// A count of each second as so many a second. Those that are cut short, as the last one is, are left
/// out when there are others.
fn rates(seconds: &[Second], of: impl Fn(&Second) -> Option<u32>) -> Vec<(f64, f64)> {
    let are_short = !seconds.iter().any(Second::is_whole);
    let kept = seconds.iter().filter(|one| are_short || one.is_whole());
    kept.filter_map(|one| Some((f64::from(one.at_s), one.per_s(of(one)?)))).collect()
}

/// Leaves the last second out, when there are others.
fn cut(points: &mut Vec<(f64, f64)>) {
    if points.len() > 2 {
        points.pop();
    }
}

struct Page(String);

impl Page {
    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        let _infallible = self.0.write_fmt(text);
    }

    fn chart(
        &mut self,
        title: &str,
        series: &[Series],
        axis: Axis,
        thin: Thin,
    ) -> anyhow::Result<()> {
        self.put(format_args!("<figure><figcaption><b>{title}</b>"));
        for (n, one) in series.iter().enumerate() {
            let colour = colour(n);
            let name = Text(&one.name);
            self.put(format_args!("<span><i style=\"background:{colour}\"></i>{name}</span>"));
        }
        self.put(format_args!("</figcaption>{}</figure>", lines(series, axis, thin)?));
        Ok(())
    }
}

/// A text that cannot be taken for HTML.
struct Text<'a>(&'a str);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

struct Mark(bool);

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0 { "<span class=ok>✓</span>" } else { "<span class=no>✗</span>" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_html() {
        assert_eq!(Text("<b a=\"1\">&").to_string(), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
