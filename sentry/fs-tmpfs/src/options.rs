//! tmpfs mount options, as in tmpfs(5).

use chitin_abi::Errno;

/// What `mount -t tmpfs -o …` asks for; `None` is not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes; 0: no limit.
    pub size: Option<u64>,
    /// 0: no limit.
    pub nr_inodes: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// `memparse()`: a decimal, octal or hexadecimal number with a suffix.
fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_lowercase() {
        b'k' => (text.get(..text.len() - 1)?, 10),
        b'm' => (text.get(..text.len() - 1)?, 20),
        b'g' => (text.get(..text.len() - 1)?, 30),
        b't' => (text.get(..text.len() - 1)?, 40),
        b'p' => (text.get(..text.len() - 1)?, 50),
        _ => (text, 0),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8).ok()?,
        None => digits.parse().ok()?,
    };
    value.checked_mul(1 << shift)
}

impl Options {
    /// Parses `data`; `memory` is what a size in per cent refers to. Unknown options are EINVAL.
    pub fn parse(data: &[u8], memory: u64) -> Result<Options, Errno> {
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        let text = text.trim_end_matches('\0');
        let mut options = Options::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            options.one(option, memory).ok_or(Errno::EINVAL)?;
        }
        Ok(options)
    }

    fn one(&mut self, option: &str, memory: u64) -> Option<()> {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "size" => {
                self.size = Some(match value.strip_suffix('%') {
                    Some(percent) => {
                        u64::try_from(u128::from(memory) * u128::from(number(percent)?) / 100).ok()?
                    }
                    None => number(value)?,
                });
            }
            "nr_blocks" => {
                self.size = Some(number(value)?.checked_mul(chitin_abi::limits::PAGE_SIZE)?);
            }
            "nr_inodes" => self.nr_inodes = Some(number(value)?),
            "mode" => self.mode = Some(u32::from_str_radix(value, 8).ok()? & 0o7777),
            "uid" => self.uid = Some(value.parse().ok().filter(|id| *id != u32::MAX)?),
            "gid" => self.gid = Some(value.parse().ok().filter(|id| *id != u32::MAX)?),
            // How the kernel places pages: accepted where Linux does, and without effect on what a guest sees.
            "huge" => return matches!(value, "never" | "always" | "within_size" | "advise").then_some(()),
            "mpol" => return (!value.is_empty()).then_some(()),
            "inode32" | "inode64" | "noswap" => return value.is_empty().then_some(()),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing() {
        let parse = |text: &str| Options::parse(text.as_bytes(), 1000);
        let options = parse("size=64k,mode=1777,uid=5,gid=6,nr_inodes=2k,").unwrap();
        assert_eq!((options.size, options.nr_inodes, options.mode), (Some(65536), Some(2048), Some(0o1777)));
        assert_eq!((options.uid, options.gid), (Some(5), Some(6)));
        assert_eq!(parse("size=50%").unwrap().size, Some(500));
        assert_eq!(parse("nr_blocks=2").unwrap().size, Some(8192));
        assert_eq!(parse("").unwrap(), Options::default());
        for bad in ["size", "size=x", "size=99999999999g", "mode=9", "uid=-1", "nosuch", "huge=maybe"] {
            assert_eq!(parse(bad), Err(Errno::EINVAL), "{bad}");
        }
    }
}
