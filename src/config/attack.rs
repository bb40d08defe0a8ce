//! The table `[attack]`: who is told of attacks.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::document::{Fault, Problems, Section, Value, kind};
use super::read::NONE;
use super::value;

/// Who is told of attacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attack {
    /// A program that runs at the start and at the end of each event, or `None`.
    pub hook: Option<Vec<String>>,
    /// The longest time that it may take before it is killed. Bounds how late the events after it are told.
    pub hook_timeout: Duration,
}

impl Default for Attack {
    fn default() -> Attack {
        Attack { hook: None, hook_timeout: Duration::from_secs(10) }
    }
}

/// A program that is told of attacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its absolute path.
    pub program: PathBuf,
    /// What follows on its command line.
    pub arguments: Vec<String>,
    /// The longest time that it may take.
    pub timeout: Duration,
}

impl Attack {
    /// The program to run, if there is one.
    pub fn hook(&self) -> Option<Hook> {
        let [program, arguments @ ..] = self.hook.as_deref()? else { return None };
        Some(Hook { program: program.into(), arguments: arguments.to_vec(), timeout: self.hook_timeout })
    }
}

/// Reads the table.
pub(super) fn read(mut section: Section<'_, '_>, problems: &mut Problems) -> Attack {
    let default = Attack::default();
    let attack = Attack {
        hook: section.read("hook", default.hook, problems, command),
        hook_timeout: section.read("hook_timeout", default.hook_timeout, problems, |v| {
            value::duration(v, Duration::from_secs(1)..=Duration::from_secs(300))
        }),
    };
    section.finish(problems);
    attack
}

/// A program and its arguments, or `"none"`.
fn command(value: &Value<'_>) -> Result<Option<Vec<String>>, Fault> {
    let entries = match value.get_ref() {
        DeValue::String(text) if text == NONE => return Ok(None),
        DeValue::Array(entries) if !entries.is_empty() => entries,
        DeValue::Array(_) => {
            return Err(format!("is empty; name a program by its absolute path, or write {NONE:?}").into());
        }
        other => {
            let example = "[\"/etc/synwall/hook\", \"argument\"]";
            return Err(format!("must be a list such as {example}, or {NONE:?}, not {}", kind(other)).into());
        }
    };
    let word = |entry: &Value<'_>| {
        let text = value::string(entry).map_err(|fault| fault.or_at(entry.span().start))?;
        if text.contains('\0') {
            return Err(Fault::at(
                entry.span().start,
                format!("{text:?} holds a NUL, which no argument can"),
            ));
        }
        Ok(text)
    };
    let words: Vec<String> = entries.iter().map(word).collect::<Result<_, Fault>>()?;
    match (words.first(), entries.first()) {
        (Some(program), Some(entry)) if !program.starts_with('/') => {
            Err(Fault::at(entry.span().start, format!("{program:?} is not an absolute path")))
        }
        _ => Ok(Some(words)),
    }
}
