//! The figures as text, the same in every form of output.

use std::time::Duration;

use super::{
    figures::{CpuPerEvent, Figures, Snapshot, read},
    latencies::Percentiles,
    menus::figures::MenuSnapshot,
    orders::figures::OrderSnapshot,
};

/// `850 µs`, `12 ms`, `1.25 s`: three digits are enough to follow.
pub(super) fn short(duration: Duration) -> String {
    match duration.as_secs_f64() {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 0.01 => format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// Hours, minutes and seconds.
pub(super) fn clock(duration: Duration) -> String {
    let s = duration.as_secs();
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// Digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `p50 12 ms, p99 40 ms`.
pub(super) fn pair(pair: Option<[Duration; 2]>) -> String {
    pair.map_or_else(|| "-".into(), |[p50, p99]| format!("p50 {}, p99 {}", short(p50), short(p99)))
}

/// Percentiles as a pair, when anything was measured.
pub(super) fn measured(percentiles: Percentiles) -> Option<[Duration; 2]> {
    (percentiles.count > 0).then_some([percentiles.p50, percentiles.p99])
}

/// `38 µs (service 14, redis 9, postgres 15)`.
pub(super) fn cpu(cpu: Option<CpuPerEvent>) -> String {
    let Some(cpu) = cpu else { return "-".into() };
    let CpuPerEvent { service_us, redis_us, postgres_us } = cpu;
    format!(
        "{:.0} µs (service {service_us:.0}, redis {redis_us:.0}, postgres {postgres_us:.0})",
        cpu.total_us()
    )
}

/// `97 %`.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0))
}

/// `80/s, 97 % from memory`.
pub(super) fn menu_reads(menus: &MenuSnapshot) -> String {
    format!("{:.0}/s, {} from memory", menus.reads_per_s, percent(menus.from_memory))
}

/// `20/s, p99 9 ms`; the figures have no room for more.
pub(super) fn menu_lists(menus: &MenuSnapshot) -> String {
    let p99 = measured(menus.list_latency).map_or_else(|| "-".into(), |[_, p99]| short(p99));
    format!("{:.0}/s, p99 {p99}", menus.lists_per_s)
}

/// `1.0/s, 0 violations`.
pub(super) fn menu_writes(menus: &MenuSnapshot) -> String {
    format!("{:.1}/s, {} violations", menus.writes_per_s, grouped(menus.violations))
}

/// `31/min, 4 declined, 2 refunds`; the figures have no room for more.
pub(super) fn ordered(orders: &OrderSnapshot) -> String {
    format!(
        "{:.0}/min, {} declined, {} refunds",
        orders.per_min,
        grouped(orders.declined),
        grouped(orders.refunds)
    )
}

/// The part of a line that is about orders, with a bar after it.
fn orders(orders: &OrderSnapshot) -> String {
    format!(
        "orders {} | taken after {} | paid after {} | ",
        ordered(orders),
        pair(measured(orders.taken_after)),
        pair(measured(orders.paid_after))
    )
}

/// The part of a line that is about menus, with a bar after it.
fn menus(menus: &MenuSnapshot) -> String {
    format!(
        "menus {} {} | lists {} | writes {} | ",
        menu_reads(menus),
        pair(measured(menus.read_latency)),
        menu_lists(menus),
        menu_writes(menus)
    )
}

/// What keeps the history, as people write it.
pub(super) fn store(snapshot: &Snapshot) -> &str {
    match snapshot.store.as_deref() {
        Some("timescaledb") => "TimescaleDB",
        Some("partitions") => "partitions",
        Some(other) => other,
        None => "-",
    }
}

/// One line of the plain output.
pub(super) fn line(snapshot: &Snapshot, figures: &Figures, uptime: Duration) -> String {
    format!(
        "{} accepted {:.0}/s stored {:.0}/s backlog {} | history lag {} | device to socket {} | \
         sockets {} deliveries {}, {} done | {}{}{} | cpu/event {}",
        clock(uptime),
        snapshot.accepted_per_s,
        snapshot.stored_per_s,
        snapshot.backlog,
        pair(snapshot.lag),
        pair(measured(snapshot.push)),
        snapshot.sockets,
        read(&figures.deliveries),
        read(&figures.delivered),
        snapshot.orders.as_ref().map_or_else(String::new, orders),
        snapshot.menus.as_ref().map_or_else(String::new, menus),
        store(snapshot),
        cpu(snapshot.cpu),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let us = |us| short(Duration::from_micros(us));
        assert_eq!(
            [us(850), us(1_250), us(12_300), us(1_250_000)],
            ["850 µs", "1.2 ms", "12 ms", "1.25 s"]
        );
        assert_eq!(clock(Duration::from_secs(3_725)), "1:02:05");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"].map(String::from)
        );
    }

    #[test]
    fn menus_are_on_the_line_when_there_are_some() {
        let figures = Figures::new();
        let mut snapshot = Snapshot::default();
        let uptime = Duration::from_secs(1);
        assert!(!line(&snapshot, &figures, uptime).contains("menus"));
        let ms = |ms| Duration::from_millis(ms);
        snapshot.menus = Some(MenuSnapshot {
            reads_per_s: 79.2,
            from_memory: Some(0.971),
            read_latency: Percentiles { count: 9, p50: ms(1), p99: ms(12) },
            lists_per_s: 20.0,
            list_latency: Percentiles::default(),
            writes_per_s: 0.96,
            violations: 0,
        });
        let text = line(&snapshot, &figures, uptime);
        let expected = "| menus 79/s, 97 % from memory p50 1.0 ms, p99 12 ms | lists 20/s, p99 - | \
                        writes 1.0/s, 0 violations | - |";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn orders_are_on_the_line_when_there_are_some() {
        let figures = Figures::new();
        let mut snapshot = Snapshot::default();
        let uptime = Duration::from_secs(1);
        assert!(!line(&snapshot, &figures, uptime).contains("orders"));
        let ms = |ms| Duration::from_millis(ms);
        snapshot.orders = Some(OrderSnapshot {
            per_min: 31.4,
            taken_after: Percentiles { count: 9, p50: ms(5), p99: ms(12) },
            paid_after: Percentiles::default(),
            declined: 4,
            refunds: 2,
        });
        let text = line(&snapshot, &figures, uptime);
        let expected = "| orders 31/min, 4 declined, 2 refunds | taken after p50 5.0 ms, p99 12 ms \
                        | paid after - | - |";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn cpu_is_split() {
        let split = CpuPerEvent { service_us: 14.4, redis_us: 9.4, postgres_us: 15.4 };
        assert_eq!(cpu(Some(split)), "39 µs (service 14, redis 9, postgres 15)");
        assert_eq!(cpu(None), "-");
    }
}
