//! "#!" lines, to the letter of fs/binfmt_script.c.

use super::HEAD_SIZE;
use chitin_abi::Errno;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) interpreter: Vec<u8>,
    pub(super) argument: Option<Vec<u8>>,
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

/// Takes the line apart; `head` is the file's start, padded with zeroes.
pub(super) fn parse(head: &[u8; HEAD_SIZE]) -> Result<Script, Errno> {
    let text = head.get(2..).unwrap_or_default();
    // A newline after a NUL does not count.
    let newline = until_nul(text).iter().position(|&b| b == b'\n');
    let line = match newline {
        Some(end) => text.get(..end).unwrap_or_default(),
        None => {
            // The line is longer than what was read: the path, at least, must have ended before.
            let text = text.get(..text.len() - 1).unwrap_or_default();
            let name = text.iter().position(|&b| !is_blank(b)).ok_or(Errno::ENOEXEC)?;
            let rest = text.get(name..).unwrap_or_default();
            let whole = head.last() == Some(&0) || rest.iter().any(|&b| is_blank(b) || b == 0);
            if !whole {
                return Err(Errno::ENOEXEC);
            }
            text
        }
    };
    let start = line.iter().position(|&b| !is_blank(b)).ok_or(Errno::ENOEXEC)?;
    let end = line.iter().rposition(|&b| !is_blank(b)).map_or(0, |last| last + 1);
    let line = line.get(start..end).unwrap_or_default();
    let split = line.iter().position(|&b| is_blank(b) || b == 0).unwrap_or(line.len());
    let (interpreter, rest) = line.split_at(split);
    if interpreter.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    let argument = match rest.first() {
        Some(&byte) if is_blank(byte) => {
            let start = rest.iter().position(|&b| !is_blank(b)).unwrap_or(rest.len());
            let argument = until_nul(rest.get(start..).unwrap_or_default());
            (!argument.is_empty()).then(|| argument.to_vec())
        }
        _ => None,
    };
    Ok(Script { interpreter: interpreter.to_vec(), argument })
}

/// argv becomes interpreter, argument, the script's path and what followed argv[0].
pub(super) fn rewrite(args: &mut Vec<Vec<u8>>, script: &Script, path: &[u8]) {
    let mut new = vec![script.interpreter.clone()];
    new.extend(script.argument.clone());
    new.push(path.to_vec());
    new.extend(args.drain(..).skip(1));
    *args = new;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &[u8]) -> [u8; HEAD_SIZE] {
        let mut head = [0; HEAD_SIZE];
        let count = text.len().min(HEAD_SIZE);
        head[..count].copy_from_slice(&text[..count]);
        head
    }

    fn check(text: &[u8], interpreter: &str, argument: Option<&str>) {
        let script = parse(&head(text)).unwrap();
        assert_eq!(String::from_utf8_lossy(&script.interpreter), interpreter);
        assert_eq!(script.argument.as_deref().map(String::from_utf8_lossy).as_deref(), argument);
    }

    #[test]
    fn lines() {
        check(b"#!/bin/sh\n", "/bin/sh", None);
        check(b"#!/bin/sh", "/bin/sh", None);
        check(b"#! \t/bin/sh  \t\nx", "/bin/sh", None);
        check(b"#!/usr/bin/env  -S a b \n", "/usr/bin/env", Some("-S a b"));
        check(b"#!/bin/sh\0 -x\n", "/bin/sh", None);
        check(b"#!/bin/sh -x\0y\n", "/bin/sh", Some("-x"));
        check(b"#!sh\n", "sh", None);
    }

    #[test]
    fn no_interpreter() {
        for text in [&b"#!\n"[..], b"#!", b"#!   \n", b"#! \t"] {
            assert_eq!(parse(&head(text)), Err(Errno::ENOEXEC), "{text:?}");
        }
    }

    #[test]
    fn long_lines() {
        let mut long = b"#!/".to_vec();
        long.resize(300, b'a');
        assert_eq!(parse(&head(&long)), Err(Errno::ENOEXEC));
        let mut argument = b"#!/bin/x ".to_vec();
        argument.resize(300, b'a');
        let script = parse(&head(&argument)).unwrap();
        assert_eq!(script.interpreter, b"/bin/x");
        assert_eq!(script.argument.unwrap().len(), 255 - 9);
    }

    #[test]
    fn arguments() {
        let mut args = vec![b"old".to_vec(), b"a".to_vec()];
        let script = Script { interpreter: b"/bin/sh".to_vec(), argument: Some(b"-e".to_vec()) };
        rewrite(&mut args, &script, b"./run");
        assert_eq!(args, [&b"/bin/sh"[..], b"-e", b"./run", b"a"]);
        let mut none = Vec::new();
        rewrite(&mut none, &Script { argument: None, ..script }, b"x");
        assert_eq!(none, [&b"/bin/sh"[..], b"x"]);
    }
}
