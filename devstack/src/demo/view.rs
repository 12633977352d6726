//! The live view: the figures beside a map of the town with its drivers.

use std::{io, time::Duration};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize as _},
    symbols::Marker as Dots,
    text::{Line, Span},
    widgets::{
        Block, Paragraph, Wrap,
        canvas::{Canvas, Line as Stroke, Points},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    feed::{Ground, Marker, MarkerKind},
    figures::{Figures, Snapshot, read},
    words::{
        clock, cpu, grouped, measured, menu_lists, menu_reads, menu_writes, ordered, pair, short,
        store,
    },
};

/// Width of the figures.
const FIGURES_COLUMNS: u16 = 56;
/// How long the key reader waits before it looks whether it is still wanted.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// Everything that one picture shows.
pub(super) struct Picture<'a> {
    pub(super) title: &'a str,
    pub(super) phase: &'a str,
    pub(super) uptime: Duration,
    pub(super) left: Option<Duration>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) figures: &'a Figures,
    pub(super) ground: &'a Ground,
    pub(super) markers: &'a [Marker],
}

/// The terminal while the demo has it; dropping gives it back as it was.
pub(super) struct View {
    terminal: DefaultTerminal,
}

impl View {
    /// Takes the terminal.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { terminal: ratatui::try_init()? })
    }

    /// Shows a picture.
    pub(super) fn draw(&mut self, picture: &Picture<'_>) -> io::Result<()> {
        self.terminal.draw(|frame| paint(frame, picture)).map(|_| ())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Reads keys on a thread of its own until `closed`: the first q, Esc or Ctrl-C cancels `stop`,
/// the second `abandon`.
pub(super) fn read_keys(
    stop: CancellationToken,
    abandon: CancellationToken,
    closed: CancellationToken,
) -> io::Result<()> {
    let read = move || {
        while !closed.is_cancelled() {
            match event::poll(KEY_WAIT)
                .and_then(|ready| if ready { event::read() } else { Ok(Event::FocusGained) })
            {
                Ok(event) if is_quit(&event) => {
                    if stop.is_cancelled() {
                        abandon.cancel();
                    }
                    stop.cancel();
                }
                Ok(_) => {}
                // The terminal has gone: nobody watches any more.
                Err(_) => return stop.cancel(),
            }
        }
    };
    std::thread::Builder::new().name("keys".into()).spawn(read).map(|_| ())
}

fn is_quit(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
            KeyCode::Char('c') => control,
            _ => false,
        }
}

fn paint(frame: &mut Frame<'_>, picture: &Picture<'_>) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(4)])
            .areas(frame.area());
    // A map needs room; without it the figures have all.
    let map_columns = body.width.saturating_sub(FIGURES_COLUMNS);
    let [figures, map] = Layout::horizontal([
        Constraint::Min(FIGURES_COLUMNS.min(body.width)),
        Constraint::Length(if map_columns < 20 { 0 } else { map_columns }),
    ])
    .areas(body);
    frame.render_widget(header(picture), head);
    frame.render_widget(table(picture), figures);
    if map.width > 0 {
        paint_map(frame, map, picture);
    }
    frame.render_widget(notes(picture), foot);
}

fn header<'a>(picture: &'a Picture<'_>) -> Line<'a> {
    let left = picture.left.map_or_else(String::new, |left| format!(", {} left", clock(left)));
    Line::from(vec![
        " Swift Eats ".bold().black().on_green(),
        format!(" {} ", picture.title).into(),
        format!(" {}{left} ", clock(picture.uptime)).bold(),
        format!(" {} ", picture.phase).yellow(),
    ])
}

