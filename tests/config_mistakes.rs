//! Configurations that must fail, each with the exact text that people are shown; and the shipped file, which must not.
//!
//! A mistake is a pair of files in `fixtures/config`: what somebody wrote, and what they are told. After a change of wording,
//! `UPDATE_EXPECTED=1 cargo test --test config_mistakes` writes the second ones anew, to be read before they are kept.

#![allow(clippy::unwrap_used, reason = "the functions below the tests are tests, too")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use martis_gateway::config::{self, Config, Place, Problems, StoreUrl};

/// Relative, so that no message depends on where the sources are.
const MISTAKES: &str = "tests/fixtures/config";

#[test]
fn every_mistake_is_told_in_its_exact_words() {
    let mut differences = String::new();
    for file in mistakes() {
        let told = told(&file);
        let expected_file = file.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected_file, &told).unwrap();
        }
        let expected = fs::read_to_string(&expected_file).unwrap_or_default();
        if told != expected {
            writeln!(differences, "\n{}:\n{}", file.display(), difference(&expected, &told)).unwrap();
        }
    }
    assert!(differences.is_empty(), "not as expected (- expected, + told):\n{differences}");
}

#[test]
fn every_expected_text_belongs_to_a_mistake() {
    for file in fixtures("txt") {
        assert!(file.with_extension("toml").exists(), "{} belongs to nothing", file.display());
    }
}

#[test]
fn an_empty_file_and_the_shipped_one_say_the_same() {
    let folder = Path::new("/etc/martis");
    let defaults = Config::defaults(folder);
    assert_eq!(parse("", folder).unwrap(), defaults);
    assert_eq!(parse(Config::default_text(), folder).unwrap(), defaults);
}

#[test]
fn every_setting_of_the_shipped_file_has_one_sentence_above_it() {
    let lines: Vec<&str> = Config::default_text().lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with("# ")) {
        let sentence = pair[0].strip_prefix("# ").unwrap_or_else(|| panic!("nothing is said of {}", pair[1]));
        assert!(sentence.ends_with('.') && !sentence.contains(". "), "not one sentence: {sentence}");
    }
}

#[test]
fn every_setting_that_is_commented_out_is_valid_without_the_number_sign() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["cert.pem", "key.pem", "ca.pem"] {
        fs::write(folder.path().join(file), "").unwrap();
    }
    // A PROXY header is believed from trusted proxies alone.
    let text = Config::default_text().replace("trusted_proxies = []", "trusted_proxies = [\"10.0.0.0/8\"]");
    let without = parse(&text, folder.path()).unwrap();
    let settings = commented_out(&text);
    assert!(settings.len() > 10, "the shipped file shows {} optional settings only", settings.len());
    for lines in settings {
        let with = parse(&uncommented(&text, &lines), folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(with != without || is_a_default(&text, &lines), "line {} changes nothing", lines.start + 1);
    }
}

#[test]
fn a_file_is_read_with_its_own_folder_as_the_beginning_of_paths() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    fs::write(&file, "[store]\nurl = \"sqlite:keys.db\"\n").unwrap();
    assert_eq!(config::load(&file).unwrap().store, StoreUrl::Sqlite(folder.path().join("keys.db")));
}

#[test]
fn a_file_that_is_not_there_is_told_with_the_ways_to_name_one() {
    let problems = config::load(Path::new("absent/gateway.toml")).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "error: absent/gateway.toml: there is no such file\n\
         help: name the file with --config FILE or MARTIS_CONFIG, or start in the folder of a gateway.toml"
    );
}

#[test]
fn a_file_that_is_not_utf8_is_told_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    fs::write(&file, b"[node]\nname = \"caf\xe9\"\n").unwrap();
    let problems = config::load(&file).unwrap_err();
    let told: Vec<_> = problems.iter().map(|problem| (problem.message.as_str(), problem.place)).collect();
    assert_eq!(told, [("this is not UTF-8", Some(Place { line: 2, column: 12 }))]);
}

/// Settings that are shown with the value that they have anyway.
fn is_a_default(text: &str, lines: &std::ops::Range<usize>) -> bool {
    let line = text.lines().nth(lines.start).unwrap();
    ["#protocol", "#upgrades", "#forward_authorization"].iter().any(|setting| line.starts_with(setting))
}

/// The lines of each setting that is commented out: one, or a section with all that follows without a gap.
fn commented_out(text: &str) -> Vec<std::ops::Range<usize>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut settings = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let end = if lines[at].starts_with("#[") {
            at + lines[at..].iter().position(|line| line.is_empty()).unwrap_or(lines.len() - at)
        } else {
            at + 1
        };
        if is_commented_out(lines[at]) {
            settings.push(at..end);
        }
        at = end;
    }
    settings
}

fn uncommented(text: &str, which: &std::ops::Range<usize>) -> String {
    let line = |(at, line): (usize, &str)| match line.strip_prefix('#') {
        Some(setting) if which.contains(&at) && is_commented_out(line) => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().enumerate().map(line).collect()
}

fn is_commented_out(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|setting| setting.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
}

fn parse(text: &str, folder: &Path) -> Result<Config, Problems> {
    config::parse(text, folder, "gateway.toml", &|_| None)
}

/// What somebody who wrote this file is told.
#[track_caller]
fn told(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let variable = |name: &str| match name {
        "PORT" => Some("9000".to_owned()),
        "HOST" => Some("core internal".to_owned()),
        _ => None,
    };
    let name = file.file_name().unwrap().to_string_lossy();
    match config::parse(&text, Path::new(MISTAKES), &name, &variable) {
        Ok(_) => "no mistake is seen\n".to_owned(),
        Err(problems) => format!("{problems}\n"),
    }
}

fn mistakes() -> Vec<PathBuf> {
    let mistakes = fixtures("toml");
    assert!(!mistakes.is_empty(), "there is nothing in {MISTAKES}");
    mistakes
}

fn fixtures(extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(MISTAKES).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|other| other == extension)).collect();
    files.sort();
    files
}

/// The lines between what both texts begin with and what both end with.
fn difference(expected: &str, told: &str) -> String {
    let (expected, told): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), told.lines().collect());
    let shorter = expected.len().min(told.len());
    let start = (0..shorter).take_while(|&at| expected[at] == told[at]).count();
    let end = (0..shorter - start).take_while(|&at| expected[expected.len() - 1 - at] == told[told.len() - 1 - at]).count();
    let removed = expected[start..expected.len() - end].iter().map(|line| format!("- {line}\n"));
    let added = told[start..told.len() - end].iter().map(|line| format!("+ {line}\n"));
    removed.chain(added).collect()
}
