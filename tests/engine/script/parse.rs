//! Reads a script. What is wrong is said with its line.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side};

use super::segment::{LETTERS, Opt, Segment};
use crate::lab::{ACK, FIN, SYN};

/// A script, read.
#[derive(Debug, Default)]
pub struct Script {
    pub settings: Vec<(Place, Vec<String>)>,
    pub steps: Vec<Step>,
}

/// A line of a file.
#[derive(Clone, Debug)]
pub struct Place {
    pub file: String,
    pub line: usize,
}

impl Place {
    pub fn fault(&self, what: impl std::fmt::Display) -> String {
        format!("{}:{}: {what}", self.file, self.line)
    }
}

/// What happens, and how long after the step before.
#[derive(Debug)]
pub struct Step {
    pub place: Place,
    pub after: Duration,
    pub event: Event,
}

#[derive(Debug)]
pub enum Event {
    /// An end sends a segment; with a reason if it is dropped for it.
    Send(End, Segment, Option<DropReason>),
    /// An end is sent a segment.
    Receive(End, Segment),
    /// An end sends a segment, and the other is sent the same, number for number.
    Cross(End, Segment),
    /// So much, and nothing else, was counted since the last look.
    Counters(BTreeMap<String, i64>),
    /// What was counted so far is nobody's concern: a prelude is over.
    LookAway,
    /// The next key epoch begins.
    Rotate,
    Mode(Mode),
    /// A connection differs in more than its number from the first.
    Connection {
        number: usize,
        iss: Option<i32>,
        port: Option<u16>,
    },
    /// Time passes.
    Wait,
    /// No table holds anything.
    Empty,
}

/// An end, and which of its connections is meant, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub side: Side,
    pub connection: usize,
}

impl End {
    pub fn peer(self) -> End {
        End { side: self.side.peer(), ..self }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.side == Side::Client { "client" } else { "server" })?;
        if self.connection == 1 { Ok(()) } else { write!(f, "{}", self.connection) }
    }
}

/// Reads the script called `file`, which includes preludes from `preludes`.
pub fn script(file: &str, text: &str, preludes: &Path) -> Result<Script, String> {
    check_header(file, text)?;
    let mut script = Script::default();
    steps(file, text, preludes, &mut script)?;
    match script.steps.last() {
        Some(Step { event: Event::Empty, .. }) => Ok(script),
        _ => Err(format!("{file}: the last line must be `empty`: nothing may be left behind")),
    }
}

/// The rows of the checklist that the script shows.
pub fn rows(file: &str, text: &str) -> Result<Vec<u16>, String> {
    let list = text.lines().next().and_then(|line| line.strip_prefix("# rows: "));
    let list = list.ok_or(format!("{file}:1: `# rows: 1, 2` must come first"))?;
    let row = |word: &str| word.trim().parse().map_err(|_| format!("{file}:1: no row: {word:?}"));
    list.split(',').map(row).collect()
}

fn check_header(file: &str, text: &str) -> Result<(), String> {
    rows(file, text)?;
    let sentence = text.lines().skip(1).take_while(|line| line.starts_with("# ")).last();
    match sentence {
        Some(line) if line.ends_with('.') => Ok(()),
        _ => Err(format!("{file}:2: a sentence must follow the rows")),
    }
}

fn steps(file: &str, text: &str, preludes: &Path, script: &mut Script) -> Result<(), String> {
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let place = Place { file: file.into(), line: number };
        let mut line = without_comment(line).to_owned();
        while line.contains('{') && !line.contains('}') {
            let (more, _) = lines.next().ok_or_else(|| place.fault("no } follows"))?;
            line = format!("{line} {}", without_comment(more));
        }
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match words.first().map(String::as_str) {
            None => {}
            Some(word) if word.starts_with("--") => script.settings.push((place, words)),
            Some("include") => include(&place, &words, preludes, script)?,
            Some(_) => script.steps.push(step(place, &line)?),
        }
    }
    Ok(())
}

