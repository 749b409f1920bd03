//! Programs made by hand, whole and broken, on an address space made of memory.

use super::elf::{Elf, Role};
use super::layout::{self, Room};
use super::*;
use crate::testing::*;
use chitin_abi::auxv::*;
use chitin_abi::elf::*;
use chitin_abi::mman::*;
use chitin_platform::Platform;
use zerocopy::IntoBytes;

fn header(kind: u16, entry: u64, phnum: u16) -> Elf64Ehdr {
    let mut ident = [0; EI_NIDENT];
    ident[..4].copy_from_slice(&ELFMAG);
    ident[EI_CLASS] = ELFCLASS64;
    ident[EI_DATA] = ELFDATA2LSB;
    ident[EI_VERSION] = EV_CURRENT;
    Elf64Ehdr {
        e_ident: ident,
        e_type: kind,
        e_machine: EM_X86_64,
        e_version: 1,
        e_entry: entry,
        e_phoff: 64,
        e_phentsize: 56,
        e_phnum: phnum,
        e_ehsize: 64,
        ..Elf64Ehdr::default()
    }
}

fn load_segment(flags: u32, offset: u64, vaddr: u64, filesz: u64, memsz: u64) -> Elf64Phdr {
    let p_type = PT_LOAD;
    let (p_offset, p_vaddr, p_filesz, p_memsz) = (offset, vaddr, filesz, memsz);
    Elf64Phdr { p_type, p_flags: flags, p_offset, p_vaddr, p_paddr: vaddr, p_filesz, p_memsz, p_align: 4096 }
}

/// A file of three pages: text with the headers, then data of 0x123 bytes with a bss of two pages behind.
fn program(kind: u16, base: u64, interpreter: Option<&str>) -> Vec<u8> {
    let mut headers = vec![
        load_segment(PF_R | PF_X, 0, base, 0x1000, 0x1000),
        load_segment(PF_R | PF_W, 0x1000, base + 0x1000, 0x123, 0x2123),
        Elf64Phdr { p_type: PT_GNU_STACK, p_flags: PF_R | PF_W, ..Elf64Phdr::default() },
    ];
    if let Some(path) = interpreter {
        let len = path.len() as u64 + 1;
        let p_offset = 0x800;
        headers.push(Elf64Phdr {
            p_type: PT_INTERP,
            p_offset,
            p_filesz: len,
            p_memsz: len,
            ..Elf64Phdr::default()
        });
    }
    let mut file = header(kind, base + 0x400, headers.len() as u16).as_bytes().to_vec();
    file.extend_from_slice(headers.as_slice().as_bytes());
    file.resize(0x3000, 0xee);
    if let Some(path) = interpreter {
        file[0x800..0x800 + path.len()].copy_from_slice(path.as_bytes());
        file[0x800 + path.len()] = 0;
    }
    file
}

const REQUEST: LoadRequest = LoadRequest {
    stack_limit: 8 << 20,
    no_randomize: true,
    uid: 1,
    euid: 2,
    gid: 3,
    egid: 4,
    own_time: false,
    secure: true,
};

struct Run {
    fs: FakeFs,
    platform: Arc<FakePlatform>,
}

impl Run {
    fn new(files: &[(&str, &[u8])]) -> Run {
        let fs = FakeFs::default();
        for (name, data) in files {
            fs.add(name, 0o755, true, data);
        }
        Run { fs, platform: Arc::default() }
    }

    fn exec_with(&self, path: &str, args: &[&str], request: LoadRequest) -> Result<Loaded, Errno> {
        let ctx = self.fs.context();
        let file = ctx.open_exec(&ctx.cwd, path.as_bytes(), Walk::FOLLOW)?;
        let args = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        let program = Program { file, path: path.as_bytes().to_vec(), args, env: vec![b"A=b".to_vec()] };
        let platform: Arc<dyn Platform> = self.platform.clone();
        // As real platforms do it: nothing is made before it is awaited.
        let space = Box::pin(async move { platform.new_space().await });
        now_or_never(load(ctx, space, program, request))
    }

    fn exec(&self, path: &str, args: &[&str]) -> Result<Loaded, Errno> {
        self.exec_with(path, args, REQUEST)
    }

