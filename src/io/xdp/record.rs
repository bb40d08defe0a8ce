//! What the host was like before: how the ports are attached and which offloads were on, so that whoever detaches can put it
//! back, be it another process.

use std::path::Path;

use aya::maps::{Array, Map, MapData, MapError};

use super::Mode;
use super::error::XdpError;
use crate::engine::Side;
use crate::io::ethtool::{self, Ethtool};

/// What was found and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// How the programs are attached, if they are.
    pub(super) mode: Option<Mode>,
    /// By side: whether VLAN tags were taken off arriving frames.
    rx_vlan: [bool; 2],
}

impl Record {
    /// The record that is pinned at `path`; that of an untouched host if there is none.
    pub(super) fn read(path: &Path) -> Record {
        let read = || -> Result<Record, MapError> {
            let map = open(path)?;
            let mode = match map.get(&0, 0)? {
                NATIVE => Some(Mode::Native),
                GENERIC => Some(Mode::Generic),
                _ => None,
            };
            Ok(Record { mode, rx_vlan: [map.get(&1, 0)? != 0, map.get(&2, 0)? != 0] })
        };
        read().unwrap_or_default()
    }

    /// Pins it at `path`.
    pub(super) fn write(&self, path: &Path) -> Result<(), XdpError> {
        let mut map = match open(path) {
            Ok(map) => map,
            Err(_) => {
                let map = Array::<MapData, u32>::create(3, 0).map_err(|error| XdpError::of_map(&error))?;
                let refused = |error: aya::pin::PinError| XdpError::FileSystem {
                    path: path.to_owned(),
                    reason: error.to_string(),
                };
                map.pin(path).map_err(refused)?;
                open(path).map_err(|error| XdpError::of_map(&error))?
            }
        };
        let mode = self.mode.map_or(0, |mode| if mode == Mode::Native { NATIVE } else { GENERIC });
        let [outside, inside] = self.rx_vlan.map(u32::from);
        for (index, value) in (0..).zip([mode, outside, inside]) {
            map.set(index, value, 0).map_err(|error| XdpError::of_map(&error))?;
        }
        Ok(())
    }

    /// Has the port on `side` leave VLAN tags in arriving frames.
    pub(super) fn keep_tags(&mut self, side: Side, interface: &str) -> Result<(), XdpError> {
        let refused = |error: std::io::Error| XdpError::VlanOffload {
            interface: interface.to_owned(),
            reason: error.to_string(),
        };
        // A driver that cannot tell has no such offload.
        let ethtool = Ethtool::open().map_err(refused)?;
        let flags = ethtool.value(interface, ethtool::FLAGS).unwrap_or(0);
        if flags & ETH_FLAG_RXVLAN == 0 {
            return Ok(());
        }
        ethtool.set_flags(interface, flags & !ETH_FLAG_RXVLAN).map_err(refused)?;
        if let Some(was_on) = self.rx_vlan.get_mut(side.index()) {
            *was_on = true;
        }
        Ok(())
    }

    /// Puts the port on `side` back as it was; whether there was something to do.
    pub(super) fn restore_tags(&self, side: Side, interface: &str) -> std::io::Result<bool> {
        if !self.rx_vlan.get(side.index()).is_some_and(|was_on| *was_on) {
            return Ok(false);
        }
        let ethtool = Ethtool::open()?;
        let flags = ethtool.value(interface, ethtool::FLAGS)?;
        ethtool.set_flags(interface, flags | ETH_FLAG_RXVLAN)?;
        Ok(true)
    }
}

fn open(path: &Path) -> Result<Array<MapData, u32>, MapError> {
    Map::Array(MapData::from_pin(path)?).try_into()
}

const NATIVE: u32 = 1;
const GENERIC: u32 = 2;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
