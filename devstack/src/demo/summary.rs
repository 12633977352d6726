//! The end: what was measured, and whether the promises were kept.

use std::time::Duration;

use loadtest::{
    check::{Backlog, Findings},
    menu::check as menu,
};

use super::{
    figures::{CpuPerEvent, Figures, Snapshot, read},
    menus::{
        Outcome,
        figures::{MenuFigures, share},
    },
    orders::{books, figures::OrderFigures},
    words::{clock, cpu, grouped, measured, pair, percent, short, store},
};

/// Everything that the summary is made of.
pub(super) struct Summary<'a> {
    pub(super) title: &'a str,
    pub(super) ran_for: Duration,
    /// Orders that were under way when the town ended.
    pub(super) under_way: u64,
    pub(super) snapshot: &'a Snapshot,
    pub(super) figures: &'a Figures,
    /// Acceptance to history over the whole run.
    pub(super) lag: Option<[Duration; 2]>,
    /// Per stored fix over the whole run.
    pub(super) cpu: Option<CpuPerEvent>,
    pub(super) backlog: Backlog,
    pub(super) findings: &'a Findings,
    pub(super) menus: &'a Outcome,
    pub(super) orders: &'a books::Outcome,
}

/// One promise: its name, whether it was kept, and why.
type Promise = (&'static str, bool, String);

impl Summary<'_> {
    /// Whether every promise was kept.
    pub(super) fn is_good(&self) -> bool {
        self.promises().iter().all(|(_, kept, _)| *kept)
    }

    fn promises(&self) -> Vec<Promise> {
        let Findings {
            distinct,
            stored,
            dead_lettered,
            lost,
            duplicated,
            foreign,
            altered,
            stored_unacknowledged,
            current_wrong,
            ..
        } = self.findings;
        let figures = self.figures;
        let mut promises = vec![
            (
                "I1 accepted = stored",
                // An empty run promises nothing.
                lost + foreign + altered == 0 && *distinct > 0,
                format!(
                    "{} accepted, {} stored ({} of them without an answer), {} dead letters, \
                     {} lost, {} foreign, {} altered",
                    grouped(*distinct),
                    grouped(*stored),
                    grouped(*stored_unacknowledged),
                    grouped(*dead_lettered),
                    grouped(*lost),
                    grouped(*foreign),
                    grouped(*altered)
                ),
            ),
            (
                "I1 none twice",
                *duplicated == 0,
                format!(
                    "{} twice, with {} sent again on purpose",
                    grouped(*duplicated),
                    grouped(self.findings.repeats)
                ),
            ),
            (
                "I2 nothing left",
                self.backlog.is_empty(),
                format!("{} waiting, {} pending", self.backlog.waiting, self.backlog.pending),
            ),
            (
                "I3 current = newest",
                *current_wrong == 0,
                format!("{} drivers differ", grouped(*current_wrong)),
            ),
            (
                "every fix taken",
                read(&figures.refused) == 0,
                format!("{} refused", grouped(read(&figures.refused))),
            ),
            (
                "statuses seen",
                read(&figures.status_gaps) == 0,
                format!(
                    "{} changes, {} missing or repeated",
                    grouped(read(&figures.statuses)),
                    grouped(read(&figures.status_gaps))
                ),
            ),
        ];
        promises.extend(menu_promise(self.menus));
        promises.extend(order_promises(self.orders));
        promises
    }

    /// The whole text.
    pub(super) fn text(&self) -> String {
        let (figures, snapshot) = (self.figures, self.snapshot);
        let push = figures.push_all();
        let first = snapshot.first_stored.map_or_else(|| "never".into(), short);
        let mut text = format!("\nSwift Eats demo: {}, {}\n", self.title, clock(self.ran_for));
        let mut row = |name: &str, value: String| {
            text.push_str(&format!("  {name:<22}{value}\n"));
        };
        row("first event stored", format!("{first} after the start"));
        row(
            "fixes sent",
            format!(
                "{}, {} of them late in {} batches, {} twice, {} requests tried again",
                grouped(read(&figures.sent)),
                grouped(read(&figures.batched)),
                grouped(read(&figures.batches)),
                grouped(read(&figures.resent)),
                grouped(read(&figures.retried))
            ),
        );
        row("history", format!("{}, lag {}", store(snapshot), pair(self.lag)));
        row(
            "device to socket",
            format!("{} of {} positions", pair(measured(push)), grouped(push.count)),
        );
        row(
            "deliveries",
            format!(
                "{} delivered, {} under way at the end, {} sockets opened again",
                grouped(read(&figures.delivered)),
                grouped(self.under_way),
                grouped(read(&figures.reopened))
            ),
        );
        let mut included = Vec::new();
        if !matches!(self.orders, books::Outcome::Off) {
            let [first, second, third] = order_rows(&figures.orders);
            row("orders", first);
            row("", second);
            row("", third);
            included.push("orders");
        }
        match self.menus {
            Outcome::Off => {}
            Outcome::TooShort => row("menus", "it ended before anybody could read one".into()),
            Outcome::Checked(_) | Outcome::Failed(_) => {
                let [first, second] = menu_rows(&figures.menus);
                row("menus", first);
                row("", second);
                included.push("menus");
            }
        }
        let mut cpu = cpu(self.cpu);
        if !included.is_empty() {
            cpu += &format!(", {} included", included.join(" and "));
        }
        row("CPU per event", cpu);
        for (name, kept, why) in self.promises() {
            text.push_str(&format!("  {} {name:<22}{why}\n", if kept { "ok  " } else { "FAIL" }));
        }
        let of_menus = match self.menus {
            Outcome::Checked(findings) => findings.examples.as_slice(),
            _ => &[],
        };
        let of_orders = match self.orders {
            books::Outcome::Checked(findings) => findings.examples.as_slice(),
            _ => &[],
        };
        for example in self.findings.examples.iter().chain(of_menus).chain(of_orders) {
            text.push_str(&format!("       {example}\n"));
        }
        text
    }
}