    fn error(&self, path: &str) -> Errno {
        self.exec(path, &[path]).err().unwrap()
    }
}

fn word(mm: &Mm, addr: u64) -> u64 {
    mm.read::<u64>(addr).unwrap()
}

fn text(mm: &Mm, addr: u64) -> String {
    String::from_utf8(mm.read_cstr(addr, 4096).unwrap().unwrap()).unwrap()
}

/// argv, envp and the auxiliary vector as the program reads them.
fn stack(loaded: &Loaded) -> (Vec<String>, Vec<String>, Vec<(u64, u64)>) {
    let mm = &loaded.mm;
    let sp = loaded.task.registers().unwrap().rsp;
    assert_eq!(sp % 16, 0);
    let mut at = sp + 8;
    let mut list = || {
        let mut strings = Vec::new();
        while word(mm, at) != 0 {
            strings.push(text(mm, word(mm, at)));
            at += 8;
        }
        at += 8;
        strings
    };
    let (args, env) = (list(), list());
    assert_eq!(word(mm, sp), args.len() as u64);
    let mut auxv = Vec::new();
    while word(mm, at) != AT_NULL {
        auxv.push((word(mm, at), word(mm, at + 8)));
        at += 16;
    }
    (args, env, auxv)
}

fn entry(auxv: &[(u64, u64)], kind: u64) -> u64 {
    auxv.iter().find(|(found, _)| *found == kind).unwrap().1
}

#[test]
fn fixed_program() {
    let run = Run::new(&[("prog", &program(ET_EXEC, 0x40_0000, None))]);
    let loaded = run.exec("/prog", &["/prog", "x y"]).unwrap();
    let (_, space) = run.platform.last.lock().clone().unwrap();
    let mm = &loaded.mm;
    assert_eq!(loaded.task.registers().unwrap().rip, 0x40_0400);
    assert_eq!(space.prot(0x40_0000), Some(PROT_READ | PROT_EXEC));
    assert_eq!(space.prot(0x40_1000), Some(PROT_READ | PROT_WRITE));
    assert_eq!(space.prot(0x40_3000), Some(PROT_READ | PROT_WRITE));
    assert_eq!(space.prot(0x40_4000), None);
    // The file goes on after the segment's last byte, but memory does not.
    assert_eq!(mm.read_vec(0x40_1122, 3).unwrap(), [0xee, 0, 0]);
    assert!(mm.read_vec(0x40_1123, 0x2000).unwrap().iter().all(|&b| b == 0));
    assert_eq!(mm.brk_range(), 0x40_4000..0x40_4000);
    let (args, env, auxv) = stack(&loaded);
    assert_eq!((args, env), (vec!["/prog".to_string(), "x y".into()], vec!["A=b".to_string()]));
    let expected = [
        (AT_SYSINFO_EHDR, VDSO),
        (AT_PHDR, 0x40_0040),
        (AT_PHENT, 56),
        (AT_PHNUM, 3),
        (AT_BASE, 0),
        (AT_ENTRY, 0x40_0400),
        (AT_UID, 1),
        (AT_EUID, 2),
        (AT_GID, 3),
        (AT_EGID, 4),
        (AT_SECURE, 1),
        (AT_PAGESZ, 4096),
        (AT_CLKTCK, 100),
    ];
    for (kind, value) in expected {
        assert_eq!(entry(&auxv, kind), value, "{kind}");
    }
    assert_eq!(text(mm, entry(&auxv, AT_EXECFN)), "/prog");
    assert_eq!(text(mm, entry(&auxv, AT_PLATFORM)), "x86_64");
    assert!(mm.read_vec(entry(&auxv, AT_RANDOM), 16).unwrap().iter().any(|&b| b != 0));
    let layout = mm.layout();
    assert_eq!((layout.start_code, layout.end_code), (0x40_0000, 0x40_1000));
    assert_eq!((layout.start_data, layout.end_data), (0x40_1000, 0x40_1123));
    assert_eq!(mm.read_vec(layout.arg.start, 10).unwrap(), b"/prog\0x y\0");
    assert_eq!(mm.read_vec(layout.env.start, 4).unwrap(), b"A=b\0");
    assert_eq!(layout.stack.end - layout.stack.start, 8 << 20);
    assert_eq!(loaded.name, b"prog");
    // While it runs nobody may write to it.
    assert_eq!(loaded.text.file().inode().state().start_write(), Err(Errno::ETXTBSY));
}

