//! The way of a system call that a guest's patched call site makes without a notification: a request in the thread's window,
//! which a polling worker answers there.
//!
//! A patched site jumps through one word of the *sites' page* ([`PAGE`]) into a thunk of its own, which knows the site's
//! number; `rcx` and `r11`, the registers that a system call may destroy, are all that the way has. The thread finds its
//! window by its GS base, which is its window's address as long as the guest does not set another. Without a poller (`ON`), and
//! whenever something is not as expected, it goes on at the site's own system call instruction, which is still in its place.
//!
//! Neighbours: `stub` puts the code on its page; `sites` patches call sites; `fast` answers requests; `poller` polls; `parcel` says
//! which bytes go with a request.
//!
//! Invariants: the code changes nothing but `rax`, `rcx`, `r11`, the flags, its thread's window and what the call writes, and
//! makes no system call but the one by which it sleeps. While it copies, `rdi`, `rsi` and `rdx` are in the window only. Wherever a
//! signal interrupts it, [`whereabouts`] can tell whether the call has been made. Where a copy faults, the site's own instruction
//! makes the call (or, behind the call, it answers EFAULT).

use crate::parcel;
use crate::stub::STUB_BASE;
use std::arch::global_asm;

/// Offset of this code in the stub's page.
pub const OFFSET: u64 = 0x700;
/// Number of sites in an address space, each with a thunk of four bytes.
pub const SITES: usize = 256;
/// The page through which patched sites jump: [`SITES`] addresses of thunks, then, where the guest's code goes on
/// ([`site_word`]), from [`RETURNS`]. A site's five bytes `b8 imm32` become `ff 24 25 XX XX`; with its `0f 05` behind it this
/// is a jump through the word at 0x050fXXXX.
pub const PAGE: u64 = 0x050f_0000;
pub const RETURNS: u64 = PAGE + 0x800;

/// Offsets in a window's control page: a cache line that the thread writes, one that the worker writes, and one that is seldom
/// written, so that few of them change CPUs with a call, and none twice.
pub mod ctl {
    /// The thread's: the request's site in the low byte, and its number in the upper half.
    pub const REQUEST: usize = 0xc80;
    pub const ARGS: usize = 0xc88;
    /// Bytes in its parcel, or room there.
    pub const PARCEL: usize = 0xcb8;
    /// The worker's: how it went with a request ([`super::how`]), whose number is in the upper half.
    pub const ANSWER: usize = 0xd00;
    pub const RESULT: usize = 0xd08;
    /// Bytes that the thread finds in its parcel with the answer.
    pub const WRITTEN: usize = 0xd10;
    /// Whether somebody polls: how often the thread looks for its answer then.
    pub const ON: usize = 0xd80;
    /// The thread's own: `rdi`, `rsi` and `rdx` while it packs, and the length of its parcel.
    pub const SAVED: usize = 0xdc0;
}

/// How it went with a request; while the numbers differ, it stands.
pub mod how {
    pub const ANSWERED: u64 = 0;
    /// The answer takes its time: the thread sleeps until this changes.
    pub const SLEEP: u64 = 1;
    /// Taken back.
    pub const CANCELLED: u64 = 2;
}

/// A mailbox's words taken apart, and put together.
pub fn number_of(word: u64) -> u64 {
    word >> 32
}

pub fn site_of(request: u64) -> u8 {
    request as u8
}

pub fn how_of(answer: u64) -> u64 {
    answer & 0xff
}

/// What settles a request.
pub fn answer_to(request: u64, how: u64) -> u64 {
    number_of(request) << 32 | how
}

/// How often a thread looks for its answer, at first (some 10 to 30 microseconds) and at most: as often as its calls take.
pub const LOOKS: u64 = 400;
pub const MOST_LOOKS: u64 = 2400;

/// What [`RETURNS`] holds for a site: the address after its system call instruction, the call's number (9 bits), and the kind
/// of its parcel.
pub fn site_word(ret: u64, nr: u16) -> u64 {
    ret & 0xffff_ffff_ffff | u64::from(nr & 0x1ff) << 48 | u64::from(parcel::kind_of(nr)) << 57
}

