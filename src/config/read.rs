//! From a TOML document to the tables of `raw`, with the place of each value. Written by hand because serde stops at the first
//! thing that it does not like, and people want to hear of all of them at once.
//!
//! What stands here knows TOML, `${VAR}` and how a table is read. It knows no setting by name.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::problems::{Fault, Problems, Span, enumerated, nearest, quoted};
use super::raw;

/// A setting of a table.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    /// It was given and is wrong, which is a problem already: nothing that follows from it is one.
    Bad,
    Given(Spanned<T>),
}

impl<T> Field<T> {
    pub(super) fn given(self) -> Option<Spanned<T>> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }

    pub(super) fn or(self, default: T) -> T {
        self.given().map_or(default, Spanned::into_inner)
    }

    pub(super) fn or_default(self) -> T
    where
        T: Default,
    {
        self.or(T::default())
    }

    pub(super) fn span(&self) -> Option<Span> {
        match self {
            Self::Given(value) => Some(value.span()),
            Self::Absent | Self::Bad => None,
        }
    }
}

/// Something that stands behind an equals sign, or a whole table.
pub(super) trait Read: Sized {
    /// With its article: "a duration".
    const WHAT: &'static str;
    /// How it is written, as the end of a sentence that begins with "write".
    fn form() -> String;
    fn list_form() -> String {
        format!("a list in brackets, each entry {}", Self::form())
    }
    /// None if that is not what stands there; then the reader has the problem.
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self>;
}

/// A value that is no list and no table.
pub(super) trait FromScalar: Sized {
    const WHAT: &'static str;
    fn form() -> String;
    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault>;
}

pub(super) enum Scalar<'a> {
    /// With its variables replaced.
    Text(Cow<'a, str>),
    /// As it is written; a number that i64 cannot hold is its nearest one, which no setting allows.
    Number(i64, String),
    Switch(bool),
    /// What no setting is, as a message shows it.
    Other(String),
}

/// A table of settings that `raw` describes.
pub(super) trait Table: Sized {
    /// `[limits]`, `[[listeners]]`, or for a table within braces the name of its setting.
    const TITLE: &'static str;
    const FIELDS: &'static [&'static str];
}

pub(super) struct Reader<'a> {
    source: &'a str,
    lookup_env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) problems: &'a mut Problems,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a str, lookup_env: &'a dyn Fn(&str) -> Option<String>, problems: &'a mut Problems) -> Self {
        Self { source, lookup_env, problems }
    }

    /// The table, if it is one; every name in it that `T` does not have is a problem.
    pub(super) fn table<'v, 'i, T: Table + Read>(&mut self, value: &'v Spanned<DeValue<'i>>) -> Option<&'v DeTable<'i>> {
        let Some(table) = value.get_ref().as_table() else {
            let shown = self.scalar(value)?.shown();
            self.problems.add_with_help(&value.span(), format!("{shown} is not {}", T::WHAT), format!("write {}", T::form()));
            return None;
        };
        for name in table.keys().filter(|name| !T::FIELDS.contains(&name.get_ref().as_ref())) {
            let message = match T::TITLE {
                "" => format!("there is no section `{}`", name.get_ref().escape_debug()),
                title => format!("{} has no setting `{}`", owner(title), name.get_ref().escape_debug()),
            };
            self.problems.add_with_help(&name.span(), message, what_was_meant(name.get_ref(), T::FIELDS));
        }
        Some(table)
    }

    pub(super) fn field<T: Read>(&mut self, table: &DeTable<'_>, name: &str) -> Field<T> {
        match table.get(name) {
            None => Field::Absent,
            Some(value) => T::read(value, self).map_or(Field::Bad, |read| Field::Given(Spanned::new(value.span(), read))),
        }
    }

    /// None if a variable in it has no value.
    fn scalar<'v>(&mut self, value: &'v Spanned<DeValue<'_>>) -> Option<Scalar<'v>> {
        Some(match value.get_ref() {
            DeValue::String(text) => Scalar::Text(self.expand(text, &value.span())?),
            DeValue::Integer(number) => Scalar::Number(nearest_i64(number), number.to_string()),
            DeValue::Boolean(switch) => Scalar::Switch(*switch),
            DeValue::Float(number) => Scalar::Other(number.to_string()),
            DeValue::Datetime(time) => Scalar::Other(time.to_string()),
            DeValue::Array(_) => Scalar::Other("a list".to_owned()),
            DeValue::Table(_) => Scalar::Other("a table".to_owned()),
        })
    }

    /// The text with each `${VAR}` replaced from the environment and each `$${` read as `${`.
    fn expand<'v>(&mut self, text: &'v str, span: &Span) -> Option<Cow<'v, str>> {
        if !text.contains("${") {
            return Some(Cow::Borrowed(text));
        }
        let mut expanded = String::new();
        let mut missing = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                expanded.extend([before, "${"]);
                rest = behind;
                continue;
            }
            let (name, behind) = behind.split_once('}').map_or((behind, None), |(name, behind)| (name, Some(behind)));
            expanded.push_str(before);
            match (behind.is_some() && is_variable(name)).then(|| (self.lookup_env)(name)).flatten() {
                Some(value) => expanded.push_str(&value),
                None if missing.contains(&(name, behind.is_some())) => {}
                None => missing.push((name, behind.is_some())),
            }
            rest = behind.unwrap_or_default();
        }
        expanded.push_str(rest);
        for (name, is_closed) in &missing {
            self.missing_variable(name, *is_closed, span);
        }
        missing.is_empty().then_some(Cow::Owned(expanded))
    }

    fn missing_variable(&mut self, name: &str, is_closed: bool, span: &Span) {
        if is_closed && is_variable(name) {
            let help = format!("set {name} before the start, or write $${{{name}}} for that text itself");
            self.problems.add_with_help(
                &self.part(span, &format!("${{{name}}}")),
                format!("there is no environment variable {name}"),
                help,
            );
        } else {
            let help = "write ${NAME} for an environment variable, $${ for the two characters themselves";
            self.problems.add_with_help(&self.part(span, &format!("${{{name}")), "`${` without a name and `}` behind it", help);
        }
    }

    /// Where a part of a text stands in the file; the whole text if it is written there with escapes.
    fn part(&self, span: &Span, part: &str) -> Span {
        let written = self.source.get(span.clone()).unwrap_or_default();
        let is_literal = |at: usize| written.get(..at).is_some_and(|before| before.ends_with('$'));
        let at = written.match_indices(part).map(|(at, _)| at).find(|at| !is_literal(*at));
        at.map_or_else(|| span.clone(), |at| span.start + at..span.start + at + part.len())
    }
}

