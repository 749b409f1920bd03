//! Conversions between the widths of numbers that say what is meant, where `as` would not.
//!
//! Registers are 64 bits wide and most arguments narrower: Linux looks at the low part and ignores the rest. What is
//! *not* meant to lose anything uses `From` and `TryFrom`, and a change of sign alone `cast_signed`/`cast_unsigned`.

/// An `unsigned int` in a register: the low half.
pub const fn low32(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// A `short` in a wider field.
pub const fn low16(value: u32) -> u16 {
    (value & 0xffff) as u16
}

/// A `char` in a wider field.
pub const fn low8(value: u32) -> u8 {
    (value & 0xff) as u8
}

/// An `int` that a call returns in a register, sign and all.
pub const fn sign_extend(value: i32) -> u64 {
    (value as i64).cast_unsigned()
}

/// A length or offset of 64 bits as one of ours. Guests and the sentry alike run on 64-bit machines only.
#[allow(clippy::cast_possible_truncation, reason = "lossless on the only machines there are")]
pub const fn to_usize(value: u64) -> usize {
    const { assert!(usize::BITS == u64::BITS) };
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_cut_as_linux_cuts_them() {
        assert_eq!(low32(0xffff_ffff_0000_0007), 7);
        assert_eq!(low32(u64::MAX).cast_signed(), -1);
        assert_eq!((low16(0x1_2345), low8(0x1_2345)), (0x2345, 0x45));
        assert_eq!((sign_extend(-1), sign_extend(7)), (u64::MAX, 7));
        assert_eq!(to_usize(u64::MAX), usize::MAX);
    }
}