#[test]
fn relocatable_program_with_interpreter() {
    let main = program(ET_DYN, 0, Some("/ld.so"));
    let run = Run::new(&[("prog", &main), ("ld.so", &program(ET_DYN, 0, None))]);
    let loaded = run.exec("/prog", &[]).unwrap();
    let (args, _, auxv) = stack(&loaded);
    assert_eq!(args, [""]);
    assert_eq!(entry(&auxv, AT_ENTRY), 0x5555_5555_4400);
    assert_eq!(entry(&auxv, AT_PHDR), 0x5555_5555_4040);
    let base = entry(&auxv, AT_BASE);
    assert_eq!(loaded.task.registers().unwrap().rip, base + 0x400);
    assert_eq!(text(&loaded.mm, 0x5555_5555_4800), "/ld.so");
    for _ in 0..20 {
        let random = LoadRequest { no_randomize: false, ..REQUEST };
        let loaded = run.exec_with("/prog", &["x"], random).unwrap();
        let (_, _, auxv) = stack(&loaded);
        assert_ne!(entry(&auxv, AT_BASE), base);
        assert_ne!(entry(&auxv, AT_ENTRY), 0x5555_5555_4400);
        assert!(loaded.mm.brk_range().start >= entry(&auxv, AT_ENTRY) - 0x400 + 0x4000);
    }
}

#[test]
fn content_is_copied_where_it_cannot_be_mapped() {
    let run = Run::new(&[]);
    run.fs.add("prog", 0o755, false, &program(ET_EXEC, 0x40_0000, None));
    let loaded = run.exec("/prog", &["x"]).unwrap();
    let (_, space) = run.platform.last.lock().clone().unwrap();
    assert_eq!(loaded.mm.read_vec(0x40_1122, 2).unwrap(), [0xee, 0]);
    assert_eq!(loaded.mm.read_vec(0x40_0000, 4).unwrap(), ELFMAG);
    assert_eq!(space.prot(0x40_0000), Some(PROT_READ | PROT_EXEC));
}

#[test]
fn scripts() {
    let elf = program(ET_EXEC, 0x40_0000, None);
    let run = Run::new(&[
        ("sh", &elf),
        ("one", b"#!/sh -e\n"),
        ("two", b"#! /one  two words \n"),
        ("loop", b"#!/loop\n"),
        ("lost", b"#!/nowhere\n"),
        ("text", b"hello\n"),
        ("empty", b""),
    ]);
    let (args, _, auxv) = stack(&run.exec("/two", &["zero", "a"]).unwrap());
    assert_eq!(args, ["/sh", "-e", "/one", "two words", "/two", "a"]);
    assert_ne!(entry(&auxv, AT_EXECFN), 0);
    assert_eq!(run.exec("/one", &["x"]).unwrap().name, b"one");
    assert_eq!(run.error("/loop"), Errno::ELOOP);
    assert_eq!(run.error("/lost"), Errno::ENOENT);
    assert_eq!(run.error("/text"), Errno::ENOEXEC);
    assert_eq!(run.error("/empty"), Errno::ENOEXEC);
    run.fs.add("plain", 0o644, true, &elf);
    run.fs.add("denied", 0o755, true, b"#!/plain\n");
    assert_eq!(run.error("/denied"), Errno::EACCES);
}

#[test]
fn chains_of_scripts() {
    let run = Run::new(&[("s0", &program(ET_EXEC, 0x40_0000, None))]);
    for depth in 1..=6 {
        run.fs.add(&format!("s{depth}"), 0o755, true, format!("#!/s{}\n", depth - 1).as_bytes());
    }
    assert!(run.exec("/s5", &["x"]).is_ok());
    assert_eq!(run.error("/s6"), Errno::ELOOP);
}

