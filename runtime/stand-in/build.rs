//! Builds the programs: freestanding, at a fixed address, without a C library.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=program");
    println!("cargo::rerun-if-changed=src/layout.rs");
    for (source, name) in [("main", "stand_in"), ("name_proxy", "name_proxy")] {
        build(source, name);
    }
}

fn build(source: &str, name: &str) {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR")).join(name);
    let linker = "-nostartfiles -nostdlib -static -no-pie -Wl,--build-id=none,-z,noseparate-code,-z,norelro,-z,noexecstack";
    let built = Command::new(variable("RUSTC"))
        .args(["--edition=2024", "--crate-type=bin"])
        .arg(format!("--crate-name={name}"))
        .arg(format!("program/{source}.rs"))
        .args(["--target", &variable("TARGET"), "-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols"])
        .args(["-Crelocation-model=static", "-Ctarget-feature=+crt-static", "-Cforce-unwind-tables=no"])
        .arg(format!("-Clink-args={linker}"))
        .arg("-o")
        .arg(&out)
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the program {name} does not build");
}
