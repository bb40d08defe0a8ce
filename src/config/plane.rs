//! `[plane]`: how frames are moved.

use std::path::PathBuf;

use super::document::{Fault, Problems, Section, Value};
use super::read::NONE;
use super::{Plane, PlaneKind, PlaneMode, value};

/// Where the XDP program and its flows are pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PlanePin {
    /// In a directory named after the outside port.
    #[default]
    Auto,
    /// In this directory, which must be in a bpffs.
    At(PathBuf),
    /// Nowhere: they go with the process.
    None,
}

impl PlanePin {
    /// How it is written.
    pub(super) fn show(&self) -> String {
        match self {
            PlanePin::Auto => AUTO.to_owned(),
            PlanePin::At(path) => path.display().to_string(),
            PlanePin::None => NONE.to_owned(),
        }
    }
}

/// Reads the table.
pub(super) fn read(mut section: Section<'_, '_>, problems: &mut Problems) -> Plane {
    let default = Plane::default();
    let plane = Plane {
        kind: section.read("kind", default.kind, problems, kind),
        mode: section
            .read("mode", default.mode, problems, |v| value::word(v, PlaneMode::ALL, PlaneMode::label)),
        pin: section.read("pin", default.pin, problems, pin),
        workers: section.read("workers", default.workers, problems, |v| {
            value::integer(v, 0..=64).map(|workers| usize::try_from(workers).unwrap_or(0))
        }),
    };
    section.finish(problems);
    plane
}

fn kind(value: &Value<'_>) -> Result<PlaneKind, Fault> {
    match value::word(value, PlaneKind::ALL, PlaneKind::label)? {
        PlaneKind::Xdp if cfg!(not(feature = "xdp")) => {
            Err("\"xdp\" is not in this build; use \"auto\" or \"pnet\"".to_owned().into())
        }
        kind => Ok(kind),
    }
}

fn pin(value: &Value<'_>) -> Result<PlanePin, Fault> {
    let text = value::string(value)?;
    match text.as_str() {
        AUTO => Ok(PlanePin::Auto),
        NONE => Ok(PlanePin::None),
        path if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => {
            Ok(PlanePin::At(PathBuf::from(path)))
        }
        _ => Err(format!("{text:?} is neither an absolute path nor {AUTO:?} or {NONE:?}").into()),
    }
}

/// Whatever fits.
const AUTO: &str = "auto";
