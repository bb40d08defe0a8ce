//! The keys: from a document to a [`Config`]. Each key stands here once, with its range.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::document::{self, Fault, Problems, Section, Value, kind};
use super::{
    Admin, Bridge, Config, Cookie, FilterLists, Log, LogFormat, LogLevel, Metrics, Problem, State, attack,
    plane, value,
};
use crate::engine::policy::{
    Budgets, CONNECTION_PARTS, Limits, MAX_SERVICES, Mode, Prefix, Rate, ServerOptions, Service, Threshold,
};

/// Reads the whole document; every mistake in it is reported at once.
pub(super) fn config(text: &str) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems::default();
    let table = document::parse(text, &mut problems);
    if !problems.is_empty() {
        // What a broken document lacks may only be what could not be read.
        return Err(problems.resolve(text));
    }
    let mut root = Section::root(&table);
    let bridge = bridge(root.table("bridge", &mut problems), &mut problems);
    let limits = limits(root.table("limits", &mut problems), &mut problems);
    let services = services(root.take("service"), &limits, &mut problems);
    let filter = filter(root.table("filter", &mut problems), &mut problems);
    let cookie = cookie(root.table("cookie", &mut problems), &mut problems);
    let state = state(root.table("state", &mut problems), &mut problems);
    let attack = attack::read(root.table("attack", &mut problems), &mut problems);
    let metrics = metrics(root.table("metrics", &mut problems), &mut problems);
    let admin = admin(root.table("admin", &mut problems), &mut problems);
    let log = log(root.table("log", &mut problems), &mut problems);
    let plane = plane::read(root.table("plane", &mut problems), &mut problems);
    root.finish(&mut problems);
    match bridge {
        Some(bridge) if problems.is_empty() => {
            Ok(Config { bridge, services, limits, filter, cookie, state, attack, metrics, admin, log, plane })
        }
        _ => Err(problems.resolve(text)),
    }
}

fn bridge(mut section: Section<'_, '_>, problems: &mut Problems) -> Option<Bridge> {
    let outside = section.require("outside", problems, interface);
    let inside = section.require("inside", problems, interface);
    let at = section.position("inside");
    let link_propagation = section.read("link_propagation", false, problems, value::boolean);
    section.finish(problems);
    let (outside, inside) = (outside?, inside?);
    if outside == inside {
        problems.add(
            at,
            format!("bridge: inside: {inside:?} is the same interface as outside; a bridge needs two"),
        );
    }
    Some(Bridge { outside, inside, link_propagation })
}

fn limits(mut section: Section<'_, '_>, problems: &mut Problems) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        max_flows: section.read("max_flows", default.max_flows, problems, |v| count(v, 1..=MOST_FLOWS)),
        max_half_open: section
            .read("max_half_open", default.max_half_open, problems, |v| count(v, 1..=MOST_HALF_OPEN)),
        max_flows_per_source: 0,
        max_half_open_per_source: 0,
        early_data_total: section.read("early_data_total", default.early_data_total, problems, |v| {
            value::size(v, (64 << 10)..=(64 << 30))
        }),
        established: timeout(&mut section, "established_timeout", default.established, HOURS, problems),
        half_closed: timeout(&mut section, "half_closed_timeout", default.half_closed, HOURS, problems),
        closing: timeout(&mut section, "closing_timeout", default.closing, MINUTES, problems),
        time_wait: timeout(&mut section, "time_wait", default.time_wait, MINUTES, problems),
        reset: timeout(&mut section, "reset_timeout", default.reset, MINUTES, problems),
        refused: timeout(&mut section, "refused_timeout", default.refused, SECONDS, problems),
        startup_grace: timeout(&mut section, "startup_grace", default.startup_grace, GRACE, problems),
        reset_expired: section.read("reset_expired", default.reset_expired, problems, value::boolean),
    };
    let limits = shares(&mut section, limits, problems);
    section.finish(problems);
    limits
}

/// The share of one source prefix: unless the file says otherwise, a sixteenth of each table.
fn shares(section: &mut Section<'_, '_>, limits: Limits, problems: &mut Problems) -> Limits {
    let mut share = |key, all: u32, parts: u32| {
        let default = default_share(all, parts);
        section.read(key, default, problems, |v| count(v, 1..=u64::from(all)))
    };
    Limits {
        max_flows_per_source: share("max_flows_per_source", limits.max_flows, FLOW_PARTS),
        max_half_open_per_source: share("max_half_open_per_source", limits.max_half_open, HALF_OPEN_PARTS),
        ..limits
    }
}

/// One of `parts` parts of `all`, at least 1.
pub(super) fn default_share(all: u32, parts: u32) -> u32 {
    all.checked_div(parts).unwrap_or(all).max(1)
}

