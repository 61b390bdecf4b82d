//! A measured figure beside its target.

use std::time::Duration;

use serde::Serialize;

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn held(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figure {
    /// What was measured.
    pub(super) name: String,
    pub(super) value: f64,
    /// `ms`, `tokens/s`, `MiB`, or what is counted.
    pub(super) unit: &'static str,
    /// The same without what is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) without: Option<f64>,
    /// The first in relation to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<f64>,
    /// What the ratio, or the value where there is none, should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held: Option<bool>,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            without: None,
            ratio: None,
            target: None,
            held: None,
        }
    }

    pub(super) fn beside(mut self, without: f64) -> Self {
        self.without = Some(without);
        self.ratio = (without > 0.0).then(|| self.value / without);
        self
    }

    pub(super) fn should(mut self, target: Target) -> Self {
        self.target = Some(target);
        self.held = Some(target.held(self.ratio.unwrap_or(self.value)));
        self
    }

    pub(super) const HEAD: [&'static str; 7] = [
        "what", "measured", "unit", "without", "ratio", "target", "held",
    ];

    pub(super) fn cells(&self) -> Vec<String> {
        let number = |value: f64| match value {
            v if v == v.trunc() && v.abs() < 1e9 => format!("{v:.0}"),
            v if v.abs() < 10.0 => format!("{v:.3}"),
            v => format!("{v:.1}"),
        };
        let or_nothing = |value: Option<f64>| value.map(number).unwrap_or_default();
        let target = self.target.map(|target| match target {
            Target::AtMost(limit) => format!("≤ {}", number(limit)),
            Target::AtLeast(limit) => format!("≥ {}", number(limit)),
        });
        let held = self.held.map(|held| if held { "yes" } else { "MISSED" });
        vec![
            self.name.clone(),
            number(self.value),
            self.unit.to_owned(),
            or_nothing(self.without),
            or_nothing(self.ratio),
            target.unwrap_or_default(),
            held.unwrap_or_default().to_owned(),
        ]
    }
}

/// The value below or at which the share `q` of all is; 0 of none.
pub(super) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (q * values.len() as f64).ceil() as usize;
    values
        .get(place.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let mut at = |q| quantile(&mut values, q);
        assert_eq!(
            [at(0.0), at(0.5), at(0.99), at(1.0)],
            [1.0, 50.0, 99.0, 100.0]
        );
        assert_eq!(quantile(&mut [], 0.5), 0.0);
        assert_eq!(quantile(&mut [3.0], 0.99), 3.0);
    }

    #[test]
    fn a_target_is_the_ratios_where_there_is_one() {
        let alone = Figure::new("x", 3.0, "ms").should(Target::AtMost(2.0));
        assert_eq!((alone.ratio, alone.held), (None, Some(false)));
        let beside = Figure::new("x", 3.0, "ms")
            .beside(2.0)
            .should(Target::AtMost(2.0));
        assert_eq!((beside.ratio, beside.held), (Some(1.5), Some(true)));
        let share = Figure::new("x", 70.0, "tokens/s")
            .beside(100.0)
            .should(Target::AtLeast(0.8));
        assert_eq!(share.held, Some(false));
        assert_eq!(share.cells()[4..], ["0.700", "≥ 0.800", "MISSED"]);
    }
}
