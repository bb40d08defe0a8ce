//! The kinds of random frames.

use synwall::engine::Side;

use crate::maker::Maker;
use crate::odd;
use crate::world::World;

/// A kind of frame.
pub struct Kind {
    pub name: &'static str,
    /// How often it comes.
    pub weight: usize,
    /// How many percent of it the program may leave to the engine.
    pub most_up: usize,
    pub make: Make,
}

/// Makes a frame, if there is what it would aim at.
type Make = fn(&mut Maker, &World) -> Option<(Side, Vec<u8>)>;

pub const KINDS: &[Kind] = &[
    Kind { name: "SYN", weight: 16, most_up: 0, make: |m, _| Some(m.syn()) },
    Kind { name: "SYN, nonsense", weight: 8, most_up: 0, make: |m, _| Some(m.bad_syn()) },
    Kind { name: "SYN, let through", weight: 2, most_up: 100, make: |m, _| Some(m.quiet_syn()) },
    Kind { name: "cookie, good", weight: 5, most_up: 100, make: |m, _| m.good_cookie() },
    Kind { name: "cookie, forged", weight: 10, most_up: 0, make: |m, _| m.forged_cookie() },
    Kind { name: "flow, from client", weight: 12, most_up: 2, make: |m, w| m.flow(w, Side::Client) },
    // A server's that is ahead of the note of a direct flow: the engine believes it if it is intact.
    Kind { name: "flow, from server", weight: 12, most_up: 4, make: |m, w| m.flow(w, Side::Server) },
    // As above, at the limits of windows more often.
    Kind { name: "flow, outside the window", weight: 4, most_up: 25, make: Maker::outside },
    Kind { name: "flow, edited", weight: 3, most_up: 100, make: Maker::edited },
    Kind { name: "flow, rare options", weight: 4, most_up: 100, make: Maker::rare },
    Kind { name: "flow, its end", weight: 1, most_up: 100, make: Maker::end },
    Kind { name: "flow, ending", weight: 3, most_up: 100, make: Maker::ending },
    Kind { name: "pending", weight: 3, most_up: 100, make: |m, _| m.of_pending() },
    Kind { name: "stray, from client", weight: 6, most_up: 0, make: |m, _| Some(m.stray()) },
    Kind { name: "stray, from server", weight: 2, most_up: 100, make: |m, _| Some(m.stray_of_server()) },
    Kind { name: "denied", weight: 4, most_up: 0, make: |m, _| Some(m.denied()) },
    Kind { name: "not challenged", weight: 5, most_up: 0, make: |m, _| Some(m.not_challenged()) },
    Kind { name: "foreign", weight: 8, most_up: 0, make: |m, _| Some(odd::foreign(m)) },
    Kind { name: "odd headers", weight: 6, most_up: 100, make: |m, w| odd::headers(m, w) },
    Kind { name: "malformed", weight: 3, most_up: 0, make: |m, _| Some(odd::malformed(m)) },
    Kind { name: "garbage", weight: 4, most_up: 5, make: |m, _| Some(odd::garbage(m)) },
    Kind { name: "mutated", weight: 10, most_up: 25, make: odd::mutated },
];

pub const MANY_TARGETS: [&str; 12] = [
    "198.18.255.2:80",
    "[2001:db8:255::2]:80",
    "[2001:db8:255::2]:443",
    "198.18.255.3:1000",
    "198.18.255.4:443",
    "198.18.255.5:25",
    "198.18.240.1:9",
    "198.18.240.7:80",
    "198.18.240.7:82",
    "[2001:db8:240:1::7]:2000",
    "198.18.255.10:80",
    "198.18.240.255:65535",
];
pub const FEW_TARGETS: [&str; 4] =
    ["198.18.255.2:80", "[2001:db8:255::2]:80", "[2001:db8:255::2]:443", "198.18.255.10:80"];
