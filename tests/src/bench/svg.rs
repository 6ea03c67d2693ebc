//! Plots as SVG text: lines or dots over two axes, either of them logarithmic. It draws what it is given and leaves
//! out only what has no place on an axis.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 8] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f"];

/// One plot.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Below and beside it.
    pub axes: [String; 2],
    /// Whether an axis is logarithmic.
    pub log: [bool; 2],
    /// Dots instead of lines.
    pub dots: bool,
    /// Name and points of each series.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

/// One axis: from values to places.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let scale = |value: f64| if log { value.log10() } else { value };
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.map(scale).filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if log {
            (low, high) = (low.floor(), high.ceil());
        } else {
            low = low.min(0.0);
        }
        if high - low < 1e-9 {
            high = low + 1.0;
        }
        Self { low, high, log }
    }

    /// Where a value lies, 0..=1; `None` if nowhere.
    fn place(&self, value: f64) -> Option<f64> {
        let value = if self.log { value.log10() } else { value };
        value.is_finite().then(|| (value - self.low) / (self.high - self.low))
    }

    /// Labelled places.
    fn marks(&self) -> Vec<(f64, String)> {
        let steps = if self.log { (self.high - self.low) as usize } else { 5 };
        let mark = |index: usize| {
            let share = index as f64 / steps as f64;
            let value = self.low + share * (self.high - self.low);
            let shown = if self.log { 10f64.powf(value) } else { value };
            let digits = if shown == 0.0 || shown.abs() >= 10.0 { 0 } else { 3 };
            (share, format!("{shown:.digits$}"))
        };
        (0..=steps).map(mark).collect()
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Plot {
    /// The SVG text.
    #[must_use]
    pub fn render(&self) -> String {
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let across = Axis::of(points().map(|point| point.0), self.log[0]);
        let up = Axis::of(points().map(|point| point.1), self.log[1]);
        let (wide, high) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let mut put = |line: String| writeln!(out, "{line}").expect("a string takes all");
        put(format!("<text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>", escaped(&self.title)));
        let bottom = TOP + high;
        for (share, label) in across.marks() {
            let x = LEFT + share * wide;
            put(format!("<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>"));
            put(format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 16.0));
        }
        for (share, label) in up.marks() {
            let y = bottom - share * high;
            put(format!("<path d=\"M{LEFT} {y:.1}h{wide}\" stroke=\"#ddd\"/>"));
            put(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, y + 4.0));
        }
        put(format!("<text x=\"{LEFT}\" y=\"{}\">{}</text>", HEIGHT - 12.0, escaped(&self.axes[0])));
        put(format!("<text transform=\"translate(16 {bottom}) rotate(-90)\">{}</text>", escaped(&self.axes[1])));
        for (index, (name, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let placed = points.iter().filter_map(|point| Some((across.place(point.0)?, up.place(point.1)?)));
            let placed: Vec<_> = placed.map(|(x, y)| (LEFT + x * wide, bottom - y * high)).collect();
            if self.dots {
                for (x, y) in placed {
                    put(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{colour}\"/>"));
                }
            } else {
                let line: Vec<String> = placed.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                put(format!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", line.join(" ")));
            }
            let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 16.0 * index as f64 + 10.0);
            put(format!("<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>", y - 9.0));
            put(format!("<text x=\"{}\" y=\"{y}\">{}</text>", x + 16.0, escaped(name)));
        }
        out + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_that_has_a_place_is_drawn() {
        let points = vec![(1.0, 10.0), (10.0, 1000.0), (0.0, 5.0), (f64::NAN, 1.0)];
        let series = vec![("a < b".to_owned(), points)];
        let plot = Plot { log: [true, true], dots: true, series, ..Plot::default() };
        let text = plot.render();
        assert_eq!(text.matches("<circle").count(), 2, "a logarithmic axis has no 0");
        assert!(text.contains("a &lt; b") && text.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_at_all_is_an_empty_plot() {
        assert!(Plot::default().render().contains("<rect"));
    }
}