/// One source prefix may hold a sixteenth of all flows, and with that its /16 or /48 a quarter. An address of it can have
/// about 60,000 connections to one port; more come through a proxy, whose operator raises this.
pub(super) const FLOW_PARTS: u32 = 16;
/// And as much of what is half-open, which real clients leave within a round trip to the server.
pub(super) const HALF_OPEN_PARTS: u32 = 16;

/// The most of each that may be asked for: some 12 GiB and 2 GiB of memory.
const MOST_FLOWS: u64 = 50_000_000;
const MOST_HALF_OPEN: u64 = 4_000_000;

fn timeout(
    section: &mut Section<'_, '_>,
    key: &'static str,
    default: Duration,
    range: RangeInclusive<Duration>,
    problems: &mut Problems,
) -> Duration {
    section.read(key, default, problems, |v| value::duration(v, range))
}

const HOURS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
const MINUTES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const SECONDS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

fn services(value: Option<&Value<'_>>, limits: &Limits, problems: &mut Problems) -> Vec<Service> {
    let entries = match value.map(|value| (value, value.get_ref())) {
        None => return Vec::new(),
        Some((_, DeValue::Array(entries))) => entries,
        Some((value, other)) => {
            let message = format!("service: must be written [[service]], not {}", kind(other));
            problems.add(value.span().start, message);
            return Vec::new();
        }
    };
    let mut read: Vec<Placed> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if index == MAX_SERVICES {
            let message = format!("{} services are too many, at most {MAX_SERVICES}", entries.len());
            problems.add(entry.span().start, message);
            break;
        }
        let Some(placed) = service(entry, index, limits, problems) else { continue };
        conflicts(&read, &placed, problems);
        read.push(placed);
    }
    read.into_iter().map(|placed| placed.service).collect()
}

/// A service and where its name and address stand.
struct Placed {
    service: Service,
    name_at: usize,
    address_at: usize,
}

fn service(entry: &Value<'_>, index: usize, limits: &Limits, problems: &mut Problems) -> Option<Placed> {
    let mut section = Section::new(format!("service #{}", index + 1), entry, problems);
    let name = section.require("name", problems, service_name);
    if let Some(name) = &name {
        section.name = format!("service {name:?}");
    }
    let prefix = section.require("address", problems, value::prefix);
    let ports = section.require("ports", problems, value::ports);
    let Limits { max_flows, max_half_open, .. } = *limits;
    let default = Service { max_flows, max_half_open, ..Service::default() };
    let mode = section.read("mode", default.mode, problems, |v| value::word(v, &Mode::ALL, Mode::label));
    let early_data = section.read("early_data", default.early_data, problems, |v| {
        value::size(v, 536..=65_535).map(|octets| u16::try_from(octets).unwrap_or(u16::MAX))
    });
    let require_timestamps =
        section.read("require_timestamps", default.require_timestamps, problems, value::boolean);
    let server = server_options(&mut section, problems);
    let mut share = |key, all, most| {
        section.read(key, all, problems, |v| {
            let share = count(v, 1..=most)?;
            if share > all {
                return Err(format!("{share} is more than limits.{key}, {all}").into());
            }
            Ok(share)
        })
    };
    let max_flows = share("max_flows", default.max_flows, MOST_FLOWS);
    let max_half_open = share("max_half_open", default.max_half_open, MOST_HALF_OPEN);
    let activate_at = threshold(&mut section, "activate_at", default.activate_at, problems);
    let half = Threshold {
        half_open: activate_at.half_open.div_ceil(2),
        syn_rate: activate_at.syn_rate.div_ceil(2),
    };
    let deactivate_at = threshold(&mut section, "deactivate_at", half, problems);
    for (key, low, high) in [
        ("half_open", deactivate_at.half_open, activate_at.half_open),
        ("syn_rate", deactivate_at.syn_rate, activate_at.syn_rate),
    ] {
        if low > high {
            let message =
                format!("{}: deactivate_at: {key}: {low} is above activate_at.{key}, {high}", section.name);
            problems.add(section.position("deactivate_at"), message);
        }
    }
    let second = Duration::from_secs(1);
    let mut time = |key, default, range| section.read(key, default, problems, |v| value::duration(v, range));
    let min_active = time("min_active", default.min_active, second..=3_600 * second);
    let syn_timeout = time("syn_timeout", default.syn_timeout, second..=63 * second);
    if require_timestamps && !server.timestamps {
        let message = format!(
            "{}: require_timestamps: needs timestamps = true: without timestamps no client could connect",
            section.name
        );
        problems.add(section.position("require_timestamps"), message);
    }
    let budgets = budgets(&mut section, problems);
    let mut flag = |key, default| section.read(key, default, problems, value::boolean);
    let server_speaks_first = flag("server_speaks_first", default.server_speaks_first);
    let second_syn = flag("second_syn", default.second_syn);
    let reset_unknown = flag("reset_unknown", default.reset_unknown);
    let refuse_silent = flag("refuse_silent", default.refuse_silent);
    let (name_at, address_at) = (section.position("name"), section.position("address"));
    section.finish(problems);
    let service = Service {
        name: name?,
        prefix: prefix?,
        ports: ports?,
        mode,
        early_data,
        require_timestamps,
        server,
        max_flows,
        max_half_open,
        activate_at,
        deactivate_at,
        min_active,
        syn_timeout,
        budgets,
        server_speaks_first,
        second_syn,
        reset_unknown,
        refuse_silent,
    };
    Some(Placed { service, name_at, address_at })
}

