//! What is wrong with a configuration and how people are shown it: each problem with its place in the file, what is wrong
//! there, and what would be right. All of them at once; nothing here stops at the first.
//!
//! Passwords in URLs and secrets of keys are masked in every message and every line shown: what is printed here ends up in
//! logs and tickets.

use std::fmt;
use std::iter;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::access::key::Environment;

/// Bytes of the file, from its beginning.
pub(super) type Span = Range<usize>;

/// All that is wrong with one file, in the order of the file. Displayed as frames without colour.
pub struct Problems {
    file_name: String,
    /// The file, masked; masking keeps the places of all bytes and characters.
    source: String,
    list: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// None if the file could not be read at all.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What would be right, where the message does not say so.
    pub help: Option<String>,
    span: Span,
}

/// A place in a file, as editors count: the first character of a file is line 1, column 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub line: usize,
    /// In characters, not in bytes.
    pub column: usize,
}

/// Why a value was refused, before anybody knows where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// It has not the form that such a value has. The reader knows that form and says it.
    Form,
    /// Something particular, said in full.
    Said { message: String, help: Option<String> },
}

impl Fault {
    pub(super) fn said(message: impl Into<String>) -> Self {
        Self::Said { message: message.into(), help: None }
    }

    pub(super) fn helped(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Said { message: message.into(), help: Some(help.into()) }
    }

    /// The same where something else would have been right, too.
    pub(super) fn or(self, other: &str) -> Self {
        match self {
            Self::Said { message, help: Some(help) } => Self::Said { message, help: Some(format!("{help}; or {other}")) },
            fault => fault,
        }
    }
}

impl Problems {
    pub(super) fn new(file_name: &str, source: &str) -> Self {
        Self { file_name: file_name.to_owned(), source: masked(source), list: Vec::new() }
    }

    /// For a file of which nothing can be read.
    pub(super) fn of_the_file(file_name: &str, message: &str, help: &str) -> Self {
        let problem = Problem { place: None, message: masked(message), help: Some(masked(help)), span: 0..0 };
        Self { file_name: file_name.to_owned(), source: String::new(), list: vec![problem] }
    }

    pub(super) fn add(&mut self, span: &Span, message: impl AsRef<str>) {
        self.insert(span, message.as_ref(), None);
    }

    pub(super) fn add_with_help(&mut self, span: &Span, message: impl AsRef<str>, help: impl AsRef<str>) {
        self.insert(span, message.as_ref(), Some(help.as_ref()));
    }

    fn insert(&mut self, span: &Span, message: &str, help: Option<&str>) {
        let span = first_line(&self.source, span);
        let problem = Problem { place: Some(place(&self.source, span.start)), message: masked(message), help: help.map(masked), span };
        let behind = self.list.partition_point(|other| other.span.start <= problem.span.start);
        self.list.insert(behind, problem);
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// The frames, for a terminal that shows colours or for everything else.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let frames: Vec<String> = self.list.iter().map(|problem| self.frame(problem, &renderer)).collect();
        frames.join("\n\n")
    }

    fn frame(&self, problem: &Problem, renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(&problem.message);
        // Only primary titles are cleaned by the renderer; a help may repeat what the file says.
        let help = problem.help.as_ref().map(|help| annotate_snippets::normalize_untrusted_str(help));
        if problem.place.is_none() {
            let help = help.map(|help| Level::HELP.secondary_title(help));
            // Each for itself: between groups the renderer draws a frame, and there is nothing in it.
            let titles = iter::once(title).chain(help).map(|title| renderer.render(&[Group::with_title(title)]));
            return titles.collect::<Vec<String>>().join("\n");
        }
        let place = AnnotationKind::Primary.span(problem.span.clone());
        let snippet = Snippet::source(&self.source).path(&self.file_name).annotation(place);
        renderer.render(&[title.element(snippet).elements(help.map(|help| Level::HELP.message(help)))])
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Problems {}

/// The one of `words` that was probably meant.
pub(super) fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the word may differ, so that `off` is not taken for `on`, nor three letters for any other three.
    let most = (word.chars().count() / 3).clamp(1, 3);
    let distance = |candidate: &&str| strsim::damerau_levenshtein(&word.to_lowercase(), candidate);
    words.into_iter().min_by_key(distance).filter(|candidate| distance(candidate) <= most)
}

/// A value as a message shows it: in quotes, on one line, not at any length.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        None => format!("\"{}\"", text.escape_debug()),
        Some((end, _)) => format!("\"{}…\"", text.get(..end).unwrap_or_default().escape_debug()),
    }
}

