//! The format of `tests/vectors/*.toml`, as those files describe it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::Deserialize;

use synwall::cookie::{KeyRing, MasterKey};
use synwall::engine::policy::filter::Filter;
use synwall::engine::policy::{Limits, Mode, Policy, PortSet, Prefix, Service};
use synwall::engine::{Keys, Side, Verdict};
use synwall::time::{Instant, WallClock};

use super::frames;

/// The themes: a file each.
pub const THEMES: [&str; 5] = ["syn_ack", "cookie_ack", "translate", "drops", "foreign"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub keys: Secrets,
    pub policy: BTreeMap<String, PolicySpec>,
    #[serde(default)]
    pub flow: BTreeMap<String, FlowSpec>,
    pub vector: Vec<Vector>,
}

impl File {
    pub fn read(theme: &str) -> File {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/{theme}.toml"));
        toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    pub master: String,
    pub epoch: u64,
    /// What the two make: the SipHash key.
    pub key: String,
    pub unix_millis: u64,
}

impl Secrets {
    /// What every vector is made with.
    pub fn usual() -> Secrets {
        let (master, epoch) = ([7; 32], 1000);
        Secrets {
            master: frames::hex(&master),
            epoch,
            key: epoch_key(&master, epoch),
            unix_millis: 5_000_123,
        }
    }

    pub fn keys(&self, now: Instant) -> Keys {
        let master = frames::octets(&self.master).try_into().expect("a master key has 32 octets");
        let ring = KeyRing::at(&MasterKey::from_bytes(master), self.epoch);
        let unix = std::time::Duration::from_millis(self.unix_millis);
        Keys { ring, clock: WallClock { at: now, unix } }
    }
}

pub fn epoch_key(master: &[u8], epoch: u64) -> String {
    let material = [master, &epoch.to_le_bytes()].concat();
    frames::hex(&blake3::derive_key("synwall cookie epoch key v1", &material)[..16])
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    pub services: Vec<ServiceSpec>,
    #[serde(default)]
    pub deny: Vec<String>,
    #[serde(default)]
    pub allow: Vec<String>,
    #[serde(default = "yes")]
    pub has_keys: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    pub name: String,
    pub prefix: String,
    pub ports: Vec<[u16; 2]>,
    pub mode: String,
    pub early_data: Option<u16>,
    pub mss: Option<u16>,
    /// -1 is a server that does not scale.
    pub wscale: Option<i8>,
    pub sack: Option<bool>,
    pub timestamps: Option<bool>,
    pub ecn: Option<bool>,
    pub require_timestamps: Option<bool>,
    pub reset_unknown: Option<bool>,
    /// Whether the server is asked twice; not unless it is said.
    pub second_syn: Option<bool>,
}

pub fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().unwrap();
    match len {
        "" => Prefix::host(address),
        len => Prefix::new(address, len.parse().unwrap()).unwrap(),
    }
}

impl ServiceSpec {
    pub fn service(&self) -> Service {
        let mut ports = PortSet::empty();
        self.ports.iter().for_each(|[first, last]| ports.insert_range(*first, *last));
        let mut service = Service { name: self.name.clone(), ports, ..Service::default() };
        service.prefix = prefix(&self.prefix);
        service.mode = Mode::ALL.into_iter().find(|mode| mode.label() == self.mode).expect("a mode");
        service.early_data = self.early_data.unwrap_or(service.early_data);
        service.server.mss = self.mss;
        service.server.wscale = self.wscale.map_or(service.server.wscale, |scale| u8::try_from(scale).ok());
        service.server.sack = self.sack.unwrap_or(service.server.sack);
        service.server.timestamps = self.timestamps.unwrap_or(service.server.timestamps);
        service.server.ecn = self.ecn.unwrap_or(service.server.ecn);
        service.require_timestamps = self.require_timestamps.unwrap_or(false);
        service.reset_unknown = self.reset_unknown.unwrap_or(false);
        service.second_syn = self.second_syn.unwrap_or(false);
        service
    }
}

impl PolicySpec {
    pub fn policy(&self) -> Policy {
        let services = self.services.iter().map(ServiceSpec::service).collect();
        let prefixes = |texts: &[String]| texts.iter().map(|text| prefix(text)).collect::<Vec<Prefix>>();
        let filter = Filter::new(&prefixes(&self.deny), &prefixes(&self.allow)).unwrap();
        Policy::new(services, Limits::default(), 1500).unwrap().with_filter(filter)
    }
}

/// A frame and the port that it comes in at, or goes out of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    pub side: Port,
    pub frame: String,
}

impl Sent {
    pub fn new(side: Side, frame: &[u8]) -> Sent {
        Sent { side: Port(side), frame: frames::hex(frame) }
    }

    pub fn octets(&self) -> Vec<u8> {
        frames::octets(&self.frame)
    }
}

/// A side as it stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Port(pub Side);

impl TryFrom<String> for Port {
    type Error = String;

    fn try_from(text: String) -> Result<Port, String> {
        match text.as_str() {
            "client" => Ok(Port(Side::Client)),
            "server" => Ok(Port(Side::Server)),
            _ => Err(format!("no side: {text}")),
        }
    }
}

pub fn side_name(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

/// One end: SND.NXT, RCV.NXT, the right edge of its window, the largest window.
pub type EndSpec = [u32; 4];

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowSpec {
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub service: u16,
    #[serde(default)]
    pub is_direct: bool,
    #[serde(default)]
    pub is_up: bool,
    #[serde(default)]
    pub strips_sack: bool,
    #[serde(default)]
    pub strips_ecn: bool,
    pub client_iss: u32,
    pub delta: u32,
    pub ts_delta: u32,
    pub server_window: [u8; 2],
    pub client_window: [u8; 2],
    pub ends: Ends,
    /// How the engine comes to have it: the frames of its handshake.
    pub policy: String,
    pub before: Vec<Sent>,
}

/// Where a flow's ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    pub client: EndSpec,
    pub server: EndSpec,
    /// The server's latest TSval, and how far back TSvals count.
    pub clock: [u32; 2],
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    pub name: String,
    pub policy: String,
    pub flow: Option<String>,
    #[serde(default)]
    pub before: Vec<Sent>,
    pub side: Port,
    pub frame: String,
    pub verdict: String,
    #[serde(default)]
    pub out: Vec<Sent>,
    #[serde(default)]
    pub counters: BTreeMap<String, i64>,
    #[serde(default)]
    pub may_go_up: bool,
    /// Where the flow's ends are afterwards.
    pub after: Option<Ends>,
}

pub fn verdict_name(verdict: Verdict) -> String {
    match verdict {
        Verdict::Forward => "forward".into(),
        Verdict::Consume => "consume".into(),
        Verdict::Drop(reason) => format!("drop {}", reason.label()),
    }
}
