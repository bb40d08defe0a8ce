//! The synwall program.

fn main() {}
