//! What the host kernel told this process about the machine (getauxval(3)).

/// The value of an AT_* entry; 0 if there is none.
pub fn value(kind: u64) -> u64 {
    // SAFETY: an integer in, an integer out.
    unsafe { libc::getauxval(kind) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn page_size() {
        assert_eq!(super::value(libc::AT_PAGESZ), 4096);
        assert_eq!(super::value(12345), 0);
    }
}