impl Scalar<'_> {
    /// What stands in quotes; nothing else is taken for it.
    pub(super) fn text(&self) -> Result<&str, Fault> {
        if let Self::Text(text) = self { Ok(text) } else { Err(Fault::Form) }
    }

    /// As the file has it, more or less.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Number(_, shown) | Self::Other(shown) => shown.clone(),
            Self::Switch(switch) => switch.to_string(),
        }
    }
}

impl<T: FromScalar> Read for T {
    const WHAT: &'static str = <T as FromScalar>::WHAT;

    fn form() -> String {
        <T as FromScalar>::form()
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let scalar = reader.scalar(value)?;
        let (message, help) = match T::from_scalar(&scalar) {
            Ok(read) => return Some(read),
            Err(Fault::Form) => {
                (format!("{} is not {}", scalar.shown(), <T as Read>::WHAT), Some(format!("write {}", <T as Read>::form())))
            }
            Err(Fault::Said { message, help }) => (message, help),
        };
        match help {
            Some(help) => reader.problems.add_with_help(&value.span(), message, help),
            None => reader.problems.add(&value.span(), message),
        }
        None
    }
}

impl<T: Read> Read for Vec<Spanned<T>> {
    const WHAT: &'static str = "a list";

    fn form() -> String {
        T::list_form()
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(entries) = value.get_ref().as_array() else {
            let shown = reader.scalar(value)?.shown();
            reader.problems.add_with_help(&value.span(), format!("{shown} is not a list"), format!("write {}", T::list_form()));
            return None;
        };
        let read: Self = entries.iter().filter_map(|entry| Some(Spanned::new(entry.span(), T::read(entry, reader)?))).collect();
        // A list of nothing but bad entries is not an empty list.
        (entries.is_empty() || !read.is_empty()).then_some(read)
    }
}

/// A table as the subject of a sentence.
pub(super) fn owner(title: &str) -> Cow<'_, str> {
    match title {
        header if header.starts_with('[') => header.into(),
        setting => format!("`{setting}`").into(),
    }
}

fn is_variable(name: &str) -> bool {
    let is_name = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    is_name && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn what_was_meant(name: &str, fields: &[&str]) -> String {
    if let Some(near) = nearest(name, fields.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    let mut others = raw::TABLES.iter().filter(|(title, fields)| !title.is_empty() && fields.contains(&name));
    match (others.next(), others.next()) {
        (Some((title, _)), None) => format!("`{name}` belongs in {}", owner(title)),
        _ => format!("there is {}", enumerated(fields)),
    }
}

fn nearest_i64(number: &DeInteger<'_>) -> i64 {
    let edge = if number.as_str().starts_with('-') { i64::MIN } else { i64::MAX };
    i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(edge)
}
