//! Says which performance goals the figures of a run meet: as a table, as a report with plots, as JSON.

#![forbid(unsafe_code)]

use clap::Parser;
use sixferry_bench::error::Error;
use sixferry_bench::summary::Summary;
use sixferry_bench::summary::figures::Figures;
use sixferry_bench::summary::goals::{Goal, Verdict};
use std::path::PathBuf;
use std::process::ExitCode;

/// Judges the figures of a run. Exit code: 0; 1 with --strict, when a goal is missed; 2 an error.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What the benches have written, as JSON
    #[arg(required = true)]
    figures: Vec<PathBuf>,
    /// Where report.md, verdicts.json and the plots go
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Also replace the measured part of this README, with links to the report in --out
    #[arg(long)]
    readme: Option<PathBuf>,
    /// Fail when a goal is missed
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sixferry-bench-report: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool, Error> {
    let figures = Figures::read(&args.figures)?;
    let summary = Summary::new(&figures);
    summary.write(&figures, &args.out)?;
    if let Some(readme) = &args.readme {
        summary.write_readme(&figures, readme, &args.out)?;
    }
    for goal in &summary.goals {
        print(goal);
    }
    let missed = summary.count(Verdict::Missed);
    println!(
        "{} met, {missed} missed, {} not measured; {}",
        summary.count(Verdict::Aim) + summary.count(Verdict::Must),
        summary.count(Verdict::NotMeasured),
        args.out.join("report.md").display(),
    );
    Ok(missed == 0 || !args.strict)
}

fn print(goal: &Goal) {
    let sign = if goal.at_most { "<=" } else { ">=" };
    let figure = goal
        .figure
        .map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"));
    let verdict = goal.verdict.text().replace('*', "");
    let note = match goal.note.as_str() {
        "" => String::new(),
        note => format!(" ({note})"),
    };
    println!(
        "{:>2} {:<62} {figure:>7} {sign} {:<5} aim {:<5} {verdict}{note}",
        goal.number, goal.what, goal.must, goal.aim
    );
}
