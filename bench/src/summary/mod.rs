//! From the figures of a run to verdicts, a report for people and plots.

pub mod figures;
pub mod goals;
mod markdown;
mod plots;
mod readme;

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

    /// Replaces the measured part of a README, whose report and plots [`Summary::write`] has put in
    /// `directory`.
    ///
    /// # Errors
    /// When it cannot be read or written, or has no such part.
    pub fn write_readme(
        &self,
        figures: &Figures,
        readme: &Path,
        directory: &Path,
    ) -> Result<(), Error> {
        let name = || readme.display().to_string();
        let text = std::fs::read_to_string(readme).during(name())?;
        // links in a README are relative to it
        let parent = readme.parent().unwrap_or(Path::new(""));
        let directory = directory.strip_prefix(parent).unwrap_or(directory);
        let measured = readme::text(self, figures, directory);
        std::fs::write(readme, readme::replace(&text, &measured)?).during(name())
    }
}
