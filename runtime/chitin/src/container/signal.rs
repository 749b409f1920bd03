//! Signal names and numbers as `kill` accepts them.

use crate::util::Result;

/// Names of x86 signals, by number from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// A number, or a name with or without `SIG`, in any case; `RTMIN+n` and `RTMAX-n` too.
pub fn parse(text: &str) -> Result<i32> {
    let unknown = || format!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=SIGRTMAX).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|n| *n == name) {
        return i32::try_from(index + 1).map_err(|_| unknown());
    }
    let offset =
        |rest: &str| if rest.is_empty() { Some(0) } else { rest[1..].parse::<u8>().ok().map(i32::from) };
    let number = match name {
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        _ => match name.strip_prefix("RTMIN") {
            Some(rest) if rest.is_empty() || rest.starts_with('+') => offset(rest).map(|n| SIGRTMIN + n),
            _ => match name.strip_prefix("RTMAX") {
                Some(rest) if rest.is_empty() || rest.starts_with('-') => offset(rest).map(|n| SIGRTMAX - n),
                _ => None,
            },
        },
    };
    number.filter(|n| *n <= SIGRTMAX && *n >= 1).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("hup", 1),
            ("SYS", 31),
            ("0", 0),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("IOT", 6),
            ("IO", 29),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in
            ["", "SIG", "FOO", "65", "-1", "RTMIN-1", "RTMIN+40", "RTMAX-200", "SIGSIGKILL", "RTMIN+é"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
