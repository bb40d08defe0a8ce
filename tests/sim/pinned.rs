//! What came of the fixed range, to the last connection.

use super::tally::Tally;

pub fn assert_unchanged(_tally: &Tally) {}
