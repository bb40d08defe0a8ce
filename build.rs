//! Compiles the XDP program, which the feature `xdp` embeds: `src/bpf/synwall.bpf.c` to `$OUT_DIR/synwall.bpf.o`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_XDP").is_none() {
        return ExitCode::SUCCESS;
    }
    println!("cargo:rerun-if-changed={SOURCES}");
    println!("cargo:rerun-if-env-changed=CLANG");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\nThe XDP program cannot be built: {message}\n\n{ADVICE}\n");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let clang = find_clang()?;
    let out = std::env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"]);
    // What is the machine's own among the kernel's headers (asm/types.h) Debian keeps in a directory of its own.
    if let Some(directory) = multiarch() {
        command.arg("-idirafter").arg(directory);
    }
    // What is not known to need no barrier gets one.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        command.arg("-D__TARGET_ARCH_x86");
    }
    command.arg("-c").arg(Path::new(SOURCES).join("synwall.bpf.c"));
    command.arg("-o").arg(Path::new(&out).join("synwall.bpf.o"));
    let done = command.output().map_err(|error| format!("{clang}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let is_header = said.contains("file not found");
    let hint = if is_header { " (are the packages libbpf-dev and linux-libc-dev there?)" } else { "" };
    Err(format!("{clang} failed{hint}:\n{said}"))
}

/// The compiler that `$CLANG` names, else the newest known to be there.
fn find_clang() -> Result<String, String> {
    let named = std::env::var("CLANG").ok();
    let candidates = match &named {
        Some(named) => vec![named.as_str()],
        None => vec!["clang-19", "clang"],
    };
    let works =
        |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|run| run.status.success());
    let found = candidates.iter().copied().find(works);
    found.map(str::to_owned).ok_or_else(|| format!("there is no {}.", candidates.join(" and no ")))
}

fn multiarch() -> Option<PathBuf> {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    let directory = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    directory.is_dir().then_some(directory)
}

const SOURCES: &str = "src/bpf";

const ADVICE: &str = "It takes clang and libbpf's headers: on Debian, apt-get install clang-19 libbpf-dev linux-libc-dev; or name
the compiler with CLANG=. Without them synwall builds without the XDP plane:
    cargo build --release --no-default-features --features appliance";