global_asm!(
    r#"
    .pushsection .rodata.chitin_fast,"a",@progbits
    .balign 64
    .globl chitin_fast_start
    .globl chitin_fast_made
    .globl chitin_fast_answered
    .globl chitin_fast_notify
    .globl chitin_fast_plain
    .globl chitin_fast_last
    .globl chitin_fast_parcel
    .globl chitin_fast_sleep
    .globl chitin_fast_written
    .globl chitin_fast_end
    // al = the site's number.
chitin_fast_start:
    movzx eax, al
    rdgsbase r11
    // In the platform's own range?
    mov rcx, r11
    shr rcx, 32
    cmp ecx, {own}
    jne chitin_fast_plain
    cmp dword ptr [r11 + {on}], 0
    je chitin_fast_plain
    mov [r11 + {saved}], rdi
    mov [r11 + {saved} + 8], rsi
    mov [r11 + {saved} + 16], rdx
    mov rcx, [rax * 8 + {returns}]
    shr rcx, 57
    jnz chitin_fast_parcel
    // ecx = the parcel's length. The line is written at one go: who polls takes it away again and again.
9:  mov [r11 + {parcel}], ecx
    mov [r11 + {args}], rdi
    mov [r11 + {args} + 8], rsi
    mov [r11 + {args} + 16], rdx
    mov [r11 + {args} + 24], r10
    mov [r11 + {args} + 32], r8
    mov [r11 + {args} + 40], r9
    mov ecx, [r11 + {request} + 4]
    inc ecx
    shl rcx, 32
    or rcx, rax
    mov [r11 + {request}], rcx
chitin_fast_made:
    shr rcx, 32
    mov eax, [r11 + {on}]
    or eax, 1
1:  cmp [r11 + {answer} + 4], ecx
    je 30f
    pause
    dec eax
    jnz 1b
    // In vain: it is taken back, unless it has been answered after all.
2:  mov rax, [r11 + {answer}]
    mov rcx, rax
    shr rcx, 32
    cmp ecx, [r11 + {request} + 4]
    je 30f
    mov ecx, [r11 + {request} + 4]
    shl rcx, 32
    or rcx, {cancelled}
    lock cmpxchg [r11 + {answer}], rcx
    jnz 2b
    jmp chitin_fast_notify
30: cmp byte ptr [r11 + {answer}], {sleep}
    je chitin_fast_sleep
    ja chitin_fast_notify
chitin_fast_answered:
    mov ecx, [r11 + {written}]
    test ecx, ecx
    jnz chitin_fast_written
8:  movzx eax, byte ptr [r11 + {request}]
    mov rcx, [rax * 8 + {returns}]
    shl rcx, 16
    shr rcx, 16
    mov rax, [r11 + {result}]
    jmp rcx
chitin_fast_notify:
    movzx eax, byte ptr [r11 + {request}]
    // eax = the site's number: on to its own system call instruction, two bytes before where it returns to.
chitin_fast_plain:
    mov rcx, [rax * 8 + {returns}]
    mov r11, rcx
    shl r11, 16
    shr r11, 16
    sub r11, 2
    shr rcx, 48
    and ecx, 0x1ff
    // Up to here, wherever it is interrupted.
    mov eax, ecx
chitin_fast_last:
    jmp r11
    // ecx = the kind. To be copied: ecx bytes at rsi.
chitin_fast_parcel:
    cmp ecx, {buffer}
    jae 3f
    cmp ecx, {event}
    je 4f
    jb 5f
    cmp ecx, {vector}
    je 20f
    cmp ecx, {path}
    je 32f
    cmp ecx, {path_at}
    je 33f
    cmp ecx, {stat_at}
    je 7f
    ja 37f
    mov rdx, rsi
    mov rsi, rdi
    // What will be written must be writable.
7:  lock or byte ptr [rdx], 0
    lock or byte ptr [rdx + {stat_len} - 1], 0
    jmp 33f
37: mov rdx, r8
    lock or byte ptr [rdx + {statx_len} - 1], 0
    jmp 7b
32: mov rsi, rdi
    // A path up to its end, or that of its page.
33: mov ecx, esi
    and ecx, 0xfff
    neg ecx
    add ecx, 0x1000
    cmp ecx, {path_len}
    jbe 34f
    mov ecx, {path_len}
34: lea rdi, [r11 + {data}]
35: mov dl, [rsi]
    mov [rdi], dl
    inc rsi
    inc rdi
    test dl, dl
    jz 22f
    dec ecx
    jnz 35b
    jmp 22f
4:  mov rsi, r10
    mov ecx, 12
    jmp 2f
5:  xor ecx, ecx
    cmp rdx, {most}
    ja 9b
    mov ecx, edx
2:  mov [r11 + {saved} + 24], ecx
    lea rdi, [r11 + {data}]
    rep movsb
    mov ecx, [r11 + {saved} + 24]
    mov rdi, [r11 + {saved}]
    mov rsi, [r11 + {saved} + 8]
    jmp 9b
    // A few parts of one buffer: where they are, then what is in them, as far as there is room.
20: xor ecx, ecx
    cmp rdx, {parts}
    ja 9b
    mov ecx, edx
    shl ecx, 4
    lea rdi, [r11 + {data}]
    rep movsb
    lea rdx, [r11 + {data}]
21: mov ecx, [r11 + {saved} + 16]
    shl ecx, 4
    lea rcx, [r11 + rcx + {data}]
    cmp rdx, rcx
    je 22f
    lea rsi, [r11 + {data} + {most}]
    sub rsi, rdi
    mov rcx, [rdx + 8]
    cmp rcx, rsi
    ja 22f
    mov rsi, [rdx]
    add rdx, 16
    rep movsb
    jmp 21b
22: mov ecx, edi
    sub ecx, r11d
    sub ecx, {data}
    mov rdi, [r11 + {saved}]
    mov rsi, [r11 + {saved} + 8]
    mov rdx, [r11 + {saved} + 16]
    jmp 9b
    // What will be written must be writable: ecx bytes at rsi.
3:  je 5f
    cmp ecx, {stat}
    mov ecx, {stat_len}
    je 6f
    mov ecx, {most}
    cmp rdx, {most} / 12
    jae 6f
    imul ecx, edx, 12
    jmp 6f
5:  mov ecx, {most}
    cmp rdx, rcx
    jae 6f
    mov ecx, edx
6:  test ecx, ecx
    jz 9b
    lock or byte ptr [rsi], 0
    lock or byte ptr [rsi + rcx - 1], 0
    jmp 9b
    // The answer will come; what has come already ends the wait at once.
chitin_fast_sleep:
    rdgsbase r11
    lea rdi, [r11 + {answer}]
    xor esi, esi
    mov edx, {sleep}
    xor r10d, r10d
    mov eax, {futex}
    syscall
    rdgsbase r11
    cmp dword ptr [r11 + {answer}], {sleep}
    je chitin_fast_sleep
    mov rdi, [r11 + {args}]
    mov rsi, [r11 + {args} + 8]
    mov rdx, [r11 + {args} + 16]
    mov r10, [r11 + {args} + 24]
    jmp 30b
    // The answer is there, and ecx bytes that the call has written.
chitin_fast_written:
    movzx eax, byte ptr [r11 + {request}]
    mov rax, [rax * 8 + {returns}]
    shr rax, 57
    mov rdi, r8
    cmp eax, {statx}
    je 36f
    mov rdi, rdx
    cmp eax, {stat_at}
    je 36f
    mov rdi, rsi
36: lea rsi, [r11 + {data}]
    rep movsb
    mov rdi, [r11 + {args}]
    mov rsi, [r11 + {args} + 8]
    jmp 8b
chitin_fast_end:
    .popsection
"#,
    own = const STUB_BASE >> 32,
    on = const ctl::ON,
    args = const ctl::ARGS,
    request = const ctl::REQUEST,
    answer = const ctl::ANSWER,
    result = const ctl::RESULT,
    sleep = const how::SLEEP,
    futex = const libc::SYS_futex,
    cancelled = const how::CANCELLED,
    returns = const RETURNS,
    parcel = const ctl::PARCEL,
    saved = const ctl::SAVED,
    written = const ctl::WRITTEN,
    data = const parcel::DATA,
    most = const parcel::MOST,
    vector = const parcel::kind::VECTOR,
    parts = const parcel::PARTS,
    path_len = const parcel::PATH,
    event = const parcel::kind::EVENT,
    path = const parcel::kind::PATH,
    path_at = const parcel::kind::PATH_AT,
    stat_at = const parcel::kind::STAT_AT,
    stat_len = const parcel::STAT,
    statx = const parcel::kind::STATX,
    statx_len = const parcel::STATX,
    buffer = const parcel::kind::BUFFER,
    stat = const parcel::kind::STAT,
);

