//! Charts as SVG that stands in a page: no address of elsewhere, and the page's own colour of text.

use anyhow::anyhow;
use plotters::prelude::*;

/// Pixels of a chart's own coordinates; pages scale it.
const SIZE: (u32, u32) = (640, 240);
/// More points than this cannot be told apart.
const POINTS_MAX: usize = 500;
/// Stands for the page's colour of text until the chart is done.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_HEX: &str = "#010203";

/// What a point stands for when there are more of them than can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thin {
    /// The greatest of its neighbours.
    Peak,
    /// Their mean.
    Mean,
}

/// A line.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// What is under the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// Seconds.
    Time,
    /// How many nines: 90, 99, 99.9 % and so on are as far apart.
    Nines,
}

/// Colours that can be told apart on white and on black, by people who see few colours too.
/// Okabe and Ito 2008, without black and yellow.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// The colour of line `n` as CSS has it.
pub(super) fn colour(n: usize) -> String {
    let RGBColor(r, g, b) = COLOURS[n % COLOURS.len()];
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Draws the lines, each from 0 up; the first lies on top.
///
/// # Errors
/// The library cannot draw it.
pub(super) fn lines(series: &[Series], axis: Axis, thin: Thin) -> anyhow::Result<String> {
    let failed = |error| anyhow!("a chart cannot be drawn: {error}");
    let series: Vec<_> = series.iter().map(|one| thinned(&one.points, thin)).collect();
    let all = || series.iter().flatten();
    let x_max = all().fold(0.0, |most: f64, (x, _)| most.max(*x)).max(1.0);
    let y_max = ceiling(all().fold(0.0, |most: f64, (_, y)| most.max(*y)));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let draw = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
            let mut chart = ChartBuilder::on(&area)
                .margin(6)
                .margin_right(28)
                .x_label_area_size(28)
                .y_label_area_size(58)
                .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
            let label = ("sans-serif", 15).into_font().color(&INK.mix(0.75));
            chart
                .configure_mesh()
                .disable_x_mesh()
                .light_line_style(INK.mix(0.0))
                .bold_line_style(INK.mix(0.14))
                .axis_style(INK.mix(0.35))
                .label_style(label)
                .x_labels(if axis == Axis::Nines { x_max.ceil() as usize + 1 } else { 9 })
                .y_labels(5)
                .x_label_formatter(&|x| match axis {
                    Axis::Time => format!("{}s", short(*x)),
                    Axis::Nines => nines(*x),
                })
                .y_label_formatter(&|y| short(*y))
                .draw()?;
            for (n, points) in series.iter().enumerate().rev() {
                let style = COLOURS[n % COLOURS.len()].stroke_width(2);
                chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            }
            area.present()
        };
        draw().map_err(failed)?;
    }
    // In a page the name of the format is known, and its size is the page's business.
    let svg = svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1).replacen(
        &format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1),
        "",
        1,
    );
    Ok(svg.replace(INK_HEX, "currentColor"))
}

fn thinned(points: &[(f64, f64)], thin: Thin) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(POINTS_MAX).max(1);
    let one = |bucket: &[(f64, f64)]| {
        let (x, mut ys) = (bucket[bucket.len() / 2].0, bucket.iter().map(|(_, y)| *y));
        let y = match thin {
            Thin::Peak => ys.fold(0.0, f64::max),
            Thin::Mean => ys.by_ref().sum::<f64>() / bucket.len() as f64,
        };
        (x, y)
    };
    points.chunks(step).map(one).collect()
}

/// A round number above `most`, so that the highest point does not touch the frame.
fn ceiling(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    let steps = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0];
    let step = steps.into_iter().find(|step| step * power >= most * 1.04);
    step.unwrap_or(12.0) * power
}

/// Without digits that say nothing.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.1}M", value / 1e6),
        v if v >= 1e4 => format!("{:.0}k", value / 1e3),
        v if v >= 10.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        _ => format!("{value:.2}"),
    }
}

fn nines(x: f64) -> String {
    let percent = 100.0 * (1.0 - 10_f64.powf(-x));
    if (x - x.round()).abs() > 0.01 {
        return String::new();
    }
    match x.round() as i32 {
        0 => "0 %".into(),
        1 => "90 %".into(),
        digits => format!("{percent:.0$} %", (digits - 2).max(0) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_svg_that_needs_nothing_from_elsewhere() {
        let points = (0..2_000).map(|n| (f64::from(n), f64::from(n % 7))).collect();
        let series = [
            Series { name: "a".into(), points },
            Series { name: "none".into(), points: Vec::new() },
        ];
        for (axis, thin) in [(Axis::Time, Thin::Peak), (Axis::Nines, Thin::Mean)] {
            let svg = lines(&series, axis, thin).unwrap();
            assert!(svg.starts_with("<svg viewBox"), "{}", &svg[..60]);
            assert!(!svg.contains("http") && !svg.contains(INK_HEX));
            assert!(svg.contains("currentColor") && svg.contains(&colour(0).to_uppercase()));
        }
        assert!(lines(&[], Axis::Time, Thin::Mean).is_ok());
    }

    #[test]
    fn neighbours_become_one_point() {
        let points: Vec<_> = (0..1_000).map(|n| (f64::from(n), f64::from(n % 2))).collect();
        assert!(thinned(&points, Thin::Peak).iter().all(|(_, y)| *y == 1.0));
        assert!(thinned(&points, Thin::Mean).iter().all(|(_, y)| *y == 0.5));
        assert_eq!(thinned(&points, Thin::Mean).len(), 500);
        assert_eq!(thinned(&points[..3], Thin::Peak), points[..3]);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(
            [0.0, 0.25, 1.0, 2.5, 250.0, 12_000.0, 2.5e6].map(short),
            ["0", "0.25", "1", "2.5", "250", "12k", "2.5M"]
        );
        assert_eq!([0.0, 1.0, 2.0, 3.0, 1.5].map(nines), ["0 %", "90 %", "99 %", "99.9 %", ""]);
        assert_eq!((ceiling(0.0), ceiling(97.0), ceiling(100.0)), (1.0, 120.0, 120.0));
    }
}
