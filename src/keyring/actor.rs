//! Who does it, for the audit log and for `created_by`.

use std::fmt;

/// Who does something, and from where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    pub kind: ActorKind,
    /// The user of the machine, the member's address, the token's name.
    pub name: String,
    /// From where: an address, a terminal.
    pub source: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActorKind {
    /// Whoever can run the command line on the store: the operator.
    CommandLine,
    Member,
    Token,
}

impl ActorKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::CommandLine => "command_line",
            Self::Member => "member",
            Self::Token => "token",
        }
    }
}

impl fmt::Display for Actor {
    /// As `created_by` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ActorKind::CommandLine => write!(f, "{} (command line)", self.name),
            ActorKind::Member => f.write_str(&self.name),
            ActorKind::Token => write!(f, "{} (token)", self.name),
        }
    }
}
