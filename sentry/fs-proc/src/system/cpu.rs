//! /proc/cpuinfo (arch/x86/kernel/cpu/proc.c), from CPUID.

use crate::format::put;
use crate::fs::Shared;
use chitin_abi::Errno;
use chitin_host::cpuid::leaf;

/// A CPUID register whose bits Linux has names for: leaf, sub-leaf, register, names from bit 0 ("-": none).
struct Word(u32, u32, usize, &'static str);

/// In the order of Linux's feature words.
const FEATURES: &[Word] = &[
    Word(
        1,
        0,
        3,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr \
         sse sse2 ss ht tm ia64 pbe",
    ),
    Word(
        0x8000_0001,
        0,
        3,
        "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
    Word(
        1,
        0,
        2,
        "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 \
         sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor",
    ),
    Word(
        0x8000_0001,
        0,
        2,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp \
         fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx",
    ),
    Word(
        7,
        0,
        1,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed \
         adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    Word(0xd, 1, 0, "xsaveopt xsavec xgetbv1 xsaves"),
    Word(7, 1, 0, "- - - - avx_vnni avx512_bf16 - - - - fzrm fsrs fsrc - - - - - - - - amx_fp16 - avx_ifma"),
    Word(0x8000_0008, 0, 1, "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd"),
    Word(
        7,
        0,
        2,
        "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 - gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme \
         avx512_vpopcntdq - la57 - - - - - rdpid - - cldemote - movdiri movdir64b enqcmd",
    ),
    Word(
        7,
        0,
        3,
        "- - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect - md_clear - - - serialize - tsxldtrk - \
         pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 - - flush_l1d arch_capabilities",
    ),
];

fn registers_text(registers: &[u32]) -> String {
    let bytes: Vec<u8> = registers.iter().flat_map(|register| register.to_le_bytes()).collect();
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_string()
}

fn flags() -> String {
    let mut flags = Vec::new();
    for Word(number, sub, register, names) in FEATURES {
        let bits = leaf(*number, *sub).get(*register).copied().unwrap_or(0);
        let named = names.split_ascii_whitespace().enumerate();
        flags.extend(named.filter(|(bit, name)| *name != "-" && bits >> bit & 1 != 0).map(|(_, name)| name));
    }
    flags.join(" ")
}

/// Megahertz from the name ("@ 2.50GHz") or leaf 0x16.
fn megahertz(name: &str) -> f64 {
    let named = name.rsplit_once("@ ").and_then(|(_, speed)| {
        let (number, factor) = match speed.strip_suffix("GHz") {
            Some(number) => (number, 1000.0),
            None => (speed.strip_suffix("MHz")?, 1.0),
        };
        number.trim().parse::<f64>().ok().map(|value| value * factor)
    });
    named.unwrap_or_else(|| f64::from(leaf(0x16, 0)[0] & 0xffff))
}

/// Kilobytes of the largest cache.
fn cache_kb() -> u32 {
    let mut largest = 0u64;
    for sub in 0..8 {
        let [eax, ebx, ecx, _] = leaf(4, sub);
        if eax & 0x1f == 0 {
            break;
        }
        let ways = u64::from(ebx >> 22) + 1;
        let partitions = u64::from(ebx >> 12 & 0x3ff) + 1;
        let line = u64::from(ebx & 0xfff) + 1;
        largest = largest.max(ways * partitions * line * (u64::from(ecx) + 1) / 1024);
    }
    let amd = leaf(0x8000_0006, 0);
    let amd = (amd[2] >> 16).max((amd[3] >> 18) * 512);
    u32::try_from(largest).unwrap_or(u32::MAX).max(amd)
}

pub(super) fn cpuinfo(shared: &Shared, out: &mut Vec<u8>) -> Result<(), Errno> {
    let [highest, b, c, d] = leaf(0, 0);
    let vendor = registers_text(&[b, d, c]);
    let [signature, basic, ..] = leaf(1, 0);
    let family = signature >> 8 & 0xf;
    let model = signature >> 4 & 0xf;
    let full_family = if family == 0xf { family + (signature >> 20 & 0xff) } else { family };
    let full_model = if family >= 6 { model | (signature >> 16 & 0xf) << 4 } else { model };
    let brand: Vec<u32> = (0x8000_0002..=0x8000_0004).flat_map(|number| leaf(number, 0)).collect();
    let brand = registers_text(&brand);
    let speed = megahertz(&brand);
    let (flags, cache) = (flags(), cache_kb());
    let line = (basic >> 8 & 0xff) * 8;
    let sizes = leaf(0x8000_0008, 0)[0];
    let cpus = shared.container.cpus();
    for cpu in 0..cpus {
        put!(out, "processor\t: {cpu}\nvendor_id\t: {vendor}\ncpu family\t: {full_family}\n");
        put!(out, "model\t\t: {full_model}\nmodel name\t: {brand}\nstepping\t: {}\n", signature & 0xf);
        put!(out, "microcode\t: 0x1\ncpu MHz\t\t: {speed:.3}\ncache size\t: {cache} KB\n");
        put!(out, "physical id\t: 0\nsiblings\t: {cpus}\ncore id\t\t: {cpu}\ncpu cores\t: {cpus}\n");
        put!(out, "apicid\t\t: {cpu}\ninitial apicid\t: {cpu}\nfpu\t\t: yes\nfpu_exception\t: yes\n");
        put!(out, "cpuid level\t: {highest}\nwp\t\t: yes\nflags\t\t: {flags}\nbugs\t\t:\n");
        put!(out, "bogomips\t: {:.2}\nclflush size\t: {line}\ncache_alignment\t: {line}\n", speed * 2.0);
        put!(out, "address sizes\t: {} bits physical, {} bits virtual\n", sizes & 0xff, sizes >> 8 & 0xff);
        put!(out, "power management:\n\n");
    }
    Ok(())
}
