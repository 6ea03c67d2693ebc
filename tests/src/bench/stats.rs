//! Small statistics: percentiles, medians, spreads. It rounds nothing and guesses nothing.

/// The value below or at which a share `of` (0..=1) of the sorted values lies (nearest rank); `NAN` of none.
#[must_use]
pub fn percentile(sorted: &[f64], of: f64) -> f64 {
    let rank = (of * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).wrapping_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Sorts values. Values that are no number are last.
#[must_use]
pub fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The median, of an even number the mean of the two in the middle; `NAN` of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let values = sorted(values.to_vec());
    let middle = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        middle(values.len() / 2)
    } else {
        f64::midpoint(middle((values.len() / 2).wrapping_sub(1)), middle(values.len() / 2))
    }
}

/// The smallest; `NAN` of none.
#[must_use]
pub fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::min)
}

/// The largest; `NAN` of none.
#[must_use]
pub fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// The share of values at or below each of them: the points of a distribution, at most about 400 of them.
#[must_use]
pub fn distribution(values: Vec<f64>) -> Vec<(f64, f64)> {
    let values = sorted(values);
    let step = (values.len() / 400).max(1);
    let last = values.len().saturating_sub(1);
    let shown = values.iter().enumerate().filter(|(index, _)| index % step == 0 || *index == last);
    shown.map(|(index, value)| (*value, (index + 1) as f64 / values.len() as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 500.0);
        assert_eq!(percentile(&values, 0.999), 999.0);
        assert_eq!(percentile(&values, 1.0), 1000.0);
        assert_eq!(percentile(&values[..1], 0.5), 1.0);
        assert!(percentile(&[], 0.5).is_nan() && median(&[]).is_nan());
        assert_eq!((median(&[3.0, 1.0]), median(&[9.0, 1.0, 2.0])), (2.0, 2.0));
        assert_eq!(median(&[1.0, f64::INFINITY]), f64::INFINITY, "what was lost is not averaged away");
    }

    #[test]
    fn a_distribution_ends_at_one() {
        let points = distribution((0..1000).map(f64::from).collect());
        assert_eq!(points.last(), Some(&(999.0, 1.0)));
        assert!(points.len() < 600);
    }
}
