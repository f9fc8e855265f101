//! From the figures of a run to verdicts, a report for people and plots.

pub mod figures;
pub mod goals;
mod markdown;
mod plots;

use crate::environment::Environment;
use crate::error::{Context, Error};
use figures::Figures;
use goals::{Goal, Verdict};
use serde::Serialize;
use std::path::Path;

/// What is written as JSON.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The machine and the moment.
    pub environment: Environment,
    /// Every goal with its verdict.
    pub goals: Vec<Goal>,
}

impl Summary {
    /// Judges the figures.
    #[must_use]
    pub fn new(figures: &Figures) -> Self {
        Self {
            environment: figures.environment(),
            goals: goals::judge(figures),
        }
    }

    /// How many goals have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let same = |goal: &&Goal| goal.verdict == verdict;
        self.goals.iter().filter(same).count()
    }

    /// Writes `verdicts.json`, `report.md` and the plots.
    ///
    /// # Errors
    /// Where it cannot write.
    pub fn write(&self, figures: &Figures, directory: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(directory).during(directory.display().to_string())?;
        let plots = plots::write(figures, directory)?;
        let json = serde_json::to_string_pretty(self).during("the verdicts")?;
        for (name, text) in [
            ("verdicts.json", json),
            ("report.md", markdown::text(self, figures, &plots)),
        ] {
            let path = directory.join(name);
            std::fs::write(&path, text).during(path.display().to_string())?;
        }
        Ok(())
    }
}
