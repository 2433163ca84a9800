//! Who may know whom. The table below is the whole of it: each `crate::` path under `src/`, but for those of tests, is an arrow
//! from one module to another, and an arrow that is not in the table fails, as does one in the table that nobody uses any more.
//!
//! Besides: the rules (`access`) and the gate neither wait nor lock nor do any I/O, and nothing anywhere is global and mutable.

#![allow(clippy::unwrap_used, reason = "the functions below the tests are tests, too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, in reading order, and the modules that it may name. Nobody calls back up.
const ARROWS: &[(&str, &[&str])] = &[
    ("access", &[]),
    ("config", &["access"]),
    ("clock", &["access"]),
    ("drain", &[]),
    ("tls", &["access", "config"]),
    ("telemetry", &["access", "clock", "config"]),
    ("index", &["access"]),
    ("store", &["access", "index"]),
    ("sync", &["access", "clock", "index", "store", "telemetry"]),
    ("gate", &["access", "index"]),
    ("proxy", &["access", "clock", "config", "drain", "gate", "telemetry", "tls"]),
    ("keyring", &["access", "clock", "store"]),
    // Explains a decision by the code that makes it, so it alone of the keyring knows that code.
    ("keyring/explain", &["access", "gate", "index", "store"]),
    ("health", &["access", "clock", "index", "sync", "telemetry"]),
    ("app", &["access", "clock", "config", "drain", "gate", "health", "index", "proxy", "store", "sync", "telemetry", "tls"]),
    ("cli", &["access", "app", "clock", "config", "keyring", "store", "sync", "telemetry", "tls"]),
    ("main", &["cli"]),
];

/// What the rules and the gate must not so much as mention: waiting, locks, I/O, clocks.
const NOT_IN_THE_DECISION: &[&str] = &[
    "async",
    "await",
    "tokio",
    "sqlx",
    "Mutex",
    "RwLock",
    "OnceLock",
    "Condvar",
    "std::fs",
    "std::io",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "SystemTime",
    "Instant",
    "tracing",
];

#[test]
fn every_arrow_is_in_the_table() {
    let mut strangers = Vec::new();
    for (from, arrows) in arrows() {
        let Some((_, allowed)) = ARROWS.iter().find(|(module, _)| *module == from) else {
            strangers.push(format!("{from} is not in the table"));
            continue;
        };
        let new = arrows.iter().filter(|(to, _)| !allowed.contains(&to.as_str()));
        strangers.extend(new.map(|(to, file)| format!("{from} -> {to}, in {}", file.display())));
    }
    assert!(strangers.is_empty(), "arrows that are not in the table:\n{}", strangers.join("\n"));
}

#[test]
fn every_arrow_of_the_table_is_used() {
    let arrows = arrows();
    let used = |from: &str, to: &str| arrows.get(from).is_some_and(|arrows| arrows.contains_key(to));
    let all = ARROWS.iter().flat_map(|(from, allowed)| allowed.iter().map(move |to| (*from, *to)));
    let idle: Vec<_> = all.filter(|(from, to)| !used(from, to)).collect();
    assert!(idle.is_empty(), "arrows that nobody uses, to be taken out of the table: {idle:?}");
}

#[test]
fn nothing_in_the_table_calls_back_up() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let reaches = |from: &str, to: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            next.extend(allowed.get(module).into_iter().copied().flatten().copied().filter(|module| seen.insert(*module)));
        }
        seen.contains(to)
    };
    for (module, _) in ARROWS {
        assert!(!reaches(module, module), "{module} reaches itself");
    }
}

#[test]
fn the_decision_neither_waits_nor_locks_nor_does_any_io() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| matches!(module_of(source).as_str(), "access" | "gate")) {
        let code = code_of(source);
        let words = NOT_IN_THE_DECISION.iter().filter(|word| mentions(&code, word));
        found.extend(words.map(|word| format!("{word} in {}", source.display())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn nothing_is_global_and_mutable() {
    const CELLS: &[&str] = &["static mut ", "thread_local!", "lazy_static!", "OnceLock", "LazyLock", "OnceCell", "LazyCell"];
    let changes = |code: &str| {
        code.lines().any(|line| line.contains("static ") && ["Mutex", "RwLock", "Atomic", "Cell<"].iter().any(|cell| line.contains(cell)))
    };
    for source in sources() {
        let code = code_of(&source);
        let cell = CELLS.iter().find(|cell| code.contains(**cell));
        assert!(cell.is_none() && !changes(&code), "{} holds something global: {cell:?}", source.display());
    }
}

/// All arrows: from whom to whom, and a file where it is.
fn arrows() -> BTreeMap<String, BTreeMap<String, PathBuf>> {
    let mut arrows: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for source in sources() {
        let from = module_of(&source);
        // A part of a module does not need the table to know the rest of it.
        let whole = from.split('/').next().unwrap().to_owned();
        let to = named(&code_of(&source), depth_of(&source)).into_iter().filter(|to| *to != whole);
        let known = arrows.entry(from).or_default();
        for to in to {
            known.entry(to).or_insert_with(|| source.clone());
        }
    }
    arrows
}

/// Every source file but those of tests and the map of the modules.
fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_str().unwrap();
            match () {
                () if entry.is_dir() => folders.push(entry),
                () if name == "tests.rs" || entry == Path::new("src/lib.rs") => {}
                () if name.ends_with(".rs") => files.push(entry),
                () => {}
            }
        }
    }
    files.sort();
    files
}

