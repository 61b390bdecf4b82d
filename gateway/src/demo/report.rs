//! What the demo saw, as a table with one verdict a line, and the exit status
//! that follows from it.

use std::time::{Duration, Instant};

use comfy_table::{Cell, Table};

/// One thing that had to hold.
#[derive(Debug)]
struct Check {
    what: String,
    demanded: String,
    seen: String,
    held: bool,
}

/// Collects checks and step times.
#[derive(Debug, Default)]
pub(super) struct Report {
    checks: Vec<Check>,
    steps: Vec<(String, Duration)>,
    running: Option<(String, Instant)>,
}

impl Report {
    /// Notes a check, and says so at once when it did not hold.
    pub(super) fn check(&mut self, what: &str, demanded: &str, seen: &str, held: bool) {
        if !held {
            super::say(&format!(
                "NOT HELD: {what}: demanded {demanded}, saw {seen}"
            ));
        }
        self.checks.push(Check {
            what: what.to_owned(),
            demanded: demanded.to_owned(),
            seen: seen.to_owned(),
            held,
        });
    }

    /// Ends the running step and starts another.
    pub(super) fn step(&mut self, name: &str) {
        self.end_step();
        let number = self.steps.len() + 1;
        super::say(&format!("\n[{number}] {name}"));
        self.running = Some((name.to_owned(), Instant::now()));
    }

    fn end_step(&mut self) {
        if let Some((name, since)) = self.running.take() {
            self.steps.push((name, since.elapsed()));
        }
    }

    /// Whether every check held.
    pub(super) fn held(&self) -> bool {
        self.checks.iter().all(|check| check.held)
    }

    /// The two tables, for people.
    pub(super) fn finish(&mut self) -> String {
        self.end_step();
        let mut checks = Table::new();
        checks.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        checks.set_header(["what", "demanded", "seen", "held"]);
        for check in &self.checks {
            let held = if check.held { "yes" } else { "NO" };
            checks.add_row(
                [&check.what, &check.demanded, &check.seen]
                    .map(Cell::new)
                    .into_iter()
                    .chain([Cell::new(held)]),
            );
        }
        let mut steps = Table::new();
        steps.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        steps.set_header(["step", "seconds"]);
        let mut total = Duration::ZERO;
        for (name, took) in &self.steps {
            total += *took;
            steps.add_row([name.clone(), format!("{:.1}", took.as_secs_f64())]);
        }
        steps.add_row(["all".to_owned(), format!("{:.1}", total.as_secs_f64())]);
        format!("{checks}\n{steps}")
    }

    /// Seconds of all steps so far.
    pub(super) fn total(&self) -> Duration {
        self.steps.iter().map(|(_, took)| *took).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_check_that_fails_fails_all() {
        let mut report = Report::default();
        report.step("first");
        report.check("a", "1", "1", true);
        assert!(report.held());
        report.check("b", "1", "2", false);
        assert!(!report.held());
        let text = report.finish();
        assert!(text.contains("NO") && text.contains("first"), "{text}");
    }
}
