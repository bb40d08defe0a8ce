//! Writes `tests/vectors/{syn_ack,cookie_ack,translate,drops,foreign}.toml`.
//!
//! ```text
//! cargo run --no-default-features --example packet_vectors
//! ```
//!
//! The engine makes them, so they prove nothing alone: `tests/vectors/check_packet_vectors.py` recomputes what the formulas
//! tell, and a reader of the difference says the rest. `tests/packet_vectors.rs` and `tests/xdp` hold both implementations
//! to them.

// An example may stop when its assumptions fail.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(unreachable_pub, dead_code, reason = "what is shared with the tests knows more than is needed here")]

#[path = "../../tests/packets/mod.rs"]
mod packets;

mod cookie_ack;
mod drops;
mod foreign;
mod promises;
mod syn_ack;
mod theme;
mod translate;

use std::path::Path;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    for theme in [syn_ack::theme(), cookie_ack::theme(), translate::theme(), drops::theme(), foreign::theme()]
    {
        let path = folder.join(format!("{}.toml", theme.name));
        println!("{}: {} vectors", path.display(), theme.count);
        std::fs::write(path, theme.text).expect("the folder of vectors can be written");
    }
}
