//! What a program finds on its stack: argc, argv, envp, the auxiliary vector, and the strings they point to
//! (create_elf_tables()).

use super::Program;
use chitin_abi::Errno;
use chitin_abi::auxv::*;
use std::ops::Range;
use zerocopy::IntoBytes;

const PLATFORM: &[u8] = b"x86_64\0";

/// The stack's content, to be written at `sp`; it ends at the stack's top.
pub(super) struct Image {
    pub(super) sp: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) arg: Range<u64>,
    pub(super) env: Range<u64>,
    pub(super) auxv: Vec<u8>,
}

/// About how many bytes the content takes: not less.
pub(super) fn size(program: &Program) -> u64 {
    let strings = program.args.iter().chain(&program.env).chain([&program.path]);
    let bytes = strings.map(|string| string.len() as u64 + 9).fold(0u64, u64::saturating_add);
    bytes.saturating_add(16384)
}

/// Lays the content out below `top`. `entries` is the auxiliary vector but for what points into the stack; `shift` moves
/// the lower part by less than a page (arch_align_stack()).
pub(super) fn build(
    top: u64,
    program: &Program,
    entries: &[(u64, u64)],
    random: &[u8; 16],
    shift: u64,
) -> Result<Image, Errno> {
    // From the top down: a null pointer, the path, the environment, the arguments.
    let mut strings = Vec::new();
    let mut args = Vec::with_capacity(program.args.len());
    let mut env = Vec::with_capacity(program.env.len());
    for (list, offsets) in [(&program.args, &mut args), (&program.env, &mut env)] {
        for string in list {
            offsets.push(strings.len() as u64);
            strings.extend_from_slice(string);
            strings.push(0);
        }
    }
    let arg_len = program.args.iter().map(|string| string.len() as u64 + 1).sum::<u64>();
    let env_end = strings.len() as u64;
    strings.extend_from_slice(&program.path);
    strings.push(0);
    strings.extend_from_slice(&[0; 8]);
    let base = top.checked_sub(strings.len() as u64).ok_or(Errno::E2BIG)?;

    let below = |at: u64, len: u64| at.checked_sub(len).ok_or(Errno::E2BIG);
    let platform = below(below(base, shift % 8192)? & !15, PLATFORM.len() as u64)?;
    let random_at = below(platform, 16)?;
    let mut auxv: Vec<u64> = entries.iter().flat_map(|&(kind, value)| [kind, value]).collect();
    let own = [(AT_RANDOM, random_at), (AT_EXECFN, base + env_end), (AT_PLATFORM, platform), (AT_NULL, 0)];
    auxv.extend(own.iter().flat_map(|&(kind, value)| [kind, value]));

    let mut words: Vec<u64> = Vec::with_capacity(args.len() + env.len() + auxv.len() + 3);
    words.push(args.len() as u64);
    words.extend(args.iter().map(|offset| base + offset));
    words.push(0);
    words.extend(env.iter().map(|offset| base + offset));
    words.push(0);
    words.extend_from_slice(&auxv);
    let sp = below(random_at, words.len() as u64 * 8)? & !15;

    let mut bytes = words.as_bytes().to_vec();
    // Zeroes fill the gaps in between.
    let offset = |at: u64| usize::try_from(at.saturating_sub(sp)).map_err(|_| Errno::E2BIG);
    bytes.resize(offset(random_at)?, 0);
    bytes.extend_from_slice(random);
    bytes.extend_from_slice(PLATFORM);
    bytes.resize(offset(base)?, 0);
    bytes.extend_from_slice(&strings);
    let arg = base..base + arg_len;
    let env = arg.end..base + env_end;
    Ok(Image { sp, bytes, arg, env, auxv: auxv.as_bytes().to_vec() })
}