unsafe extern "C" {
    static chitin_fast_start: u8;
    static chitin_fast_made: u8;
    static chitin_fast_answered: u8;
    static chitin_fast_notify: u8;
    #[cfg(test)]
    static chitin_fast_plain: u8;
    static chitin_fast_last: u8;
    static chitin_fast_parcel: u8;
    static chitin_fast_sleep: u8;
    static chitin_fast_written: u8;
    static chitin_fast_end: u8;
}

/// Where a label lies in a guest's address space.
fn at(label: *const u8) -> u64 {
    CODE + (label as u64).wrapping_sub(&raw const chitin_fast_start as u64)
}

/// The thunks come first; a jump of two bytes does not reach from all of them, so each group has one of five behind it.
const THUNKS: u64 = STUB_BASE + OFFSET;
const THUNK: u64 = 4;
const GROUP: usize = 16;
const GROUP_LEN: u64 = GROUP as u64 * THUNK + 5;
const CODE: u64 = (THUNKS + SITES as u64 / GROUP as u64 * GROUP_LEN + 15) & !15;

/// The address of a site's thunk.
pub fn thunk(site: usize) -> u64 {
    THUNKS + (site / GROUP) as u64 * GROUP_LEN + (site % GROUP) as u64 * THUNK
}

/// Thunks and code, as they stand from [`OFFSET`] on.
pub fn code() -> Vec<u8> {
    let mut out = Vec::new();
    for site in 0..SITES {
        // mov al, site; jmp to the group's end
        let left = (GROUP - 1 - site % GROUP) as u64 * THUNK;
        out.extend_from_slice(&[0xb0, site as u8, 0xeb, left as u8]);
        if site % GROUP == GROUP - 1 {
            let next = THUNKS + out.len() as u64 + 5;
            out.push(0xe9);
            out.extend_from_slice(&((CODE - next) as u32).to_le_bytes());
        }
    }
    out.resize((CODE - THUNKS) as usize, 0xcc);
    let start = &raw const chitin_fast_start;
    let len = (&raw const chitin_fast_end as usize).wrapping_sub(start as usize);
    // SAFETY: the two symbols bound one object in .rodata.
    out.extend_from_slice(unsafe { std::slice::from_raw_parts(start, len) });
    out
}

