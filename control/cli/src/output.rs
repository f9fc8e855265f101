//! Standard output: JSON, tables, and screens that redraw in place. A closed pipe is an error
//! here and a clean exit in [`crate::error`], never a panic (`println!` would).

use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, Row, TableStyle};
use serde::Serialize;

use crate::error::CliError;

/// Writes bytes as they are.
pub(crate) fn write(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Writes text and ends the line.
pub(crate) fn line(text: &str) -> Result<(), CliError> {
    write(format!("{}\n", text.trim_end_matches('\n')).as_bytes())
}

/// Says something on standard error. It may be closed: there is nobody left to tell then, and that
/// is no reason to stop.
pub(crate) fn note(text: &str) {
    let line = format!("{}\n", text.trim_end_matches('\n'));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Writes one JSON value, indented: the whole answer of a command.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), CliError> {
    line(&serde_json::to_string_pretty(value).map_err(io::Error::other)?)
}

/// Writes one JSON value on one line: one of many.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<(), CliError> {
    line(&serde_json::to_string(value).map_err(io::Error::other)?)
}

/// Columns and rows of the terminal on standard output; `None` if it is none.
pub(crate) fn terminal() -> Option<(u16, u16)> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    match rustix::termios::tcgetwinsize(&out) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Some((size.ws_col, size.ws_row)),
        _ => Some((80, 24)),
    }
}

/// A table without borders.
pub(crate) struct Table {
    inner: comfy_table::Table,
}

/// A column: its heading, and where its cells stand.
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(TableStyle::new());
        let heading = |c: &Column| match c {
            Column::Left(text) | Column::Right(text) => *text,
        };
        inner.set_header(Row::from(columns.iter().map(heading)));
        inner.set_content_arrangement(ContentArrangement::Disabled);
        for (index, column) in columns.iter().enumerate() {
            if let Some(inner) = inner.column_mut(index) {
                inner.set_padding((0, 2));
                if matches!(column, Column::Right(_)) {
                    inner.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self { inner }
    }

    /// Lets long cells wrap within the width of a terminal. Piped output never wraps.
    pub(crate) fn wrap(mut self, width: Option<u16>) -> Self {
        if let Some(width) = width {
            self.inner.set_width(width.max(40));
            self.inner
                .set_content_arrangement(ContentArrangement::Dynamic);
        }
        self
    }

    pub(crate) fn row<I>(&mut self, cells: I)
    where
        I: IntoIterator<Item = String>,
    {
        self.inner.add_row(Row::from(cells));
    }

    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for line in self.inner.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `Name   value` lines, aligned.
#[derive(Default)]
pub(crate) struct Facts {
    rows: Vec<(String, String)>,
}

impl Facts {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.rows.push((name.into(), value.into()));
        self
    }

    pub(crate) fn render(&self) -> String {
        let names = self.rows.iter().map(|(name, _)| name.chars().count());
        let width = names.max().unwrap_or(0) + 2;
        let mut text = String::new();
        for (name, value) in &self.rows {
            let line = format!("{name:width$}{value}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Draws the same thing again and again: over itself on a terminal, one after the other else.
#[derive(Default)]
pub(crate) struct Screen {
    drawn: usize,
}

impl Screen {
    pub(crate) fn draw(&mut self, text: &str) -> Result<(), CliError> {
        let frame = self.frame(text, terminal());
        write(frame.as_bytes())
    }

    fn frame(&mut self, text: &str, terminal: Option<(u16, u16)>) -> String {
        let Some((columns, rows)) = terminal else {
            let gap = if self.drawn > 0 { "\n" } else { "" };
            self.drawn = 1;
            return format!("{gap}{text}");
        };
        let mut frame = String::new();
        if self.drawn > 0 {
            frame.push_str(&format!("\x1b[{}F\x1b[J", self.drawn));
        }
        // A line that wraps, or one too many, would make the next frame start in the wrong place.
        let room = usize::from(rows).saturating_sub(1).max(1);
        self.drawn = 0;
        for line in text.lines().take(room) {
            frame.extend(line.chars().take(usize::from(columns)));
            frame.push('\n');
            self.drawn += 1;
        }
        frame
    }
}

/// Ctrl-C, caught from the moment this is made: it ends a watch cleanly.
pub(crate) struct Interrupt(tokio::signal::unix::Signal);

impl Interrupt {
    pub(crate) fn install() -> Result<Self, CliError> {
        use tokio::signal::unix::{SignalKind, signal};
        let installed = signal(SignalKind::interrupt());
        installed
            .map(Self)
            .map_err(|e| CliError::Failed(format!("cannot catch signals: {e}")))
    }

    /// Waits for it.
    pub(crate) async fn wait(&mut self) {
        self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_borders() {
        let mut table = Table::new(&[Column::Left("NAME"), Column::Right("PACKETS")]);
        table.row(["eth0".into(), "12".into()]);
        table.row(["a-long-name".into(), "1.23M".into()]);
        assert_eq!(
            table.render(),
            "NAME         PACKETS\n\
             eth0              12\n\
             a-long-name    1.23M\n"
        );
    }

    #[test]
    fn long_cells_wrap_on_a_terminal_only() {
        let cell = "a sentence that is longer than the terminal is wide";
        let columns = [Column::Left("WHAT"), Column::Left("WHY")];
        let mut piped = Table::new(&columns).wrap(None);
        piped.row(["x".into(), cell.into()]);
        assert_eq!(piped.render().lines().count(), 2);
        let mut wrapped = Table::new(&columns).wrap(Some(40));
        wrapped.row(["x".into(), cell.into()]);
        let text = wrapped.render();
        assert!(text.lines().count() > 2, "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 40), "{text}");
    }

    #[test]
    fn facts_are_aligned() {
        let mut facts = Facts::default();
        facts.add("Id", "t1").add("Remote", "192.0.2.1");
        assert_eq!(facts.render(), "Id      t1\nRemote  192.0.2.1\n");
    }

    #[test]
    fn a_screen_redraws_over_itself_and_stays_inside_the_terminal() {
        let mut screen = Screen::default();
        assert_eq!(screen.frame("a\nb\n", Some((80, 24))), "a\nb\n");
        assert_eq!(screen.frame("c\n", Some((80, 24))), "\x1b[2F\x1b[Jc\n");
        assert_eq!(
            screen.frame("longer\nx\ny\n", Some((4, 3))),
            "\x1b[1F\x1b[Jlong\nx\n"
        );
        assert_eq!(screen.frame("z\n", Some((4, 3))), "\x1b[2F\x1b[Jz\n");
    }

    #[test]
    fn a_pipe_gets_one_block_after_the_other() {
        let mut screen = Screen::default();
        assert_eq!(screen.frame("a\n", None), "a\n");
        assert_eq!(screen.frame("b\n", None), "\nb\n");
    }
}
