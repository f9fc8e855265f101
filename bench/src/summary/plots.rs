//! Bars as SVG.

use super::figures::Figures;
use super::goals::Spread;
use crate::error::{Context, Error};
use plotters::prelude::*;
use std::path::Path;

const WIDTH: u32 = 860;
const ROW: u32 = 26;
const LABELS: u32 = 230;
const FONT: (&str, i32) = ("sans-serif", 13);
/// Ours, and what it is compared with.
const OWN: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHER: RGBColor = RGBColor(0x9a, 0x9a, 0x9a);

struct Bar {
    name: String,
    value: Spread,
    color: RGBColor,
}

/// Writes what there are figures for; returns the files' names.
pub(super) fn write(figures: &Figures, directory: &Path) -> Result<Vec<&'static str>, Error> {
    let mut written = Vec::new();
    for (name, title, bars) in [
        (
            "rates.svg",
            "Million packets a second, median and quartiles",
            rates(figures),
        ),
        (
            "ratios.svg",
            "Ratio within a round, median and quartiles",
            ratios(figures),
        ),
        (
            "delays.svg",
            "Microseconds, median and quartiles over rounds",
            delays(figures),
        ),
    ] {
        if !bars.is_empty() {
            draw(&directory.join(name), title, &bars).during(name)?;
            written.push(name);
        }
    }
    Ok(written)
}

fn rates(figures: &Figures) -> Vec<Bar> {
    let is_own = |name: &str| name.starts_with("decap") || name.starts_with("encap");
    let bar = |rate: super::figures::Rate| Bar {
        color: if is_own(&rate.name) { OWN } else { OTHER },
        name: rate.name,
        value: rate.mpps,
    };
    let forwards = |rate: &super::figures::Rate| {
        // reception alone is several times as fast, and would make the rest look alike
        !["generator", "rxdrop", "rxdrop-bare"].contains(&rate.name.as_str())
    };
    figures
        .rates()
        .into_iter()
        .filter(forwards)
        .map(bar)
        .collect()
}

fn ratios(figures: &Figures) -> Vec<Bar> {
    let bar = |(name, value)| Bar {
        name,
        value,
        color: OWN,
    };
    figures.ratios().into_iter().map(bar).collect()
}

fn delays(figures: &Figures) -> Vec<Bar> {
    let rows = [
        ("one way, p50", "/delays", 0),
        ("one way, p99", "/delays", 1),
        ("one way, p99.9", "/delays", 2),
        ("idle round trip, p50", "/echoes", 0),
        ("idle round trip, p99", "/echoes", 1),
    ];
    let mut bars = Vec::new();
    for (name, field, at) in rows {
        for (who, side, color) in [("relay", 0, OWN), ("reference", 1, OTHER)] {
            if let Some(value) = figures.timing(&format!("{field}/{side}/{at}")) {
                let name = format!("{name}, {who}");
                bars.push(Bar { name, value, color });
            }
        }
    }
    bars
}

fn draw(
    path: &Path,
    title: &str,
    bars: &[Bar],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let plain = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
    let rows = bars.len();
    let height = ROW * (rows as u32 + 3);
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE).map_err(plain)?;
    let high = |bar: &Bar| {
        bar.value
            .quartiles
            .map_or(bar.value.median, |[_, high]| high)
    };
    let top = bars.iter().map(high).fold(0.0, f64::max) * 1.12;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 15))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(ROW)
        .y_label_area_size(LABELS)
        // the first bar is on top
        .build_cartesian_2d(0.0..top.max(1e-9), (rows as f64)..0.0)
        .map_err(plain)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(8)
        .label_style(FONT)
        .light_line_style(WHITE)
        .draw()
        .map_err(plain)?;
    for (row, bar) in bars.iter().enumerate() {
        let (above, below, middle) = (row as f64 + 0.15, row as f64 + 0.85, row as f64 + 0.5);
        let body = Rectangle::new(
            [(0.0, above), (bar.value.median, below)],
            bar.color.filled(),
        );
        chart.draw_series([body]).map_err(plain)?;
        if let Some([low, high]) = bar.value.quartiles {
            let whisker = PathElement::new([(low, middle), (high, middle)], BLACK.stroke_width(2));
            chart.draw_series([whisker]).map_err(plain)?;
        }
        let (_, y) = chart.backend_coord(&(0.0, middle));
        let style = TextStyle::from(FONT.into_font()).color(&BLACK);
        root.draw_text(&bar.name, &style, (12, y - 7))
            .map_err(plain)?;
        let value = format!("{:.2}", bar.value.median);
        let (end, _) = chart.backend_coord(&(high(bar), middle));
        root.draw_text(&value, &style, (end + 6, y - 7))
            .map_err(plain)?;
    }
    root.present().map_err(plain)?;
    Ok(())
}
