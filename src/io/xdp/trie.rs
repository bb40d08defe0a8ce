//! Longest-prefix tries, of which only what changed is written.

use std::collections::HashMap;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};

use super::areas::MappedPrefix;

/// What a trie holds.
pub(super) type Entries = HashMap<MappedPrefix, u32>;

/// A trie in the kernel and what is in it.
pub(super) struct Trie {
    map: LpmTrie<MapData, [u32; 4], u32>,
    entries: Entries,
}

/// Both tries, which change together.
pub(super) struct Tries {
    pub(super) filter: Trie,
    pub(super) areas: Trie,
}

impl Trie {
    /// The trie with what an earlier run left in it.
    pub(super) fn new(map: LpmTrie<MapData, [u32; 4], u32>) -> Result<Trie, MapError> {
        let prefix = |key: Key<[u32; 4]>| MappedPrefix { address: key.data(), len: key.prefix_len() };
        let entries = map
            .iter()
            .map(|entry| entry.map(|(key, value)| (prefix(key), value)))
            .collect::<Result<_, _>>()?;
        Ok(Trie { map, entries })
    }

    /// Holds `entries` from now on, and nothing else.
    ///
    /// # Errors
    /// What the kernel said; some of the entries are there then, and what is there is known.
    pub(super) fn replace(&mut self, entries: Entries) -> Result<(), String> {
        let gone: Vec<MappedPrefix> =
            self.entries.keys().filter(|prefix| !entries.contains_key(prefix)).copied().collect();
        for prefix in gone {
            self.map.remove(&key(&prefix)).map_err(|error| error.to_string())?;
            self.entries.remove(&prefix);
        }
        for (prefix, value) in entries {
            if self.entries.get(&prefix) != Some(&value) {
                self.map.insert(&key(&prefix), value, 0).map_err(|error| error.to_string())?;
                self.entries.insert(prefix, value);
            }
        }
        Ok(())
    }
}

fn key(prefix: &MappedPrefix) -> Key<[u32; 4]> {
    Key::new(prefix.len, prefix.address)
}