/// None when there was nobody who could have been shown something old.
fn menu_promise(menus: &Outcome) -> Option<Promise> {
    let (kept, why) = match menus {
        Outcome::Off | Outcome::TooShort => return None,
        Outcome::Failed(why) => (false, why.clone()),
        Outcome::Checked(findings) => {
            let menu::Findings { reads, writes, older, violations, .. } = findings;
            let mut why = format!(
                "{} reads, {} writes, {} shown older than a write that was answered",
                grouped(*reads),
                grouped(*writes),
                grouped(*older)
            );
            if violations > older {
                why += &format!(", {} otherwise wrong", grouped(violations - older));
            }
            (*violations == 0 && *reads > 0, why)
        }
    };
    Some(("I10 menus", kept, why))
}

/// None when nobody was to order.
fn order_promises(orders: &books::Outcome) -> Vec<Promise> {
    let findings = match orders {
        books::Outcome::Off => return Vec::new(),
        books::Outcome::Failed(why) => return vec![("I4 orders", false, why.clone())],
        books::Outcome::Checked(findings) => findings,
    };
    let amounts = |agree| if agree { "amounts agree" } else { "amounts DIFFER" };
    vec![
        (
            "I4 ended or under way",
            findings.is_complete(),
            format!(
                "{} orders: {} delivered, {} declined, {} called off, {} under way; {} lost, {} of \
                 nobody, {} stand still",
                grouped(findings.orders),
                grouped(findings.delivered),
                grouped(findings.declined),
                grouped(findings.called_off),
                grouped(findings.under_way),
                grouped(findings.lost),
                grouped(findings.foreign),
                grouped(findings.stuck)
            ),
        ),
        (
            "I5 charged once",
            findings.is_charged_once(),
            format!(
                "{} orders paid, {} charges, {} charged twice, {}",
                grouped(findings.paid),
                grouped(findings.captured),
                grouped(findings.charged_twice),
                amounts(findings.charges_agree)
            ),
        ),
        (
            "I6 refunds agree",
            findings.is_refunded(),
            format!(
                "{} orders given back, {} refunds, {} owed, {}",
                grouped(findings.refunded),
                grouped(findings.refunds),
                grouped(findings.owed),
                amounts(findings.refunds_agree)
            ),
        ),
    ]
}

/// What customers did, in three lines.
fn order_rows(orders: &OrderFigures) -> [String; 3] {
    [
        format!(
            "{} taken, {} refused and chosen again, {} declined, {} called off, {} rated",
            grouped(read(&orders.taken)),
            grouped(read(&orders.refused)),
            grouped(read(&orders.declined)),
            grouped(read(&orders.called_off)),
            grouped(read(&orders.rated))
        ),
        format!("taken after {}", pair(measured(orders.taken_after.all()))),
        format!("paid after {}", pair(measured(orders.paid_after.all()))),
    ]
}

/// What customers and operators did, in two lines.
fn menu_rows(menus: &MenuFigures) -> [String; 2] {
    let reads = read(&menus.reads);
    [
        format!(
            "{} restaurants, {} documents read, {} from memory, {}",
            read(&menus.restaurants),
            grouped(reads),
            percent(share(read(&menus.from_memory), reads)),
            pair(measured(menus.read_latency.all()))
        ),
        format!(
            "{} lists read, {}; {} writes; {} failed",
            grouped(read(&menus.lists)),
            pair(measured(menus.list_latency.all())),
            grouped(read(&menus.writes)),
            grouped(read(&menus.failed))
        ),
    ]
}

#[cfg(test)]
mod tests;