fn server_options(section: &mut Section<'_, '_>, problems: &mut Problems) -> ServerOptions {
    let default = ServerOptions::default();
    ServerOptions {
        mss: section.read("mss", default.mss, problems, |v| {
            let mss = value::integer_or(v, AUTO_MSS, 64..=65_495)?;
            Ok(mss.map(|octets| u16::try_from(octets).unwrap_or(u16::MAX)))
        }),
        wscale: section.read("wscale", default.wscale, problems, |v| {
            let wscale = value::integer_or(v, NONE, 0..=14)?;
            Ok(wscale.map(|shift| u8::try_from(shift).unwrap_or(14)))
        }),
        sack: section.read("sack", default.sack, problems, value::boolean),
        timestamps: section.read("timestamps", default.timestamps, problems, value::boolean),
        ecn: section.read("ecn", default.ecn, problems, value::boolean),
    }
}

fn budgets(section: &mut Section<'_, '_>, problems: &mut Problems) -> Budgets {
    let default = Budgets::default();
    let mut section = section.child("budgets", problems);
    let mut rate = |key, default| section.read(key, default, problems, value::rate);
    let backend_syn = rate("backend_syn", default.backend_syn);
    let budgets = Budgets {
        synack: rate("synack", default.synack),
        syn_per_source: rate("syn_per_source", default.syn_per_source),
        connections_per_source: rate("connections_per_source", connection_share(backend_syn)),
        backend_syn,
        reset: rate("reset", default.reset),
    };
    section.finish(problems);
    budgets
}

/// What one source prefix may take of the connections that may be opened, unless it is said.
pub(super) fn connection_share(backend_syn: Rate) -> Rate {
    backend_syn.and_then(|rate| NonZeroU32::new((rate.get() / CONNECTION_PARTS).max(1)))
}

fn threshold(
    section: &mut Section<'_, '_>,
    key: &'static str,
    default: Threshold,
    problems: &mut Problems,
) -> Threshold {
    let mut section = section.child(key, problems);
    let threshold = Threshold {
        half_open: section.read("half_open", default.half_open, problems, |v| count(v, 1..=4_000_000)),
        syn_rate: section.read("syn_rate", default.syn_rate, problems, |v| count(v, 1..=100_000_000)),
    };
    section.finish(problems);
    threshold
}

fn filter(mut section: Section<'_, '_>, problems: &mut Problems) -> FilterLists {
    let deny = section.read("deny", Vec::new(), problems, value::prefixes);
    let allow = section.read("allow", Vec::new(), problems, |v| {
        let allow = value::prefixes(v)?;
        match allow.iter().find(|prefix| deny.contains(prefix)) {
            Some(both) => Err(format!("{} is denied, too", value::show_prefix(both)).into()),
            None => Ok(allow),
        }
    });
    section.finish(problems);
    FilterLists { deny, allow }
}

/// The MSS that the link allows.
pub(super) const AUTO_MSS: &str = "auto";
/// No window scaling; no key file.
pub(super) const NONE: &str = "none";
/// No listener for metrics; no admin socket; no state directory.
pub(super) const OFF: &str = "off";

/// Complains if `new` shares its name, or an address and a port, with an earlier service.
fn conflicts(earlier: &[Placed], new: &Placed, problems: &mut Problems) {
    let name = &new.service.name;
    for Placed { service, .. } in earlier {
        if service.name == *name {
            problems.add(new.name_at, format!("service {name:?}: name: is taken by an earlier service"));
        }
        if let Some((prefix, port)) = shared(service, &new.service) {
            let prefix = value::show_prefix(&prefix);
            let message = format!(
                "service {name:?}: address: overlaps service {:?}: both protect {prefix} port {port}",
                service.name
            );
            problems.add(new.address_at, message);
        }
    }
}

/// What both protect: the narrower prefix and the first port.
fn shared(a: &Service, b: &Service) -> Option<(Prefix, u16)> {
    if !a.prefix.overlaps(&b.prefix) || !a.ports.overlaps(&b.ports) {
        return None;
    }
    let narrower = if a.prefix.len() > b.prefix.len() { a.prefix } else { b.prefix };
    let port = a
        .ports
        .ranges()
        .into_iter()
        .flat_map(|(first, last)| first..=last)
        .find(|port| b.ports.contains(*port))?;
    Some((narrower, port))
}

