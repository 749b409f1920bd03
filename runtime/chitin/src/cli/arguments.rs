//! Forms of flags that the parsers of other runtimes take, brought into ours.
//!
//! runc's parser (Go's `flag`) takes `-bundle` for `--bundle`, and a value for every switch (`--detach=false`). Both are
//! rewritten before ours sees the command line, by the names that the commands themselves declare. What follows the id of a
//! container whose command comes next (`exec`, `ps`) is left alone.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command};

use super::globals::truth;

/// The same command line, as our parser takes it. The first argument is the program's name.
pub fn normalise(command: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut rest = arguments.into_iter();
    let mut result: Vec<OsString> = rest.next().into_iter().collect();
    let mut command = command;
    while let Some(argument) = rest.next() {
        let text = argument.to_str().unwrap_or_default();
        if text == "--" {
            result.push(argument);
            break;
        }
        if !text.starts_with('-') || text == "-" {
            match command.find_subcommand(text) {
                Some(found) => command = found,
                None if command.get_positionals().any(Arg::is_trailing_var_arg_set) => {
                    result.push(argument);
                    break;
                }
                None => {}
            }
            result.push(argument);
            continue;
        }
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (text, None),
        };
        let Some(known) = declared(command, flag) else {
            result.push(argument);
            continue;
        };
        match (known.get_action(), value) {
            (ArgAction::SetTrue, Some(value)) => match truth(value) {
                Ok(true) => result.push(long(known, flag)),
                Ok(false) => {}
                // For our parser to complain about.
                Err(_) => result.push(argument),
            },
            (action, value) => {
                let takes_next = action.takes_values() && value.is_none() && !known.is_require_equals_set();
                let mut whole = long(known, flag);
                if let Some(value) = value {
                    whole.push("=");
                    whole.push(value);
                }
                result.push(whole);
                if takes_next {
                    result.extend(rest.next());
                }
            }
        }
    }
    result.extend(rest);
    result
}

/// What a flag is called here, with its dashes.
fn long(known: &Arg, flag: &str) -> OsString {
    match known.get_long() {
        // One letter is a short flag, whose value may be what comes next.
        Some(name) if flag.trim_start_matches('-').len() > 1 => format!("--{name}").into(),
        _ => OsStr::new(flag).to_owned(),
    }
}

/// The flag that a command declares under a name with one dash or two. Letters in a row, and a value right behind a letter,
/// are our parser's business.
fn declared<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    let name = flag.strip_prefix("--").or_else(|| flag.strip_prefix('-'))?;
    let mut letters = name.chars();
    if let (Some(letter), None) = (letters.next(), letters.next()) {
        return command.get_arguments().find(|a| !flag.starts_with("--") && a.get_short() == Some(letter));
    }
    command.get_arguments().find(|a| a.get_long() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn normalised(line: &str) -> String {
        let arguments = line.split(' ').map(OsString::from);
        let result = normalise(&super::super::Cli::command(), arguments);
        result.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn forms_of_other_parsers() {
        for (line, expected) in [
            ("x -root /r list -format json", "x --root /r list --format json"),
            ("x -root=/r -debug=true list -q", "x --root=/r --debug=true list -q"),
            ("x run --detach=false --keep=1 -b /b id", "x run --keep -b /b id"),
            ("x run -bundle -detach id", "x run --bundle -detach id"),
            ("x delete -force=T id", "x delete --force id"),
            (
                "x exec -t=false -tty -u -cwd id ls -size --all=false",
                "x exec -t=false --tty -u -cwd id ls -size --all=false",
            ),
            ("x exec --cwd --tty=false id", "x exec --cwd --tty=false id"),
            ("x kill id -9", "x kill id -9"),
            ("x do -tty=maybe -- ls", "x do -tty=maybe -- ls"),
            ("x create id -bundle /b", "x create id --bundle /b"),
            ("x update -memory -1 id", "x update --memory -1 id"),
            ("x run -db /b id", "x run -db /b id"),
            ("x ps -format=json id -format", "x ps --format=json id -format"),
        ] {
            assert_eq!(normalised(line), expected, "{line}");
        }
    }
}
