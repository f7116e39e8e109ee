//! Tells the program which commit it was built from: `LATIMER_COMMIT` if that is set,
//! else what git says of this folder, else `unknown`.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LATIMER_COMMIT");
    let commit = env::var("LATIMER_COMMIT").ok().or_else(commit).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=LATIMER_COMMIT={commit}");
}

fn commit() -> Option<String> {
    // A copy of the sources inside another repository is not at that one's commit.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().ok()? {
        return None;
    }
    // The log of HEAD grows with every commit and every change of branch.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().into())
}