fn cookie(mut section: Section<'_, '_>, problems: &mut Problems) -> Cookie {
    let default = Cookie::default();
    let cookie = Cookie {
        epoch: section.read("epoch", default.epoch, problems, |v| {
            let epoch = value::duration(v, Duration::from_secs(8)..=Duration::from_secs(3_600))?;
            // Epochs are counted in whole seconds since 1970, on every node alike.
            if epoch.subsec_nanos() != 0 {
                return Err(format!("{} is not whole seconds", value::show_duration(epoch)).into());
            }
            Ok(epoch)
        }),
        key_file: section.read("key_file", default.key_file, problems, |v| {
            let text = value::string(v)?;
            match text.as_str() {
                NONE => Ok(None),
                path if path.starts_with('/') && !path.contains('\0') => Ok(Some(PathBuf::from(path))),
                _ => Err(format!("{text:?} is neither an absolute path nor {NONE:?}").into()),
            }
        }),
    };
    section.finish(problems);
    cookie
}

fn state(mut section: Section<'_, '_>, problems: &mut Problems) -> State {
    let default = State::default();
    let state = State {
        directory: section.read("directory", default.directory, problems, |v| {
            let text = value::string(v)?;
            match text.as_str() {
                OFF => Ok(None),
                path if path.starts_with('/') && !path.contains('\0') => Ok(Some(PathBuf::from(path))),
                _ => Err(format!("{text:?} is neither an absolute path nor {OFF:?}").into()),
            }
        }),
        checkpoint: section.read("checkpoint", default.checkpoint, problems, |v| {
            value::duration(v, Duration::from_secs(1)..=Duration::from_secs(3_600))
        }),
    };
    section.finish(problems);
    state
}

fn metrics(mut section: Section<'_, '_>, problems: &mut Problems) -> Metrics {
    let listen = section.read("listen", Metrics::default().listen, problems, |v| {
        let text = value::string(v)?;
        if text == OFF {
            return Ok(None);
        }
        let wrong =
            || format!("{text:?} is neither an address with port such as \"127.0.0.1:10910\" nor {OFF:?}");
        let address: std::net::SocketAddr = text.parse().map_err(|_| wrong())?;
        if address.port() == 0 {
            return Err("0 is out of range, 1 to 65535".to_owned().into());
        }
        Ok(Some(address))
    });
    section.finish(problems);
    Metrics { listen }
}

fn admin(mut section: Section<'_, '_>, problems: &mut Problems) -> Admin {
    let socket = section.read("socket", Admin::default().socket, problems, |v| {
        let text = value::string(v)?;
        match text.as_str() {
            OFF => Ok(None),
            path if path.len() > MAX_SOCKET_OCTETS => {
                Err(format!("is longer than {MAX_SOCKET_OCTETS} octets, which no unix socket may be").into())
            }
            path if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => {
                Ok(Some(PathBuf::from(path)))
            }
            _ => Err(format!("{text:?} is neither an absolute path nor {OFF:?}").into()),
        }
    });
    section.finish(problems);
    Admin { socket }
}

/// `sun_path` of unix(7), less its end.
const MAX_SOCKET_OCTETS: usize = 107;

fn log(mut section: Section<'_, '_>, problems: &mut Problems) -> Log {
    let default = Log::default();
    let log = Log {
        level: section
            .read("level", default.level, problems, |v| value::word(v, LogLevel::ALL, LogLevel::label)),
        format: section
            .read("format", default.format, problems, |v| value::word(v, LogFormat::ALL, LogFormat::label)),
    };
    section.finish(problems);
    log
}

fn count(value: &Value<'_>, range: RangeInclusive<u64>) -> Result<u32, Fault> {
    value::integer(value, range).map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

/// The name of a network interface, as the kernel's `dev_valid_name` takes it.
fn interface(value: &Value<'_>) -> Result<String, Fault> {
    let name = value::string(value)?;
    let is_valid = !name.is_empty()
        && name.len() < 16
        && name != "."
        && name != ".."
        && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
    if is_valid { Ok(name) } else { Err(format!("{name:?} is not the name of an interface").into()) }
}

/// A name that is safe as a metric label, in a log and on a command line.
fn service_name(value: &Value<'_>) -> Result<String, Fault> {
    let name = value::string(value)?;
    if name == "-" {
        return Err("\"-\" is reserved for what belongs to no service".to_owned().into());
    }
    let is_valid = (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if is_valid {
        Ok(name)
    } else {
        Err(format!("{name:?} is not a name: 1 to 64 letters, digits, \"_\", \".\" and \"-\"").into())
    }
}