fn include(place: &Place, words: &[String], preludes: &Path, script: &mut Script) -> Result<(), String> {
    let [_, name] = words else { return Err(place.fault("include NAME")) };
    let path = preludes.join(format!("{name}.pkt"));
    let text =
        std::fs::read_to_string(&path).map_err(|error| place.fault(format_args!("{name}: {error}")))?;
    steps(&format!("prelude/{name}.pkt"), &text, preludes, script)?;
    script.steps.push(Step { place: place.clone(), after: Duration::ZERO, event: Event::LookAway });
    Ok(())
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or("").trim()
}

fn step(place: Place, line: &str) -> Result<Step, String> {
    let (after, rest) = match line.strip_prefix('+') {
        None => (Duration::ZERO, line),
        Some(timed) => {
            let (time, rest) = timed.split_once(' ').unwrap_or((timed, ""));
            (duration(time).ok_or_else(|| place.fault(format_args!("no time: +{time}")))?, rest)
        }
    };
    let event = event(rest.trim()).map_err(|what| place.fault(what))?;
    Ok(Step { place, after, event })
}

/// Seconds, or what `min` and `h` say.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match (text.strip_suffix("min"), text.strip_suffix('h')) {
        (Some(number), _) => (number, 60.0),
        (_, Some(number)) => (number, 3600.0),
        _ => (text, 1.0),
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

fn event(line: &str) -> Result<Event, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [] => Ok(Event::Wait),
        ["empty"] => Ok(Event::Empty),
        ["rotate"] => Ok(Event::Rotate),
        ["mode", name] => Ok(Event::Mode(mode(name)?)),
        ["counters", ..] => counters(line).map(Event::Counters),
        ["connection", number, rest @ ..] => connection(number, rest),
        [from, "->", to, ..] => {
            let (end, other) = (self::end(from)?, self::end(to)?);
            if other != end.peer() {
                return Err(format!("{from} -> {to}: from one end of a connection to its other"));
            }
            let rest = behind(line, "->").trim_start().strip_prefix(to).unwrap_or("");
            Ok(Event::Cross(end, segment(rest)?))
        }
        [who, ">", ..] => {
            let (text, reason) = match behind(line, ">").split_once(" drop ") {
                Some((text, reason)) => (text, Some(drop_reason(reason.trim())?)),
                None => (behind(line, ">"), None),
            };
            Ok(Event::Send(end(who)?, segment(text)?, reason))
        }
        [who, "<", ..] => Ok(Event::Receive(end(who)?, segment(behind(line, "<"))?)),
        _ => Err(format!("not understood: {line}")),
    }
}

fn behind<'a>(line: &'a str, arrow: &str) -> &'a str {
    line.split_once(arrow).map_or("", |(_, rest)| rest)
}

fn end(word: &str) -> Result<End, String> {
    let (side, number) = match (word.strip_prefix("client"), word.strip_prefix("server")) {
        (Some(number), _) => (Side::Client, number),
        (_, Some(number)) => (Side::Server, number),
        _ => return Err(format!("neither client nor server: {word}")),
    };
    let connection = if number.is_empty() { 1 } else { self::number::<usize>(number)? };
    Ok(End { side, connection })
}

pub fn mode(name: &str) -> Result<Mode, String> {
    let named = |mode: &Mode| format!("{mode:?}").eq_ignore_ascii_case(name);
    Mode::ALL.into_iter().find(named).ok_or(format!("no mode: {name}"))
}

fn drop_reason(label: &str) -> Result<DropReason, String> {
    let found = DropReason::ALL.iter().find(|reason| reason.label() == label);
    found.copied().ok_or(format!("no reason to drop: {label}"))
}

fn connection(number: &str, words: &[&str]) -> Result<Event, String> {
    let (mut iss, mut port) = (None, None);
    for pair in words.chunks(2) {
        match pair {
            ["iss", value] => iss = Some(self::number(value)?),
            ["port", value] => port = Some(self::number(value)?),
            _ => return Err("connection NUMBER [iss OFFSET] [port PORT]".into()),
        }
    }
    Ok(Event::Connection { number: self::number(number)?, iss, port })
}

fn counters(line: &str) -> Result<BTreeMap<String, i64>, String> {
    let list = line.split_once('{').and_then(|(_, rest)| rest.trim_end().strip_suffix('}'));
    let list = list.ok_or("counters { name +1, name -1 }")?;
    let entry = |entry: &str| {
        let entry = entry.trim();
        let (name, change) = entry.rsplit_once(' ').ok_or(format!("no counter: {entry}"))?;
        Ok((name.trim().to_owned(), number(change)?))
    };
    list.split(',').filter(|text| !text.trim().is_empty()).map(entry).collect()
}

