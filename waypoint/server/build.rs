//! How the binary is linked.

/// What rustc's own linker does beyond others: of sections with the same content one is kept, code and data alike; among them
/// are the landing pads and vtables of generic code, 2.4 MB in all.
const FOLD: [&str; 2] = ["-Wl,--icf=all", "-Wl,--ignore-data-address-equality"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |key: &str| std::env::var(key).unwrap_or_default();
    let target = |key: &str| variable(&format!("CARGO_CFG_TARGET_{key}"));
    if target("OS") != "linux" || target("ENV") != "gnu" {
        return;
    }
    // Relocations in DT_RELR's form: 1.6 MB less in the image. Asks for glibc 2.36 (2022), which the image brings along.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // Elsewhere rustc links by the system's linker.
    if target("ARCH") == "x86_64" && variable("PROFILE") == "release" {
        for argument in FOLD {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