fn table(picture: &Picture<'_>) -> Paragraph<'static> {
    let (snapshot, figures) = (picture.snapshot, picture.figures);
    let row = |name: &str, value: String| {
        Line::from(vec![Span::from(format!(" {name:<18}")).dim(), Span::from(value).bold()])
    };
    let menus = |of: fn(&super::menus::figures::MenuSnapshot) -> String| {
        snapshot.menus.as_ref().map_or_else(|| "-".into(), of)
    };
    let orders = |of: fn(&super::orders::figures::OrderSnapshot) -> String| {
        snapshot.orders.as_ref().map_or_else(|| "-".into(), of)
    };
    let rate = |per_s: f64, total| format!("{per_s:.0}/s, {} in all", grouped(total));
    let cpu = cpu(snapshot.cpu);
    let (cpu_total, cpu_split) = cpu.split_once(" (").unwrap_or((&cpu, "-)"));
    let first = snapshot.first_stored.map_or_else(|| "waiting".into(), short);
    Paragraph::new(vec![
        row("accepted", rate(snapshot.accepted_per_s, snapshot.accepted)),
        row("stored", rate(snapshot.stored_per_s, snapshot.stored)),
        row("backlog", grouped(snapshot.backlog)),
        row("history lag", pair(snapshot.lag)),
        Line::default(),
        row("device to socket", pair(measured(snapshot.push))),
        row("open sockets", grouped(snapshot.sockets)),
        row(
            "deliveries",
            format!(
                "{} under way, {} done",
                grouped(read(&figures.deliveries)),
                grouped(read(&figures.delivered))
            ),
        ),
        row("orders", orders(ordered)),
        row("  taken after", orders(|orders| pair(measured(orders.taken_after)))),
        row("  paid after", orders(|orders| pair(measured(orders.paid_after)))),
        Line::default(),
        row("menus read", menus(menu_reads)),
        row("", menus(|menus| pair(measured(menus.read_latency)))),
        row("lists read", menus(menu_lists)),
        row("menus written", menus(menu_writes)),
        Line::default(),
        row(
            "missed, sent late",
            format!(
                "{} in {} batches",
                grouped(read(&figures.batched)),
                grouped(read(&figures.batches))
            ),
        ),
        row(
            "sent again",
            format!(
                "{} twice, {} tried",
                grouped(read(&figures.resent)),
                grouped(read(&figures.retried))
            ),
        ),
        row("history in", store(snapshot).to_owned()),
        row("CPU per event", cpu_total.to_owned()),
        row("", cpu_split.trim_end_matches(')').to_owned()),
        row("first event", first),
    ])
    .block(Block::bordered().title(" figures, last 10 s "))
}

fn paint_map(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let ground = picture.ground;
    let [west, east, south, north] = fit(ground.bounds, area);
    let of = |wanted: MarkerKind| -> Vec<(f64, f64)> {
        let markers = picture.markers.iter().filter(|marker| marker.kind == wanted);
        markers.map(|marker| (marker.at.east_m, marker.at.north_m)).collect()
    };
    let (free, busy, silent) = (of(MarkerKind::Free), of(MarkerKind::Busy), of(MarkerKind::Silent));
    let places: Vec<_> = ground.restaurants.iter().map(|at| (at.east_m, at.north_m)).collect();
    let title = Line::from(vec![
        " ".into(),
        "free ".cyan(),
        "delivering ".light_yellow(),
        "no network ".light_red(),
        "restaurants ".magenta(),
    ]);
    let canvas = Canvas::default()
        .block(Block::bordered().title(title))
        .marker(Dots::Braille)
        .x_bounds([west, east])
        .y_bounds([south, north])
        .paint(|context| {
            for [from, to] in &ground.streets {
                context.draw(&stroke(*from, *to, Color::Rgb(70, 70, 70)));
            }
            for pair in ground.water.windows(2) {
                context.draw(&stroke(pair[0], pair[1], Color::Blue));
            }
            // Each layer lies over the one before, so a busy driver is never hidden by a street.
            for (coords, color) in [
                (&places, Color::Magenta),
                (&free, Color::Cyan),
                (&silent, Color::LightRed),
                (&busy, Color::LightYellow),
            ] {
                context.layer();
                context.draw(&Points { coords, color });
            }
        });
    frame.render_widget(canvas, area);
}

fn stroke(from: crate::city::plane::Spot, to: crate::city::plane::Spot, color: Color) -> Stroke {
    Stroke { x1: from.east_m, y1: from.north_m, x2: to.east_m, y2: to.north_m, color }
}

/// Widens the bounds to the shape of the area: a cell is about twice as high as it is wide.
fn fit([west, east, south, north]: [f64; 4], area: Rect) -> [f64; 4] {
    let (across, up) = (f64::from(area.width.max(1)), 2.0 * f64::from(area.height.max(1)));
    let metres_per_dot = ((east - west) / across).max((north - south) / up);
    let (x, y) = (f64::midpoint(west, east), f64::midpoint(south, north));
    let (half_x, half_y) = (metres_per_dot * across / 2.0, metres_per_dot * up / 2.0);
    [x - half_x, x + half_x, y - half_y, y + half_y]
}

fn notes(picture: &Picture<'_>) -> Paragraph<'static> {
    let mut lines: Vec<Line<'static>> = Vec::new();
    if let Some(since) = picture.snapshot.silent_since {
        let for_s = since.elapsed().as_secs();
        lines.push(Line::from(format!("the service has not answered for {for_s} s")).red());
    }
    lines.extend(picture.figures.notes(2).into_iter().map(Line::from));
    if lines.is_empty() {
        lines.push(Line::from("all well; q or Ctrl-C ends the demo and checks it").dim());
    }
    Paragraph::new(lines)
        .style(Style::new())
        .wrap(Wrap { trim: true })
        .block(Block::bordered().title(" notes "))
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::{
        city::plane::Spot,
        demo::{menus::figures::MenuSnapshot, orders::figures::OrderSnapshot},
    };

    fn painted(width: u16, height: u16) -> String {
        let ground = Ground {
            bounds: [-1_000.0, 1_000.0, -1_000.0, 1_000.0],
            streets: vec![[Spot::new(-1_000.0, 0.0), Spot::new(1_000.0, 0.0)]],
            ..Ground::default()
        };
        let snapshot = Snapshot {
            accepted_per_s: 412.4,
            backlog: 1_234,
            store: Some("timescaledb".into()),
            menus: Some(MenuSnapshot { reads_per_s: 79.2, ..MenuSnapshot::default() }),
            orders: Some(OrderSnapshot { per_min: 31.4, ..OrderSnapshot::default() }),
            ..Snapshot::default()
        };
        let figures = Figures::new();
        let picture = Picture {
            title: "a town",
            phase: "running",
            uptime: Duration::from_secs(65),
            left: None,
            snapshot: &snapshot,
            figures: &figures,
            ground: &ground,
            markers: &[Marker { at: Spot::new(0.0, 500.0), kind: MarkerKind::Busy }],
        };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| paint(frame, &picture)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_figures_and_the_map_are_there() {
        let text = painted(120, 30);
        for part in [
            "a town",
            "0:01:05",
            "412/s",
            "79/s",
            "31/min, 0 declined",
            "1,234",
            "TimescaleDB",
            "first event",
            "all well",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let dots = text.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count();
        assert!(dots > 30, "{dots} cells of the map are drawn\n{text}");
    }

    #[test]
    fn a_small_terminal_shows_what_fits() {
        assert!(painted(50, 20).contains("412/s"));
        painted(1, 1);
    }

    #[test]
    fn the_map_keeps_its_shape() {
        let [west, east, south, north] = fit([-10.0, 10.0, -10.0, 10.0], Rect::new(0, 0, 80, 10));
        // 80 cells of one by two: four times as wide as it is high.
        assert_eq!([south, north, west, east], [-10.0, 10.0, -40.0, 40.0]);
    }
}
