//! TCP segments of a capture in a form that two runs can be compared in: numbers relative to the ISS, windows in octets,
//! timestamps by what they echo.

use std::collections::{BTreeMap, HashMap};

/// A segment as it was on the wire.
struct Segment<'a> {
    from_client: bool,
    hop_limit: u8,
    traffic_class: u8,
    /// Whether it may be fragmented, and its identification; IPv6 has neither.
    identification: Option<(bool, u16)>,
    flow_label: Option<u32>,
    seq: u32,
    ack: u32,
    flags: u16,
    window: u16,
    urgent: u16,
    options: &'a [u8],
    payload: &'a [u8],
}

/// What is known of one side so far.
#[derive(Default)]
struct Sender {
    iss: Option<u32>,
    next: u32,
    /// Its window scale, if it offered one.
    shift: Option<u32>,
    tsvals: Vec<u32>,
    label: Option<u32>,
    has_finished: bool,
}

/// Reads the segments of a connection by the client's port.
pub(crate) fn of_client_port(frames: &[Vec<u8>], port: u16) -> Vec<Described> {
    let mut senders: HashMap<bool, Sender> = HashMap::new();
    let segments = frames.iter().filter_map(|frame| parse(frame, port));
    segments.map(|segment| describe(&segment, &mut senders)).collect()
}

/// A segment, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) from_client: bool,
    /// Which of the conversation's segments it is: the same in every run.
    pub(crate) name: String,
    /// Its kind, in words of the tables in `docs/differential.md`.
    pub(crate) kind: &'static str,
    /// The rest of it.
    pub(crate) fields: BTreeMap<&'static str, String>,
}

fn parse(frame: &[u8], port: u16) -> Option<Segment<'_>> {
    let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
    let (tcp, end, hop_limit, traffic_class, identification, flow_label) = match word(12)? {
        0x0800 if *frame.get(23)? == 6 => {
            let id = (word(20)? & 0x4000 == 0, word(18)?);
            let tcp = 14 + usize::from(frame[14] & 15) * 4;
            (tcp, 14 + usize::from(word(16)?), frame[22], frame[15], Some(id), None)
        }
        0x86dd if *frame.get(20)? == 6 => {
            let first = long(14)?;
            (54, 54 + usize::from(word(18)?), frame[21], (first >> 20) as u8, None, Some(first & 0xf_ffff))
        }
        _ => return None,
    };
    let from_client = word(tcp)? == port;
    if !from_client && word(tcp + 2)? != port {
        return None;
    }
    let payload = tcp + usize::from(frame[tcp + 12] >> 4) * 4;
    Some(Segment {
        from_client,
        hop_limit,
        traffic_class,
        identification,
        flow_label,
        seq: long(tcp + 4)?,
        ack: long(tcp + 8)?,
        flags: word(tcp + 12)? & 0xfff,
        window: word(tcp + 14)?,
        urgent: word(tcp + 18)?,
        options: frame.get(tcp + 20..payload)?,
        payload: frame.get(payload..end)?,
    })
}

fn describe(segment: &Segment<'_>, senders: &mut HashMap<bool, Sender>) -> Described {
    let peer = senders.entry(!segment.from_client).or_default();
    let (peer_iss, peer_tsvals, peer_shift) = (peer.iss, peer.tsvals.clone(), peer.shift);
    let sender = senders.entry(segment.from_client).or_default();
    let opens = segment.flags & SYN != 0;
    let iss = match sender.iss {
        Some(iss) if !opens => iss,
        _ => segment.seq,
    };
    let seq = segment.seq.wrapping_sub(iss).cast_signed();
    let kind = kind(segment, seq, sender);
    let ack = match peer_iss {
        _ if segment.flags & ACK == 0 => "none".to_owned(),
        Some(iss) => segment.ack.wrapping_sub(iss).cast_signed().to_string(),
        None => "unknown".to_owned(),
    };
    let label = *sender.label.get_or_insert(segment.flow_label.unwrap_or(0));
    let mut fields = BTreeMap::from([
        ("flags", flags(segment.flags)),
        ("ack", ack.clone()),
        ("hop limit", segment.hop_limit.to_string()),
        ("DSCP", (segment.traffic_class >> 2).to_string()),
        ("ECN", (segment.traffic_class & 3).to_string()),
        ("options", options(segment.options)),
        ("TSecr", echo(segment.options, &peer_tsvals)),
        ("urgent pointer", segment.urgent.to_string()),
        ("payload", String::from_utf8_lossy(&segment.payload[..segment.payload.len().min(24)]).into_owned()),
    ]);
    if let Some((may_fragment, id)) = segment.identification {
        fields.insert("DF", if may_fragment { "0" } else { "1" }.to_owned());
        fields.insert("IP ID", if id == 0 { "0" } else { "not 0" }.to_owned());
    }
    if let Some(own) = segment.flow_label {
        let name = if own == 0 {
            "0"
        } else if own == label {
            "the flow's"
        } else {
            "another"
        };
        fields.insert("flow label", name.to_owned());
    }
    sender.note(segment, opens, kind == "SYN-ACK" || kind == "SYN");
    let shift = sender.shift.filter(|_| !opens && peer_shift.is_some()).unwrap_or(0);
    fields.insert("window", (u32::from(segment.window) << shift).to_string());
    let name = match kind {
        "SYN" | "SYN-ACK" => kind.to_owned(),
        "ACK" | "probe" => format!("{kind} {ack}"),
        _ => format!("{kind} {seq}+{}", segment.payload.len()),
    };
    Described { from_client: segment.from_client, name, kind, fields }
}

