//! How answers look: JSON for programs, tables and sentences for people. Results go to standard output, everything else to
//! standard error. Colour only where a terminal shows it and NO_COLOR does not forbid it.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context, Result};
use clap::builder::styling::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width};
use serde::Serialize;

use crate::access::secret::{GeneratedSecret, hide_secrets};

pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BAD: Style = AnsiColor::Red.on_default();
pub const WARN: Style = AnsiColor::Yellow.on_default();
pub const QUIET: Style = Style::new().dimmed();
pub const STRONG: Style = Style::new().bold();

const CANNOT_WRITE: &str = "write to standard output";
/// In characters, with the space beside it.
const NARROW: u16 = 18;

/// Where answers go, and in which form.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    pub const fn is_json(self) -> bool {
        self.json
    }

    /// Shows an answer: as it is to programs, as `for_people` writes it to people. It is no error if they do not read it to the end.
    ///
    /// # Errors
    /// If standard output takes no more.
    pub fn answer<T: Serialize>(self, answer: &T, for_people: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>) -> Result<()> {
        read_or_left(self.show(answer, for_people))
    }

    /// As [`Output::answer`], for what can never be shown again: that nobody reads it is an error, too.
    ///
    /// # Errors
    /// If standard output takes no more.
    pub fn answer_once<T: Serialize>(self, answer: &T, for_people: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>) -> Result<()> {
        self.show(answer, for_people).context(CANNOT_WRITE)
    }

    fn show<T: Serialize>(self, answer: &T, for_people: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        if self.json {
            return write_json(answer);
        }
        let mut out = anstream::stdout().lock();
        for_people(answer, &mut out)?;
        out.flush()
    }
}

/// What was written to standard output: whoever reads it may have enough, as `| head -1` has after a line.
///
/// # Errors
/// Any other than that.
pub fn read_or_left(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context(CANNOT_WRITE),
    }
}

/// Straight to standard output: a secret is not to be copied more often than need be.
fn write_json(answer: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, answer)?;
    writeln!(out)?;
    out.flush()
}

/// Says something that is not the answer: to people, and out of the way of programs. Lost if nobody takes it.
pub fn note(text: impl Display) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// As [`note`], for what should not be overlooked.
pub fn warn(text: impl Display) {
    note(format_args!("{WARN}warning{WARN:#}: {text}"));
}

/// What went wrong, and what it came of, a line each.
pub fn complain(error: &anyhow::Error) {
    for (place, cause) in error.chain().enumerate() {
        let (title, style) = if place == 0 { ("error", BAD) } else { ("cause", QUIET) };
        // A secret may have got into a text of the operating system or of a dependency. Of several lines, each is a problem.
        let text = hide_secrets(&cause.to_string()).replace('\n', "\n       ");
        note(format_args!("{style}{title}{style:#}: {text}"));
    }
}

/// The secret of a new key, on a line of its own so that it is easily copied.
pub fn secret(out: &mut dyn Write, secret: &GeneratedSecret) -> io::Result<()> {
    writeln!(out, "\n{STRONG}{}{STRONG:#}\n", secret.reveal())?;
    writeln!(out, "This secret is shown this once and cannot be shown again: put it into a secret store now, not into code or chat.")
}

/// A table in the width of the terminal; in a pipe as wide as it gets, so that a line is a row.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let interactive = io::stdout().is_terminal();
    table.set_content_arrangement(if interactive { ContentArrangement::Dynamic } else { ContentArrangement::Disabled });
    if AutoStream::choice(&io::stdout()) == ColorChoice::Never {
        table.force_no_tty()
    } else {
        table.enforce_styling()
    };
    if !header.is_empty() {
        table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    }
    table
}

/// Writes a table without spaces at the beginnings and ends of its lines. In a narrow terminal the second column gives way,
/// down to [`NARROW`]: it has names and lists; ids, which are copied, stay whole.
pub fn write_table(out: &mut dyn Write, mut table: Table) -> io::Result<()> {
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        let second = ColumnConstraint::LowerBoundary(Width::Fixed(NARROW));
        column.set_constraint(if place == 1 { second } else { ColumnConstraint::ContentWidth });
    }
    writeln!(out, "{}", table.trim_fmt())
}

/// A cell with a text that somebody may have chosen: nothing in it can move the cursor or colour the screen.
pub fn cell(text: impl Display) -> Cell {
    Cell::new(plain(&text.to_string()))
}

pub fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }).collect()
}

/// A status in its colour.
pub fn status_cell(status: &str) -> Cell {
    let colour = match status {
        "active" | "live" => Color::Green,
        "paused" | "suspended" => Color::Yellow,
        _ => Color::Red,
    };
    Cell::new(status).fg(colour)
}

/// `1 key`, `2 keys`.
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn one_is_counted_in_the_singular() {
        assert_eq!([counted(0, "key"), counted(1, "key"), counted(2, "key")], ["0 keys", "1 key", "2 keys"]);
    }
}
