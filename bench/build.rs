//! Builds the shims of the peers in C, each behind its feature.

use std::path::Path;

/// Compiles `shims/NAME.c` as the peer's own users would: optimised, for this very machine.
fn shim(name: &str, includes: &[std::path::PathBuf], defines: &[(String, Option<String>)], flags: &[&str]) {
    let source = Path::new("shims").join(format!("{name}.c"));
    println!("cargo::rerun-if-changed={}", source.display());
    let mut build = cc::Build::new();
    build.file(source).includes(includes).opt_level(3).warnings(true).extra_warnings(true);
    for (define, value) in defines {
        build.define(define, value.as_deref());
    }
    for flag in flags {
        build.flag(flag);
    }
    build.flag_if_supported("-march=native").compile(&format!("tidegate_bench_{name}"));
}

fn package(feature: &str, name: &str, debian: &str) -> pkg_config::Library {
    let found = pkg_config::Config::new().cargo_metadata(false).probe(name);
    found.unwrap_or_else(|error| {
        panic!("feature `{feature}` needs {name}: apt-get install {debian}, or build without it ({error})")
    })
}

fn enabled(feature: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{}", feature.to_uppercase())).is_some()
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if enabled("kernels") {
        shim("kernels", &[], &[], &[]);
    }
    if enabled("liburcu") {
        let urcu = package("liburcu", "liburcu-memb", "liburcu-dev");
        shim("urcu", &urcu.include_paths, &[], &[]);
        println!("cargo::rustc-link-lib=urcu-memb");
    }
    if enabled("dpdk") {
        let dpdk = package("dpdk", "libdpdk", "libdpdk-dev");
        // libdpdk.pc asks for rte_config.h in front of everything; dmadev was "experimental" up to 23.11.
        let defines = [("ALLOW_EXPERIMENTAL_API".to_owned(), None)];
        shim("dpdk", &dpdk.include_paths, &defines, &["-include", "rte_config.h"]);
        for library in ["rte_dmadev", "rte_rcu", "rte_ring", "rte_eal"] {
            println!("cargo::rustc-link-lib={library}");
        }
        for path in dpdk.link_paths {
            println!("cargo::rustc-link-search={}", path.display());
        }
    }
}
