//! What is said of each command, and which commands there are.
//!
//! The help of a command is in `fixtures/help`. After a change of wording, `UPDATE_EXPECTED=1 cargo test --test command_line`
//! writes it anew, to be read before it is kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use martis_gateway::cli;

use super::machine::Machine;

const EXPECTED: &str = "tests/fixtures/help";

#[test]
fn the_help_of_every_command_is_as_expected() {
    let mut expected_files = BTreeSet::new();
    for (name, help) in all_help() {
        let file = Path::new(EXPECTED).join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&file, &help).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap_or_default(), help, "{}", file.display());
        expected_files.insert(file);
    }
    for entry in fs::read_dir(EXPECTED).unwrap() {
        let file = entry.unwrap().path();
        assert!(expected_files.contains(&file), "{} belongs to no command", file.display());
    }
}

#[test]
fn every_command_and_every_flag_has_a_sentence() {
    let mut commands = cli::commands();
    commands.build();
    each(&commands, &mut |name, command| {
        assert!(command.get_about().is_some(), "nothing is said of {name}");
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(argument.get_help().is_some(), "nothing is said of {} of {name}", argument.get_id());
        }
    });
}

#[test]
fn there_are_the_commands_of_this_release_and_no_others() {
    let names: Vec<_> = all_help().into_iter().map(|(name, _)| name).collect();
    let expected = "martis-gateway serve demo check explain keys keys-create keys-list keys-show keys-rename keys-restrict keys-rotate \
                    keys-pause keys-resume keys-revoke keys-import keys-export accounts accounts-create accounts-list accounts-suspend \
                    accounts-resume snapshot snapshot-write snapshot-show snapshot-verify nodes nodes-forget store store-accept completions";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        Machine::new().run(&["completions", shell]).done().prints(&["martis-gateway", "secret-stdin", "restrict"]);
    }
}

#[test]
fn the_version_is_told() {
    Machine::new().run(&["--version"]).done().prints(&[concat!("martis-gateway ", env!("CARGO_PKG_VERSION"))]);
}

#[test]
fn without_a_command_help_is_printed_and_the_usage_is_wrong() {
    Machine::new().run(&[]).wrong_usage().complains(&["Usage: martis-gateway", "explain"]);
}

/// Each command by its name, with what `--help` prints of it.
fn all_help() -> Vec<(String, String)> {
    let mut commands = cli::commands().term_width(100);
    commands.build();
    let mut all = Vec::new();
    each(&commands, &mut |name, command| all.push((name.to_owned(), command.clone().render_help().to_string())));
    all
}

/// Shows each command, but for `help`, with the names of those above it before its own.
fn each(command: &clap::Command, show: &mut impl FnMut(&str, &clap::Command)) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).replace(' ', "-");
    show(name.strip_prefix("martis-gateway-").unwrap_or(&name), command);
    command.get_subcommands().filter(|command| command.get_name() != "help").for_each(|command| each(command, show));
}
