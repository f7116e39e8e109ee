//! Lets libFuzzer drive the table of targets.

#![no_main]

#[path = "../flows/neighbours.rs"]
mod neighbours;
#[path = "../sim/net.rs"]
mod net;
#[path = "../sim/peers.rs"]
mod peers;
mod targets;
#[path = "../sim/world.rs"]
mod world;

use std::sync::LazyLock;
use targets::{TARGETS, Target};

static WANTED: LazyLock<Option<&'static Target>> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").ok()?;
    Some(TARGETS.iter().find(|(n, _)| *n == name).expect("FUZZ_TARGET names a target of the table"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match (*WANTED, data.split_first()) {
        (Some((_, target)), _) => target(data),
        (None, Some((pick, data))) => TARGETS[usize::from(*pick) % TARGETS.len()].1(data),
        (None, None) => {}
    }
});
