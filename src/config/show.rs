//! A [`Config`] as TOML: every key, and for each whether it is the default.

use std::fmt::{Display, Write};

use super::read::{AUTO_MSS, FLOW_PARTS, HALF_OPEN_PARTS, NONE, OFF, connection_share, default_share};
use super::value::{show_duration, show_prefix, show_rate, show_size};
use super::{Admin, Attack, Config, Cookie, Log, Metrics, Plane, State};
use crate::engine::policy::{DEFAULT_EARLY_DATA, Limits, PortSet, Prefix, ServerOptions, Service};

/// The text for `show-config`.
///
/// A value counts as default if it is the default, even if the file repeats it: so the text is a fixed point.
pub(super) fn render(config: &Config) -> String {
    let mut page = Page { text: HEADER.to_owned() };
    page.table("[bridge]");
    page.given("outside", quoted(&config.bridge.outside));
    page.given("inside", quoted(&config.bridge.inside));
    page.value("link_propagation", &config.bridge.link_propagation, &false, bool::to_string);
    for service in &config.services {
        render_service(&mut page, service, &config.limits);
    }
    render_limits(&mut page, &config.limits);
    page.table("[filter]");
    page.value("deny", &config.filter.deny, &Vec::new(), |prefixes| show_prefixes(prefixes));
    page.value("allow", &config.filter.allow, &Vec::new(), |prefixes| show_prefixes(prefixes));
    page.table("[cookie]");
    page.value("epoch", &config.cookie.epoch, &Cookie::default().epoch, |epoch| {
        quoted(show_duration(*epoch))
    });
    page.value("key_file", &config.cookie.key_file, &Cookie::default().key_file, |file| {
        quoted(file.as_ref().map_or(NONE.into(), |path| path.display().to_string()))
    });
    page.table("[state]");
    page.value("directory", &config.state.directory, &State::default().directory, |directory| {
        quoted(directory.as_ref().map_or(OFF.into(), |path| path.display().to_string()))
    });
    page.value("checkpoint", &config.state.checkpoint, &State::default().checkpoint, |checkpoint| {
        quoted(show_duration(*checkpoint))
    });
    page.table("[attack]");
    page.value("hook", &config.attack.hook, &Attack::default().hook, |hook| match hook {
        Some(words) => format!("[{}]", words.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        None => quoted(NONE),
    });
    page.value("hook_timeout", &config.attack.hook_timeout, &Attack::default().hook_timeout, |timeout| {
        quoted(show_duration(*timeout))
    });
    page.table("[metrics]");
    page.value("listen", &config.metrics.listen, &Metrics::default().listen, |listen| {
        quoted(listen.map_or(OFF.into(), |address| address.to_string()))
    });
    page.table("[admin]");
    page.value("socket", &config.admin.socket, &Admin::default().socket, |socket| {
        quoted(socket.as_ref().map_or(OFF.into(), |path| path.display().to_string()))
    });
    page.table("[log]");
    page.value("level", &config.log.level, &Log::default().level, |level| quoted(level.label()));
    page.value("format", &config.log.format, &Log::default().format, |format| quoted(format.label()));
    page.table("[plane]");
    page.value("kind", &config.plane.kind, &Plane::default().kind, |kind| quoted(kind.label()));
    page.value("mode", &config.plane.mode, &Plane::default().mode, |mode| quoted(mode.label()));
    page.value("pin", &config.plane.pin, &Plane::default().pin, |pin| quoted(pin.show()));
    page.value("workers", &config.plane.workers, &Plane::default().workers, usize::to_string);
    page.text
}

fn render_service(page: &mut Page, service: &Service, limits: &Limits) {
    page.table("[[service]]");
    page.given("name", quoted(&service.name));
    page.given("address", quoted(show_prefix(&service.prefix)));
    page.given("ports", show_ports(&service.ports));
    page.value("mode", &service.mode, &Service::default().mode, |mode| quoted(mode.label()));
    page.value("early_data", &service.early_data, &DEFAULT_EARLY_DATA, |octets| sized(u64::from(*octets)));
    page.value("require_timestamps", &service.require_timestamps, &false, bool::to_string);
    let (server, default) = (service.server, ServerOptions::default());
    page.value("mss", &server.mss, &default.mss, |mss| mss.map_or(quoted(AUTO_MSS), |mss| mss.to_string()));
    page.value("wscale", &server.wscale, &default.wscale, |shift| {
        shift.map_or(quoted(NONE), |shift| shift.to_string())
    });
    page.value("sack", &server.sack, &default.sack, bool::to_string);
    page.value("timestamps", &server.timestamps, &default.timestamps, bool::to_string);
    page.value("ecn", &server.ecn, &default.ecn, bool::to_string);
    page.value("max_flows", &service.max_flows, &limits.max_flows, u32::to_string);
    page.value("max_half_open", &service.max_half_open, &limits.max_half_open, u32::to_string);
    let default = Service::default();
    let (activate, deactivate) = (service.activate_at, service.deactivate_at);
    for (key, value, default) in [
        ("activate_at.half_open", activate.half_open, default.activate_at.half_open),
        ("activate_at.syn_rate", activate.syn_rate, default.activate_at.syn_rate),
        ("deactivate_at.half_open", deactivate.half_open, activate.half_open.div_ceil(2)),
        ("deactivate_at.syn_rate", deactivate.syn_rate, activate.syn_rate.div_ceil(2)),
    ] {
        page.value(key, &value, &default, u32::to_string);
    }
    for (key, value, default) in [
        ("min_active", service.min_active, default.min_active),
        ("syn_timeout", service.syn_timeout, default.syn_timeout),
    ] {
        page.value(key, &value, &default, |time| quoted(show_duration(*time)));
    }
    for (key, value, default) in [
        ("server_speaks_first", service.server_speaks_first, default.server_speaks_first),
        ("second_syn", service.second_syn, default.second_syn),
        ("reset_unknown", service.reset_unknown, default.reset_unknown),
        ("refuse_silent", service.refuse_silent, default.refuse_silent),
    ] {
        page.value(key, &value, &default, bool::to_string);
    }
    let (budgets, default) = (service.budgets, default.budgets);
    for (key, value, default) in [
        ("budgets.synack", budgets.synack, default.synack),
        ("budgets.syn_per_source", budgets.syn_per_source, default.syn_per_source),
        (
            "budgets.connections_per_source",
            budgets.connections_per_source,
            connection_share(budgets.backend_syn),
        ),
        ("budgets.backend_syn", budgets.backend_syn, default.backend_syn),
        ("budgets.reset", budgets.reset, default.reset),
    ] {
        page.value(key, &value, &default, |rate| show_rate(*rate));
    }
}

fn render_limits(page: &mut Page, limits: &Limits) {
    let default = Limits::default();
    page.table("[limits]");
    page.value("max_flows", &limits.max_flows, &default.max_flows, u32::to_string);
    page.value("max_half_open", &limits.max_half_open, &default.max_half_open, u32::to_string);
    let (flows, half_open) = (limits.max_flows_per_source, limits.max_half_open_per_source);
    page.value("max_flows_per_source", &flows, &default_share(limits.max_flows, FLOW_PARTS), u32::to_string);
    let default_half_open = default_share(limits.max_half_open, HALF_OPEN_PARTS);
    page.value("max_half_open_per_source", &half_open, &default_half_open, u32::to_string);
    page.value("early_data_total", &limits.early_data_total, &default.early_data_total, |octets| {
        sized(*octets)
    });
    for (key, value, default) in [
        ("established_timeout", limits.established, default.established),
        ("half_closed_timeout", limits.half_closed, default.half_closed),
        ("closing_timeout", limits.closing, default.closing),
        ("time_wait", limits.time_wait, default.time_wait),
        ("reset_timeout", limits.reset, default.reset),
        ("refused_timeout", limits.refused, default.refused),
        ("startup_grace", limits.startup_grace, default.startup_grace),
    ] {
        page.value(key, &value, &default, |timeout| quoted(show_duration(*timeout)));
    }
    page.value("reset_expired", &limits.reset_expired, &default.reset_expired, bool::to_string);
}

struct Page {
    text: String,
}

impl Page {
    fn table(&mut self, header: &str) {
        self.text.push_str(&format!("\n{header}\n"));
    }

    /// A key without a default.
    fn given(&mut self, key: &str, value: String) {
        self.line(key, &value, "file");
    }

    fn value<T: PartialEq>(&mut self, key: &str, value: &T, default: &T, show: impl FnOnce(&T) -> String) {
        let origin = if value == default { "default" } else { "file" };
        self.line(key, &show(value), origin);
    }

    fn line(&mut self, key: &str, value: &str, origin: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{:<40} # {origin}", format!("{key} = {value}"));
    }
}

/// A TOML basic string.
fn quoted(text: impl Display) -> String {
    let mut quoted = String::from("\"");
    for c in text.to_string().chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn sized(octets: u64) -> String {
    let shown = show_size(octets);
    if shown.ends_with('B') { quoted(shown) } else { shown }
}

fn show_prefixes(prefixes: &[Prefix]) -> String {
    let shown: Vec<String> = prefixes.iter().map(|prefix| quoted(show_prefix(prefix))).collect();
    format!("[{}]", shown.join(", "))
}

fn show_ports(ports: &PortSet) -> String {
    if *ports == PortSet::all() {
        return quoted("all");
    }
    let shown: Vec<String> = ports
        .ranges()
        .iter()
        .map(
            |(first, last)| if first == last { first.to_string() } else { quoted(format!("{first}-{last}")) },
        )
        .collect();
    format!("[{}]", shown.join(", "))
}

const HEADER: &str = "\
# The effective configuration of synwall.
# \"# default\" marks what synwall does without the line, \"# file\" what the file says otherwise.
";