/// `FLAGS SEQ:END(LEN) [ack N] [win N] [<OPTIONS>]`
pub fn segment(text: &str) -> Result<Segment, String> {
    let (head, options) = match text.split_once('<') {
        None => (text, Vec::new()),
        Some((head, rest)) => {
            let list = rest.trim_end().strip_suffix('>').ok_or("no > behind the options")?;
            (head, list.split(',').map(|option| self::option(option.trim())).collect::<Result<_, _>>()?)
        }
    };
    let mut words = head.split_whitespace();
    let flags = flags(words.next().ok_or("no segment")?)?;
    let (seq, end, len) = range(words.next().ok_or("no SEQ:END(LEN)")?)?;
    let mut segment = Segment { flags, seq, len, ack: 0, window: USUAL_WINDOW, options };
    if segment.end() != end {
        return Err(format!("{seq} and {len} octets{} end at {}, not {end}", controls(flags), segment.end()));
    }
    let mut has_ack = false;
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("nothing behind {word}"))?;
        match word {
            "ack" => (segment.ack, has_ack) = (number(value)?, true),
            "win" => segment.window = number(value)?,
            _ => return Err(format!("neither ack nor win: {word}")),
        }
    }
    if has_ack == segment.has(ACK) { Ok(segment) } else { Err("`ack` belongs to the flag `.`".into()) }
}

fn controls(flags: u8) -> &'static str {
    if flags & (SYN | FIN) == 0 { "" } else { ", SYN or FIN counted," }
}

fn flags(word: &str) -> Result<u8, String> {
    if word == "-" {
        return Ok(0);
    }
    let flag = |letter: char| LETTERS.iter().find(|(_, known)| *known == letter).map(|(flag, _)| *flag);
    word.chars().try_fold(0, |flags, letter| Some(flags | flag(letter)?)).ok_or(format!("no flags: {word}"))
}

fn range(word: &str) -> Result<(i32, i32, u32), String> {
    let parts = word.strip_suffix(')').and_then(|rest| {
        let (range, len) = rest.split_once('(')?;
        let (seq, end) = range.split_once(':')?;
        Some((seq, end, len))
    });
    let (seq, end, len) = parts.ok_or(format!("no SEQ:END(LEN): {word}"))?;
    Ok((number(seq)?, number(end)?, number(len)?))
}

fn option(text: &str) -> Result<Opt, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["mss", mss] => Ok(Opt::Mss(number(mss)?)),
        ["wscale", scale] => Ok(Opt::WindowScale(number(scale)?)),
        ["sackOK"] => Ok(Opt::SackPermitted),
        ["sack", blocks @ ..] => {
            blocks.iter().map(|block| edges(block)).collect::<Result<_, _>>().map(Opt::Sack)
        }
        ["TS", "val", value, "ecr", "none"] => Ok(Opt::Timestamps(number(value)?, None)),
        ["TS", "val", value, "ecr", echo] => Ok(Opt::Timestamps(number(value)?, Some(number(echo)?))),
        ["kind", kind] => Ok(Opt::Unknown(number(kind)?)),
        ["nop"] => Ok(Opt::Octets(vec![1])),
        ["eol"] => Ok(Opt::Octets(vec![0])),
        ["hex", octets @ ..] => hex(&octets.concat()).map(Opt::Octets),
        _ => Err(format!("no option: {text}")),
    }
}

fn edges(block: &str) -> Result<(i32, i32), String> {
    let (left, right) = block.split_once(':').ok_or(format!("no LEFT:RIGHT: {block}"))?;
    Ok((number(left)?, number(right)?))
}

pub fn hex(digits: &str) -> Result<Vec<u8>, String> {
    let octet = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let octets: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(octet).collect();
    octets.ok_or(format!("no octets: {digits}"))
}

pub fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("no number, or one too large: {word}"))
}

/// What `win` is where a line does not say it.
const USUAL_WINDOW: u16 = 502;
