//! Why something was not done. The codes are part of the contract with programs.

use std::fmt;
use std::io;

use serde::Serialize;

use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// All of what is wrong with the input.
    #[error("{}", Lines(.0))]
    Invalid(Vec<FieldProblem>),
    #[error("there is no {what} `{name}`")]
    NotFound { what: &'static str, name: String },
    /// The status of a key, an account or a node does not allow it.
    #[error("{0}")]
    WrongStatus(String),
    #[error("{0}")]
    Import(ImportProblems),
    /// Something got in the way in the middle of an import that had been found to be right.
    #[error(
        "the import stopped: the keys of all lines up to {line} are in the store ({keys} of them), nothing behind; when the \
         cause is mended, import the rest of the file"
    )]
    ImportStopped { line: u64, keys: u64, source: Box<KeyringError> },
    #[error("the file changed between the check and the import: line {line} is no longer right")]
    ImportChanged { line: u64 },
    #[error("could not read what to import")]
    Input(#[source] io::Error),
    #[error("could not write the export")]
    Output(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is wrong with one field.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FieldProblem {
    /// Such as `name` or `ip_restrictions.allowed[2]`.
    pub field: String,
    /// A sentence that says what would be right.
    pub detail: String,
}

/// What is wrong with the lines of an import; nothing of it was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ImportProblems {
    /// The first ones, at most [`ImportProblems::SHOWN`].
    pub lines: Vec<LineProblem>,
    /// How many there are.
    pub total: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LineProblem {
    /// From 1.
    pub line: u64,
    pub detail: String,
}

impl KeyringError {
    /// The name of the error for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_fields",
            Self::NotFound { .. } => "not_found",
            Self::WrongStatus(_) => "wrong_status",
            Self::Import(_) => "invalid_import",
            Self::ImportStopped { .. } | Self::ImportChanged { .. } => "import_stopped",
            Self::Input(_) | Self::Output(_) => "input_output",
            Self::Store(_) => "store_unavailable",
        }
    }

    /// The HTTP status that goes with it.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) | Self::Import(_) => 422,
            Self::NotFound { .. } => 404,
            Self::WrongStatus(_) | Self::ImportStopped { .. } | Self::ImportChanged { .. } => 409,
            Self::Input(_) | Self::Output(_) => 500,
            Self::Store(_) => 503,
        }
    }

    /// Whether it was refused for a reason that lies in what was asked for: such a try is a line of the audit log.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::NotFound { .. } | Self::WrongStatus(_) | Self::Import(_))
    }
}

impl From<getrandom::Error> for KeyringError {
    fn from(error: getrandom::Error) -> Self {
        Self::Store(error.into())
    }
}

impl ImportProblems {
    pub const SHOWN: usize = 1000;

    pub(super) const fn none() -> Self {
        Self { lines: Vec::new(), total: 0 }
    }

    pub(super) fn add(&mut self, line: u64, detail: String) {
        self.total += 1;
        if self.lines.len() < Self::SHOWN {
            self.lines.push(LineProblem { line, detail });
        }
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.detail)
    }
}

impl fmt::Display for LineProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.detail)
    }
}

impl fmt::Display for ImportProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Lines(&self.lines))?;
        let more = self.total.saturating_sub(self.lines.len() as u64);
        if more > 0 { write!(f, "\nand {more} more; nothing was imported") } else { f.write_str("\nnothing was imported") }
    }
}

/// One line for each.
struct Lines<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Lines<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
