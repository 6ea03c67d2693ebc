//! Acting overlap: acts at the same time that break the rule of views, added up over all that the sinks of the other rows
//! saw, in namespaces and in the simulator. It measures nothing, and takes no row for measured that is not.

use super::series::{BROKEN, REFUSED, TOGETHER};
use super::{Bar, Context, Figure, Found, report};
use anyhow::{Context as _, Result};

/// Its own name.
pub const NAME: &str = "acting-overlap";
/// Rows of real daemons in namespaces, each with acts of its own.
const NAMESPACES: [&str; 5] = ["view-death", "view-verdict", "rejoin", "fence", "lease-starved"];
const SIMULATOR: [&str; 1] = ["simulator"];

/// Adds up the figures of this name, whatever they begin with; a row without one, or without its value, is an error.
fn sum(rows: &[(&str, Vec<Figure>)], name: &str) -> Result<f64> {
    let of_row = |(row, figures): &(&str, Vec<Figure>)| -> Result<f64> {
        let found: Vec<&Figure> = figures.iter().filter(|figure| figure.name.ends_with(name)).collect();
        let values = found.iter().map(|figure| figure.value).collect::<Option<Vec<f64>>>();
        let values = values.filter(|values| !values.is_empty());
        values.map(|values| values.iter().sum()).with_context(|| format!("{row} does not say: {name}"))
    };
    rows.iter().map(of_row).sum()
}

/// `acting-overlap`.
pub fn run(context: &Context) -> Result<Found> {
    let mut figures = Vec::new();
    for (place, names) in [("namespaces", &NAMESPACES[..]), ("simulator", &SIMULATOR[..])] {
        let row = |name: &&'static str| -> Result<_> { Ok((*name, report::figures_of(context, name)?)) };
        figures.extend(of_place(place, &names.iter().map(row).collect::<Result<Vec<_>>>()?)?);
    }
    let notes = vec![
        format!("added up over {} and {}", NAMESPACES.join(", "), SIMULATOR.join(", ")),
        "the sink of the namespaces acts for each node every half millisecond, with the token of its page, and looks twice: \
         who may act both times did so together with all that were read between"
            .to_owned(),
    ];
    Ok(Found { figures, notes })
}

fn of_place(place: &str, rows: &[(&str, Vec<Figure>)]) -> Result<[Figure; 3]> {
    Ok([
        Figure::new(format!("{place}: {BROKEN}"), sum(rows, BROKEN)?, "", Bar::AtMost(0.0)),
        Figure::new(format!("{place}: {TOGETHER}"), sum(rows, TOGETHER)?, "", Bar::AtLeast(1.0)),
        Figure::new(format!("{place}: {REFUSED}"), sum(rows, REFUSED)?, "", Bar::Shown),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(broken: f64, together: f64) -> (&'static str, Vec<Figure>) {
        let figure = |name: &str, value| Figure::new(name, value, "", Bar::Shown);
        let more = format!("cut off: {BROKEN}");
        let figures = [(BROKEN, broken), (TOGETHER, together), (REFUSED, 1.0), (more.as_str(), 0.0)];
        ("row", figures.map(|(name, value)| figure(name, value)).into())
    }

    #[test]
    fn one_overlap_anywhere_is_not_met_and_a_row_that_is_silent_is_an_error() {
        let met = |rows: &[(&str, Vec<Figure>)]| of_place("x", rows).unwrap().iter().all(Figure::met);
        assert!(met(&[row(0.0, 1.0), row(0.0, 0.0)]));
        assert!(!met(&[row(0.0, 1.0), row(1.0, 1.0)]) && !met(&[row(0.0, 0.0)]));
        assert!(of_place("x", &[row(f64::NAN, 1.0)]).is_err() && of_place("x", &[("row", Vec::new())]).is_err());
    }

    #[test]
    fn a_row_that_was_not_measured_is_an_error() {
        let out = tempfile::tempdir().unwrap();
        let context = Context { quick: true, out: out.path().to_owned(), again: false };
        let error = run(&context).unwrap_err();
        assert!(format!("{error:#}").contains("view-death"), "{error:#}");
    }
}