/// "`a`, `b` and `c`"
pub(super) fn enumerated(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// A span within the text and on one line of it: a frame that repeats a whole section helps nobody.
fn first_line(source: &str, span: &Span) -> Span {
    let start = source.floor_char_boundary(span.start);
    let end = source.floor_char_boundary(span.end.max(start));
    let line = source.get(start..end).and_then(|text| text.find('\n')).unwrap_or(end - start);
    start..start + line
}

fn place(source: &str, offset: usize) -> Place {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
    Place { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
}

/// The text with passwords of URLs and secrets of keys overwritten, so that the places of all bytes and characters stay what they are.
fn masked(text: &str) -> String {
    let mut hidden: Vec<Span> = Vec::new();
    hidden.extend(text.match_indices("://").filter_map(|(at, mark)| url_password(text, at + mark.len())));
    hidden.extend(text.match_indices("password=").map(|(at, mark)| until(text, at + mark.len(), |c| c == '&' || ends_value(c))));
    for environment in Environment::ALL {
        let prefix = environment.prefix();
        hidden.extend(text.match_indices(prefix).map(|(at, _)| until(text, at + prefix.len(), |c| !c.is_ascii_alphanumeric())));
    }
    let is_hidden = |at: usize| hidden.iter().any(|span| span.contains(&at));
    text.char_indices().map(|(at, character)| if is_hidden(at) { mask(character) } else { character }).collect()
}

/// A character that says nothing and is as long.
fn mask(character: char) -> char {
    match character.len_utf8() {
        1 => '*',
        2 => '×',
        3 => '∗',
        _ => '🞰',
    }
}

/// The password of the URL whose authority begins at `start`: all between its first colon and its last at sign.
fn url_password(text: &str, start: usize) -> Option<Span> {
    let authority = text.get(until(text, start, ends_value))?;
    let user_info = authority.get(..authority.rfind('@')?)?;
    let colon = user_info.find(':')?;
    Some(start + colon + 1..start + user_info.len())
}

fn until(text: &str, start: usize, ends: impl Fn(char) -> bool) -> Span {
    let rest = text.get(start..).unwrap_or_default();
    start..start + rest.find(ends).unwrap_or(rest.len())
}

fn ends_value(character: char) -> bool {
    matches!(character, '"' | '\'' | '`') || character.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn problems_stand_in_the_order_of_the_file_with_line_and_column_in_characters() {
        let mut problems = Problems::new("a.toml", "é = 1\nä = \"ö\" # x\n");
        problems.add(&(12..16), "second");
        problems.add_with_help(&(0..2), "first", "write another");
        let places: Vec<_> = problems.iter().map(|problem| (problem.message.as_str(), problem.place)).collect();
        assert_eq!(places, [("first", Some(Place { line: 1, column: 1 })), ("second", Some(Place { line: 2, column: 5 }))]);
    }

    #[test]
    fn a_frame_shows_the_line_the_place_and_what_would_be_right() {
        let mut problems = Problems::new("gateway.toml", "[log]\nlevle = \"info\"\n");
        problems.add_with_help(&(6..11), "[log] has no setting `levle`", "did you mean `level`?");
        let expected = "\
error: [log] has no setting `levle`
 --> gateway.toml:2:1
  |
2 | levle = \"info\"
  | ^^^^^
  |
  = help: did you mean `level`?";
        assert_eq!(problems.to_string(), expected);
        assert!(problems.render(true).contains("\u{1b}["));
    }

    #[test]
    fn the_nearest_word_is_named_only_if_it_is_near() {
        let words = ["head_timeout", "head_bytes", "off"];
        assert_eq!(nearest("head_timeot", words), Some("head_timeout"));
        assert_eq!(nearest("Head_Bytes", words), Some("head_bytes"));
        assert_eq!(nearest("of", words), Some("off"));
        assert_eq!(nearest("on", words), None);
        assert_eq!(nearest("listeners", words), None);
    }

    #[test]
    fn passwords_and_secrets_are_masked_in_place() {
        let secret = format!("sk_live_{}", "a".repeat(38));
        for (text, expected) in [
            ("url = \"postgres://me:pä:ss/w@host/db\" # x", "url = \"postgres://me:*×*****@host/db\" # x"),
            ("postgres://host/db?password=x&a=b", "postgres://host/db?password=*&a=b"),
            ("http://host:80/path", "http://host:80/path"),
            (&format!("key {secret}."), &format!("key sk_live_{}.", "*".repeat(38))),
        ] {
            assert_eq!(masked(text), expected);
            assert_eq!((masked(text).len(), masked(text).chars().count()), (text.len(), text.chars().count()));
        }
    }

    proptest! {
        #[test]
        fn any_text_and_any_span_can_be_shown(text in "(\\PC|\n|\r|\t){0,60}", start in 0_usize..80, length in 0_usize..80) {
            let mut problems = Problems::new("gateway.toml", &text);
            problems.add_with_help(&(start..start + length), &text, &text);
            prop_assert!(!problems.to_string().is_empty());
        }
    }
}
