//! Small helpers of the generators.

use chitin_abi::Errno;

/// Appends formatted text; writing to a vector does not fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = write!($out, $($arg)*);
    }};
}
pub(crate) use put;

/// Appends `text` with the bytes of `special` and backslashes as octal escapes (seq_escape, mangle_path).
pub(crate) fn escape(out: &mut Vec<u8>, text: &[u8], special: &[u8]) {
    for &byte in text {
        if special.contains(&byte) {
            put!(out, "\\{byte:03o}");
        } else {
            out.push(byte);
        }
    }
}

/// A list of set bits as ranges: "0-3,5" (bitmap_print_to_pagebuf).
pub(crate) fn bit_list(bits: &[u8]) -> String {
    let is_set = |at: usize| bits.get(at / 8).is_some_and(|byte| byte & (1 << (at % 8)) != 0);
    let mut text = String::new();
    let end = bits.len().saturating_mul(8);
    let mut at = 0;
    while at < end {
        if !is_set(at) {
            at += 1;
            continue;
        }
        let first = at;
        while is_set(at) {
            at += 1;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&first.to_string());
        if at - first > 1 {
            text.push('-');
            text.push_str(&(at - 1).to_string());
        }
    }
    text
}

/// A mask of `width` bits in hexadecimal, in comma-separated words of 32 bits ("%*pb").
pub(crate) fn bit_mask(bits: &[u8], width: usize) -> String {
    let words = width.max(1).div_ceil(32);
    let mut text = String::new();
    for word in (0..words).rev() {
        let value = (0..4).fold(0u32, |value, byte| {
            let bits = bits.get(word * 4 + byte).copied().unwrap_or(0);
            value | u32::from(bits) << (8 * byte)
        });
        if text.is_empty() {
            let digits = (width.max(1) - word * 32).div_ceil(4).min(8);
            text.push_str(&format!("{value:0digits$x}"));
        } else {
            text.push_str(&format!(",{value:08x}"));
        }
    }
    text
}

/// What a write to a file of numbers brought, without surrounding space.
pub(crate) fn trimmed(data: &[u8]) -> Result<&str, Errno> {
    let data = data.split(|&byte| byte == 0).next().unwrap_or_default();
    std::str::from_utf8(data).map(str::trim).map_err(|_| Errno::EINVAL)
}

/// A number in any base C knows (kstrtoll with base 0).
pub(crate) fn number(text: &str) -> Result<i64, Errno> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = if let Some(hex) = lower.strip_prefix("0x") {
        (hex, 16)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (lower.get(1..).unwrap_or_default(), 8)
    } else {
        (lower.as_str(), 10)
    };
    if !digits.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Err(Errno::EINVAL);
    }
    let value = i128::from_str_radix(digits, radix).map_err(|_| Errno::EINVAL)?;
    i64::try_from(if negative { -value } else { value }).map_err(|_| Errno::ERANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits() {
        assert_eq!(bit_list(&[0b1011_0111, 1]), "0-2,4-5,7-8");
        assert_eq!(bit_list(&[0]), "");
        assert_eq!(bit_mask(&[3], 2), "3");
        assert_eq!(bit_mask(&[0xff, 0, 0, 0, 1], 40), "01,000000ff");
        assert_eq!(bit_mask(&[0xff; 8], 64), "ffffffff,ffffffff");
    }

    #[test]
    fn numbers() {
        assert_eq!(number("010"), Ok(8));
        assert_eq!(number("-0x10"), Ok(-16));
        assert_eq!(number("0"), Ok(0));
        for bad in ["", "-", "x", "1x", "0x", "--1", "0x-1", "+-1"] {
            assert_eq!(number(bad), Err(Errno::EINVAL), "{bad}");
        }
        assert_eq!(number("9223372036854775808"), Err(Errno::ERANGE));
    }
}