/// The row of the table that a file belongs to: that of its top module, unless a part of that has its own.
fn module_of(source: &Path) -> String {
    let path = source.strip_prefix("src").unwrap().with_extension("").to_str().unwrap().to_owned();
    let part = ARROWS.iter().map(|(module, _)| *module).filter(|module| module.contains('/'));
    let own = part.into_iter().find(|part| path == *part || path.starts_with(&format!("{part}/")));
    own.map_or_else(|| path.split('/').next().unwrap().to_owned(), str::to_owned)
}

/// How many times `super::` leads from a file to the crate.
fn depth_of(source: &Path) -> usize {
    let parts = source.strip_prefix("src").unwrap().components().count();
    if source.ends_with("mod.rs") { parts - 1 } else { parts }
}

/// The code of a file without its comments and its tests, which stand last.
fn code_of(source: &Path) -> String {
    without_tests_and_comments(&fs::read_to_string(source).unwrap())
}

fn without_tests_and_comments(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            // A module of tests ends the file; anything else that only tests have is a single item.
            match lines.peek() {
                Some(next) if next.starts_with("mod ") && next.ends_with('{') => break,
                _ => skip_item(&mut lines),
            }
            continue;
        }
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

fn skip_item<'a>(lines: &mut impl Iterator<Item = &'a str>) {
    let mut open = 0_i32;
    for line in lines {
        open += i32::try_from(line.matches('{').count()).unwrap() - i32::try_from(line.matches('}').count()).unwrap();
        if open == 0 && (line.ends_with('}') || line.ends_with(';')) {
            return;
        }
    }
}

/// The top modules that a piece of code names.
fn named(code: &str, depth: usize) -> BTreeSet<String> {
    let to_the_top = "super::".repeat(depth);
    let mut found = BTreeSet::new();
    for root in ["crate::", "martis_gateway::", to_the_top.as_str()] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            // In the middle of a longer path, or of a longer chain of `super::`.
            if before.is_some_and(|character| character.is_alphanumeric() || matches!(character, '_' | ':')) {
                continue;
            }
            let behind = &code[at + root.len()..];
            match behind.strip_prefix('{') {
                Some(group) => found.extend(first_segments(group)),
                None => found.extend(segment(behind)),
            }
        }
    }
    found.remove("super");
    found
}

/// The first segments of all paths in a group, whose opening brace is taken off.
fn first_segments(group: &str) -> Vec<String> {
    let (mut depth, mut begins, mut segments) = (0, true, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            character if character.is_whitespace() => {}
            _ if begins => {
                segments.extend(segment(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    segments
}

/// The name that a text begins with, if it is that of a module: types and functions of the crate's root are none.
fn segment(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect();
    let is_module = name.starts_with(|first: char| first.is_ascii_lowercase());
    is_module.then_some(name)
}

/// Whether a code has a word that is not a part of a longer one; a path may go on behind it.
fn mentions(code: &str, word: &str) -> bool {
    let of_a_word = |character: Option<char>| character.is_some_and(|character| character.is_alphanumeric() || character == '_');
    code.match_indices(word).any(|(at, _)| {
        let (before, behind) = (&code[..at], &code[at + word.len()..]);
        let goes_on = !word.contains("::") && of_a_word(behind.chars().next());
        !of_a_word(before.chars().next_back()) && !goes_on
    })
}

#[test]
fn paths_are_found_in_every_form() {
    #[track_caller]
    fn check(code: &str, depth: usize, expected: &[&str]) {
        let found = named(&without_tests_and_comments(code), depth);
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{code}");
    }
    check("use crate::store::Store;", 1, &["store"]);
    check("use crate::{access::key::{Key, Id}, clock};", 1, &["access", "clock"]);
    check("fn a() { crate::sync::start() }", 1, &["sync"]);
    check("use super::index::Index;", 1, &["index"]);
    check("use super::index::Index;", 2, &[]);
    check("use super::super::index::Index;", 2, &["index"]);
    check("// crate::store\n/// [`crate::store`]", 1, &[]);
    check("use crate::gate::Gate;\n#[cfg(test)]\nmod tests {\n    use crate::store::Store;\n}", 1, &["gate"]);
    check("#[cfg(test)]\nuse crate::store::Store;\nuse crate::gate::Gate;", 1, &["gate"]);
    check("#[cfg(test)]\nfn a() {\n    crate::store::b()\n}\nuse crate::gate::Gate;", 1, &["gate"]);
    check("use martis_gateway::cli;", 1, &["cli"]);
}

#[test]
fn words_are_found_whole() {
    assert!(mentions("let a = b.await;", "await"));
    assert!(!mentions("let awaited = 1;", "await"));
    assert!(mentions("use std::net::TcpStream;", "std::net::Tcp"));
    assert!(!mentions("instance", "Instant"));
    assert!(!mentions("InstantLike", "Instant"));
}