#[test]
fn interpreters_that_do_not_work() {
    let run = Run::new(&[
        ("lost", &program(ET_DYN, 0, Some("/nowhere"))),
        ("bad", &program(ET_DYN, 0, Some("/text"))),
        ("short", &program(ET_DYN, 0, Some("/tiny"))),
        ("text", &[b'x'; 100]),
        ("tiny", b"x"),
    ]);
    assert_eq!(run.error("/lost"), Errno::ENOENT);
    assert_eq!(run.error("/bad"), Errno::ELIBBAD);
    assert_eq!(run.error("/short"), Errno::EIO);
    assert!(run.platform.last.lock().is_none());
}

#[test]
fn busy_text() {
    let run = Run::new(&[("prog", &program(ET_EXEC, 0x40_0000, None))]);
    let ctx = run.fs.context();
    let file = ctx.open_exec(&ctx.cwd, b"/prog", Walk::FOLLOW).unwrap();
    file.inode().state().start_write().unwrap();
    assert_eq!(run.error("/prog"), Errno::ETXTBSY);
    file.inode().state().end_write();
    assert!(run.exec("/prog", &["x"]).is_ok());
    assert_eq!(file.inode().state().start_write(), Ok(()));
}

#[test]
fn too_long() {
    let run = Run::new(&[("prog", &program(ET_EXEC, 0x40_0000, None))]);
    let error = |args: &[&str], stack_limit| {
        run.exec_with("/prog", args, LoadRequest { stack_limit, ..REQUEST }).err()
    };
    let long = "x".repeat(131_071);
    let longer = "x".repeat(131_072);
    assert_eq!(error(&[&long], 8 << 20), None);
    assert_eq!(error(&[&longer], 8 << 20), Some(Errno::E2BIG));
    assert_eq!(error(&[&long], 0), Some(Errno::E2BIG));
    assert_eq!(error(&vec![&long[..]; 15], 8 << 20), None);
    assert_eq!(error(&vec![&long[..]; 16], 8 << 20), Some(Errno::E2BIG));
    assert_eq!(error(&vec![&long[..]; 40], u64::MAX), None);
    assert_eq!(error(&vec![&long[..]; 48], u64::MAX), Some(Errno::E2BIG));
}

#[test]
fn strings_from_memory() {
    let (mm, _) = memory();
    mm.write_array(0x10ff0, &[0x20000u64, 0]).unwrap();
    mm.write_bytes(0x20000, b"abc\0").unwrap();
    assert_eq!(read_strings(&mm, 0x10ff0, 0).unwrap(), [b"abc"]);
    assert!(read_strings(&mm, 0, 0).unwrap().is_empty());
    mm.write_array(0x10ff0, &[0x20000u64, 0x20000]).unwrap();
    assert_eq!(read_strings(&mm, 0x10ff0, 0), Err(Errno::EFAULT));
    assert_eq!(read_strings(&mm, 0x30000, 0), Err(Errno::EFAULT));
    assert_eq!(read_strings(&mm, u64::MAX - 7, 0), Err(Errno::EFAULT));
}

#[test]
fn places_avoid_what_is_taken() {
    let data = program(ET_DYN, 0, None);
    let elf = parse(&data).unwrap();
    let mut seed = 1;
    for _ in 0..2000 {
        let mut random = || next(&mut seed);
        let taken = vec![RESERVED, 0x5555_0000_0000..0x5666_0000_0000, VDSO - 65536..VDSO + 65536];
        let room = Room { user: 0x10000..0x7fff_ffff_f000, taken: taken.clone() };
        let Ok(place) = layout::place(&elf, Some(&elf), room, 8 << 20, &mut random) else {
            // With a twentieth of the space taken there may be no place for the program within reach.
            continue;
        };
        let span = elf.span();
        let ranges =
            [place.stack.clone(), place.main..place.main + span, place.interpreter..place.interpreter + span];
        for (index, range) in ranges.iter().enumerate() {
            assert!(range.start % 4096 == 0 && range.end <= 0x7fff_ffff_f000);
            for other in taken.iter().chain(&ranges[index + 1..]) {
                assert!(range.end <= other.start || other.end <= range.start, "{range:x?} {other:x?}");
            }
        }
    }
}