/// The sites' page before any site is patched.
pub fn page() -> Vec<u8> {
    (0..SITES).flat_map(|site| thunk(site).to_le_bytes()).collect()
}

/// What an interrupted thread was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Not on this way.
    Elsewhere,
    /// Before the request of this site was made; the call is still to be made.
    Before(u8),
    /// As before, with `rdi`, `rsi` and `rdx` saved in the window; the copy may have faulted.
    Packing(u8),
    /// The request was made: what the window says of it tells the rest.
    Requested,
    /// As requested, with `rdi`, `rsi`, `rdx` and `r10` in the request: it waits for its answer.
    Sleeping,
    /// The answer is in the window.
    Answered,
    /// As answered, with `rdi` and `rsi` in the request; the copy may have faulted.
    Unpacking,
    /// About to go on at this address, the site's system call instruction.
    Last(u64),
}

/// From the instruction pointer and the other registers of a frame, all of which a guest can forge: to its own harm only.
pub fn whereabouts(rip: u64, rax: u64, r11: u64) -> Whereabouts {
    let site = rax as u8;
    if !(THUNKS..at(&raw const chitin_fast_end)).contains(&rip) {
        Whereabouts::Elsewhere
    } else if rip < CODE {
        let (group, inside) = ((rip - THUNKS) / GROUP_LEN, (rip - THUNKS) % GROUP_LEN);
        let first = inside.is_multiple_of(THUNK) && inside / THUNK < GROUP as u64;
        Whereabouts::Before(if first { (group * GROUP as u64 + inside / THUNK) as u8 } else { site })
    } else if rip < at(&raw const chitin_fast_made) {
        Whereabouts::Before(site)
    } else if rip < at(&raw const chitin_fast_answered) || rip == at(&raw const chitin_fast_notify) {
        Whereabouts::Requested
    } else if rip < at(&raw const chitin_fast_notify) {
        Whereabouts::Answered
    } else if rip < at(&raw const chitin_fast_last) {
        Whereabouts::Before(site)
    } else if rip < at(&raw const chitin_fast_parcel) {
        Whereabouts::Last(r11)
    } else if rip < at(&raw const chitin_fast_sleep) {
        Whereabouts::Packing(site)
    } else if rip < at(&raw const chitin_fast_written) {
        Whereabouts::Sleeping
    } else {
        Whereabouts::Unpacking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_the_page_and_the_jumps() {
        let code = code();
        assert!(OFFSET as usize + code.len() <= 0xf00, "{:#x} bytes", code.len());
        for site in 0..SITES {
            let at = (thunk(site) - THUNKS) as usize;
            assert_eq!(code[at..at + 3], [0xb0, site as u8, 0xeb]);
            let group = at + 4 + code[at + 3] as usize;
            assert_eq!(code[group], 0xe9, "site {site}");
            let to = i32::from_le_bytes(code[group + 1..group + 5].try_into().expect("four bytes"));
            assert_eq!(group as i64 + 5 + i64::from(to), (CODE - THUNKS) as i64);
            assert_eq!(whereabouts(thunk(site), 0xffff, 0), Whereabouts::Before(site as u8));
            assert_eq!(whereabouts(thunk(site) + 2, site as u64, 0), Whereabouts::Before(site as u8));
        }
        let last = (at(&raw const chitin_fast_last) - THUNKS) as usize;
        assert_eq!(code[last - 2..last], [0x89, 0xc8], "mov eax, ecx: until then eax is the site's number");
        assert!(PAGE + SITES as u64 * 8 <= RETURNS && RETURNS + SITES as u64 * 8 <= PAGE + 0x1000);
        assert_eq!(page().len(), SITES * 8);
    }

    #[test]
    fn tells_where_a_thread_is() {
        use Whereabouts::*;
        assert_eq!(whereabouts(0x401000, 0, 0), Elsewhere);
        assert_eq!(whereabouts(CODE, 0x1203, 0), Before(3));
        assert_eq!(whereabouts(at(&raw const chitin_fast_made), 3, 0), Requested);
        assert_eq!(whereabouts(at(&raw const chitin_fast_answered), 0, 0), Answered);
        assert_eq!(whereabouts(at(&raw const chitin_fast_notify) - 2, 0, 0), Answered);
        assert_eq!(whereabouts(at(&raw const chitin_fast_notify), 0, 0), Requested);
        assert_eq!(whereabouts(at(&raw const chitin_fast_plain), 7, 0), Before(7));
        assert_eq!(whereabouts(at(&raw const chitin_fast_last), 39, 0x401000), Last(0x401000));
        assert_eq!(whereabouts(at(&raw const chitin_fast_parcel), 8, 0), Packing(8));
        assert_eq!(whereabouts(at(&raw const chitin_fast_sleep) - 2, 8, 0), Packing(8));
        assert_eq!(whereabouts(at(&raw const chitin_fast_sleep), 202, 0), Sleeping);
        assert_eq!(whereabouts(at(&raw const chitin_fast_written), 8, 0), Unpacking);
        assert_eq!(whereabouts(at(&raw const chitin_fast_end) - 2, 8, 0), Unpacking);
        assert_eq!(whereabouts(at(&raw const chitin_fast_end), 0, 0), Elsewhere);
    }
}
