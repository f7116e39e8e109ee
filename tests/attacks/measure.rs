//! What an attack costs.

use std::fs;

/// Nanoseconds of processor time this thread has used.
fn processor_ns() -> u64 {
    // The kernel brings the number up to date when the thread is switched or a tick comes.
    std::thread::yield_now();
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Milliseconds of processor time that `work` takes.
pub(crate) fn processor_ms(work: impl FnOnce()) -> f64 {
    let before = processor_ns();
    work();
    (processor_ns() - before) as f64 / 1e6
}

/// Octets of memory that the whole process holds. Other tests run beside this one, so
/// only orders of magnitude say anything.
pub(crate) fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
