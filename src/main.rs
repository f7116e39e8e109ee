//! The program `latimer`.

fn main() {}
