//! TCP options: any octets, at any length that a header can hold.

use synwall::wire::tcp_options::{MAX_LEN, OptionOctets, Options, SynOptions, TcpOption};

/// Reads `octets` as options; what is found lies inside, and what a SYN says of them survives being written.
pub fn run(octets: &[u8]) {
    list(octets);
    let octets = &octets[..octets.len().min(MAX_LEN)];
    let found = SynOptions::parse(Options::new(octets));
    let written = found.encode();
    assert!(written.octets().len() <= MAX_LEN && written.octets().len().is_multiple_of(4));
    assert_eq!(SynOptions::parse(written.iter()), found);
    let copy = OptionOctets::of(octets);
    assert_eq!(copy.octets(), octets);
    assert!(copy.iter().eq(Options::new(octets)));
}

/// Looks at every option of the list and checks that it lies within.
pub fn list(octets: &[u8]) {
    let mut behind = 0;
    for option in Options::new(octets) {
        match option {
            TcpOption::Sack { at, len } => {
                assert!(at >= behind && at + len <= octets.len());
                assert_eq!(Options::new(octets).sack_blocks(at, len).count(), (len - 2) / 8);
                behind = at + len;
            }
            TcpOption::Timestamps { at, value, echo } => {
                assert!(at >= behind && at + 10 <= octets.len());
                assert_eq!(octets[at + 2..at + 6], value.to_be_bytes());
                assert_eq!(octets[at + 6..at + 10], echo.to_be_bytes());
                behind = at + 10;
            }
            TcpOption::Mss(_)
            | TcpOption::WindowScale(_)
            | TcpOption::SackPermitted
            | TcpOption::Unknown(_) => {}
        }
    }
}
