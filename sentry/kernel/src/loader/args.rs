//! Arguments and environment: reading them from guest memory, and their limits (E2BIG).

use super::Program;
use chitin_abi::Errno;
use chitin_abi::limits::{ARG_MAX, MAX_ARG_STRLEN};
use chitin_mm::Mm;

/// Three quarters of the default stack (bprm_stack_limits()).
const MAX_BYTES: u64 = 6 << 20;

/// Pointers read at a time.
const STEP: usize = 64;

/// What strings and pointers may take together.
fn limit(stack_limit: u64) -> u64 {
    (stack_limit / 4).min(MAX_BYTES).max(ARG_MAX as u64)
}

/// Checks arguments and environment against the limits of execve(2).
pub fn check_size(program: &Program, stack_limit: u64) -> Result<(), Errno> {
    let strings = || program.args.iter().chain(&program.env);
    if strings().any(|string| string.len() >= MAX_ARG_STRLEN) {
        return Err(Errno::E2BIG);
    }
    let count = program.args.len().max(1).saturating_add(program.env.len());
    let pointers = (count as u64).saturating_mul(8);
    let bytes = strings().chain([&program.path]).map(|string| string.len() as u64 + 1);
    let bytes = bytes.fold(0u64, u64::saturating_add);
    match limit(stack_limit).checked_sub(pointers) {
        Some(left) if left > 0 && bytes <= left => Ok(()),
        _ => Err(Errno::E2BIG),
    }
}

/// Reads an array of string pointers that ends in a null pointer (argv, envp). `addr` of 0 is an empty one.
pub fn read_strings(mm: &Mm, addr: u64, stack_limit: u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut left = limit(stack_limit);
    let mut strings = Vec::new();
    if addr == 0 {
        return Ok(strings);
    }
    let mut at = addr;
    loop {
        // Up to the end of a page, beyond which nothing may be mapped.
        let in_page = (4096 - at % 4096) / 8;
        let step = usize::try_from(in_page).unwrap_or(1).clamp(1, STEP);
        let pointers = mm.read_array::<u64>(at, step)?;
        for pointer in pointers {
            if pointer == 0 {
                return Ok(strings);
            }
            let string = mm.read_cstr(pointer, MAX_ARG_STRLEN - 1)?.ok_or(Errno::E2BIG)?;
            left = left.checked_sub(string.len() as u64 + 1 + 8).ok_or(Errno::E2BIG)?;
            strings.push(string);
        }
        at = at.checked_add(step as u64 * 8).ok_or(Errno::EFAULT)?;
    }
}
