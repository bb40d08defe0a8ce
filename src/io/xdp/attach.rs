//! Attaching the program to both ports, and detaching it.

use std::fs;

use aya::Ebpf;
use aya::programs::XdpMode;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;

use super::error::XdpError;
use super::pin::Pins;
use super::record::Record;
use super::{Attachment, Mode, maps, sys};
use crate::engine::Side;

/// A program that is attached, for as long as this lives or is pinned.
pub(super) struct Attached {
    _links: Vec<FdLink>,
    pub(super) mode: Mode,
    /// Why it is not native.
    pub(super) fallback: Option<String>,
}

/// Attaches to both ports in one mode: native, or generic where that is asked for or one of the drivers cannot.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    interfaces: [&str; 2],
    wanted: Attachment,
    pins: Option<&Pins>,
) -> Result<Attached, XdpError> {
    let attempt = |ebpf: &mut Ebpf, mode, fallback| {
        let links = attach_both(ebpf, interfaces, mode, pins)?;
        Ok(Attached { _links: links, mode, fallback })
    };
    match wanted {
        Attachment::Native => attempt(ebpf, Mode::Native, None),
        Attachment::Generic => attempt(ebpf, Mode::Generic, None),
        Attachment::Auto => match attempt(ebpf, Mode::Native, None) {
            Err(error @ XdpError::Attach { .. }) => attempt(ebpf, Mode::Generic, Some(error.to_string())),
            outcome => outcome,
        },
    }
}

/// Puts this run's programs in the place of an earlier one's, without a frame in between that meets neither. `None` if its
/// links are not there: it never came to attach, or a port went away meanwhile.
pub(super) fn take_over(
    ebpf: &mut Ebpf,
    interfaces: [&str; 2],
    pins: &Pins,
    record: &Record,
) -> Option<Attached> {
    let mode = record.mode?;
    let mut links = Vec::new();
    for (side, interface) in Side::ALL.into_iter().zip(interfaces) {
        let link: XdpLink = FdLink::from(PinnedLink::from_pin(pins.link(side)).ok()?).try_into().ok()?;
        let program = maps::program(ebpf, side).ok()?;
        let id = program.attach_to_link(link).ok()?;
        let link = program.take_link(id).ok()?;
        links.push(
            FdLink::try_from(link)
                .map_err(|error| XdpError::of_link(interface, mode.label(), &error))
                .ok()?,
        );
    }
    Some(Attached { _links: links, mode, fallback: None })
}

/// Detaches what is pinned; which of the sides there was something of.
pub(super) fn detach_pinned(pins: &Pins) -> Result<Vec<Side>, XdpError> {
    let mut detached = Vec::new();
    for side in Side::ALL {
        let path = pins.link(side);
        if !path.exists() {
            continue;
        }
        let failed =
            |error: std::io::Error| XdpError::Remove { path: path.clone(), reason: error.to_string() };
        match sys::detach_link(&path) {
            // Its port is gone.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            outcome => outcome.map_err(failed)?,
        }
        fs::remove_file(&path).map_err(failed)?;
        detached.push(side);
    }
    Ok(detached)
}

fn attach_both(
    ebpf: &mut Ebpf,
    interfaces: [&str; 2],
    mode: Mode,
    pins: Option<&Pins>,
) -> Result<Vec<FdLink>, XdpError> {
    let mut links = Vec::new();
    for (side, interface) in Side::ALL.into_iter().zip(interfaces) {
        match attach_one(ebpf, side, interface, mode, pins) {
            Ok(link) => links.push(link),
            // The first port is to be as it was before.
            Err(error) => {
                drop(links);
                pins.map(detach_pinned).transpose()?;
                return Err(error);
            }
        }
    }
    Ok(links)
}

fn attach_one(
    ebpf: &mut Ebpf,
    side: Side,
    interface: &str,
    mode: Mode,
    pins: Option<&Pins>,
) -> Result<FdLink, XdpError> {
    let program = maps::program(ebpf, side)?;
    let flags = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let failed = |error: &_| XdpError::of_attaching(interface, mode.label(), error);
    let id = program.attach(interface, flags).map_err(|error| failed(&error))?;
    let link = program.take_link(id).map_err(|error| failed(&error))?;
    let link = FdLink::try_from(link).map_err(|error| XdpError::of_link(interface, mode.label(), &error))?;
    let Some(pins) = pins else { return Ok(link) };
    let path = pins.link(side);
    let refused =
        |error: aya::pin::PinError| XdpError::FileSystem { path: path.clone(), reason: error.to_string() };
    link.pin(&path).map(FdLink::from).map_err(refused)
}