impl Sender {
    fn note(&mut self, segment: &Segment<'_>, opens: bool, is_first: bool) {
        if opens && is_first {
            self.iss = Some(segment.seq);
            self.shift = find(segment.options, 3).map(|value| u32::from(value[0]));
            self.next = segment.seq;
        }
        self.tsvals
            .extend(find(segment.options, 8).map(|value| u32::from_be_bytes(value[..4].try_into().unwrap())));
        self.has_finished |= segment.flags & FIN != 0;
        let end = segment.seq.wrapping_add(segment.payload.len() as u32 + u32::from(segment.flags & 3 != 0));
        if end.wrapping_sub(self.next).cast_signed() > 0 {
            self.next = end;
        }
    }
}

fn kind(segment: &Segment<'_>, seq: i32, sender: &Sender) -> &'static str {
    let has = |bit| segment.flags & bit != 0;
    // SEG.SEQ is SND.NXT - 1 (RFC 9293 §3.8.4). An ACK that a capture shows behind the data it was sent before is none.
    let is_probe = !sender.has_finished && segment.seq.wrapping_add(1) == sender.next;
    match () {
        () if has(RST) => "RST",
        () if has(SYN) && has(ACK) => "SYN-ACK",
        () if has(SYN) => "SYN",
        () if has(FIN) => "FIN",
        () if is_probe && segment.payload.len() <= 1 && seq >= 0 => "probe",
        () if segment.payload.is_empty() => "ACK",
        () => "data",
    }
}

fn flags(bits: u16) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE"];
    let set: Vec<_> =
        names.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name).collect();
    set.join(" ")
}

/// The options in their order, with their values where those are no number of the connection.
fn options(octets: &[u8]) -> String {
    let mut words = Vec::new();
    for (kind, value) in walk(octets) {
        words.push(match (kind, value) {
            (0, _) => "eol".to_owned(),
            (1, _) => "nop".to_owned(),
            (2, [high, low]) => format!("mss {}", u16::from_be_bytes([*high, *low])),
            (3, [shift]) => format!("wscale {shift}"),
            (4, _) => "sackOK".to_owned(),
            (5, edges) => format!("{} sack", edges.len() / 8),
            (8, _) => "ts".to_owned(),
            (other, _) => format!("option {other}"),
        });
    }
    if words.is_empty() { "none".to_owned() } else { words.join(",") }
}

/// What the timestamps echo.
fn echo(octets: &[u8], known: &[u32]) -> String {
    let Some(value) = find(octets, 8) else { return "no option".to_owned() };
    match u32::from_be_bytes(value[4..8].try_into().unwrap()) {
        0 => "0".to_owned(),
        value if known.contains(&value) => "a TSval of the peer".to_owned(),
        _ => "no TSval of the peer".to_owned(),
    }
}

fn find(octets: &[u8], wanted: u8) -> Option<&[u8]> {
    walk(octets).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn walk(mut octets: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, rest) = octets.split_first()?;
        let len = if *kind < 2 { 1 } else { usize::from(*rest.first()?) };
        let (option, behind) = octets.split_at_checked(len.max(1))?;
        octets = behind;
        Some((*kind, option.get(2..).unwrap_or_default()))
    })
}

const FIN: u16 = 1;
const SYN: u16 = 2;
const RST: u16 = 4;
const ACK: u16 = 16;