fn parse(data: &[u8]) -> Result<Elf, Errno> {
    Elf::read_from(Role::Program, &mut |pos, buf| {
        let rest = usize::try_from(pos).ok().and_then(|pos| data.get(pos..)).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    })
}

/// xorshift64.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn headers_that_lie() {
    let good = program(ET_DYN, 0, Some("/ld.so"));
    assert!(parse(&good).is_ok());
    let change = |at: usize, bytes: &[u8]| {
        let mut data = good.clone();
        data[at..at + bytes.len()].copy_from_slice(bytes);
        parse(&data).map(|_| ()).err()
    };
    assert_eq!(change(0, b"x"), Some(Errno::ENOEXEC));
    assert_eq!(change(4, &[ELFCLASS32]), Some(Errno::ENOEXEC));
    assert_eq!(change(16, &[1]), Some(Errno::ENOEXEC));
    assert_eq!(change(18, &[3]), Some(Errno::ENOEXEC));
    assert_eq!(change(24, &[0xff; 8]), Some(Errno::EINVAL));
    assert_eq!(change(32, &[0xff; 8]), Some(Errno::ENOEXEC));
    assert_eq!(change(54, &[55]), Some(Errno::ENOEXEC));
    assert_eq!(change(56, &[0, 0]), Some(Errno::ENOEXEC));
    assert_eq!(change(56, &[0xff, 0xff]), Some(Errno::ENOEXEC));
    // The first segment: offset, address, sizes.
    assert_eq!(change(64 + 8, &[1]), Some(Errno::EINVAL));
    assert_eq!(change(64 + 16, &[0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Some(Errno::EINVAL));
    assert_eq!(change(64 + 32, &[0xff; 8]), Some(Errno::EINVAL));
    assert_eq!(change(64 + 40, &[0xff; 8]), Some(Errno::EINVAL));
    assert_eq!(change(64 + 40, &[0, 0]), Some(Errno::EINVAL));
    assert_eq!(change(64 + 48, &[0xff; 8]), None);
    // The interpreter's path.
    let interp = 64 + 3 * 56;
    assert_eq!(change(interp + 32, &[1]), Some(Errno::ENOEXEC));
    assert_eq!(change(interp + 32, &[0xff; 8]), Some(Errno::ENOEXEC));
    assert_eq!(change(0x806, b"x"), Some(Errno::ENOEXEC));
    assert_eq!(change(interp + 8, &[0xff; 8]), Some(Errno::EIO));
}

#[test]
fn noise_in_the_headers() {
    let good = program(ET_DYN, 0, Some("/ld.so"));
    let interpreter = program(ET_DYN, 0, None);
    let mut seed = 0x1234_5678_9abc_def1;
    let mut loaded = 0;
    for round in 0..3000 {
        let mut data = good.clone();
        for _ in 0..1 + round % 4 {
            let at = 16 + (next(&mut seed) % (64 + 4 * 56 - 16)) as usize;
            data[at] = match next(&mut seed) % 3 {
                0 => 0xff,
                1 => data[at] ^ (1 << (next(&mut seed) % 8)),
                _ => next(&mut seed) as u8,
            };
        }
        let Ok(elf) = parse(&data) else { continue };
        for segment in &elf.segments {
            assert!(segment.filesz <= segment.memsz && segment.end() <= chitin_abi::limits::TASK_SIZE);
            assert!(elf.low <= segment.vaddr && segment.end() <= elf.high);
        }
        if elf.span() > 1 << 20 {
            // Fine with a host, too much for this address space.
            let room = Room { user: 0x10000..0x7fff_ffff_f000, taken: vec![RESERVED] };
            let _ = layout::place(&elf, Some(&elf), room, 8 << 20, &mut || next(&mut seed));
            continue;
        }
        let run = Run::new(&[("prog", &data), ("ld.so", &interpreter)]);
        match run.exec("/prog", &["x"]) {
            Ok(done) => {
                stack(&done);
                loaded += 1;
            }
            Err(_) => {
                // Nothing is left running of what failed half way.
                if let Some((task, _)) = run.platform.last.lock().clone() {
                    assert!(task.killed.load(std::sync::atomic::Ordering::SeqCst));
                }
            }
        }
    }
    assert!(loaded > 100, "{loaded}");
}
