//! What the admin socket says, in words for people: a screen high at most.

use std::fmt::Write;

use crate::control::api::{Attacks, Block, BlockRequest, Blocks, Flow, Flows, ModeAnswer};
use crate::control::attacks::Attack;
use crate::control::status::{Port, Service, Status};

/// The text of `synwall status`.
pub(super) fn status(status: &Status) -> String {
    let key = status.key_epoch.map_or("no cookie key".to_owned(), |epoch| format!("key epoch {epoch}"));
    let (health, up) = (status.health.label(), duration(status.uptime_seconds));
    let mut page =
        format!("synwall {}: {health}, up {up}, {key}, {}\n", status.version, status.plane.label());
    status.problems.iter().for_each(|problem| line(&mut page, format_args!("  problem: {problem}")));
    status.ports.iter().for_each(|port| line(&mut page, format_args!("{}", show_port(port))));
    line(&mut page, format_args!("flows    {}", flow_counts(status)));
    page.push('\n');
    line(&mut page, format_args!("{}", ServiceRow::HEADING));
    let mut services: Vec<&Service> = status.services.iter().collect();
    // What needs a look comes first: a screen may not hold them all.
    services.sort_by_key(|service| (!service.under_attack, service.backend_up));
    for service in services.iter().take(MOST_SERVICES) {
        line(&mut page, format_args!("{}", ServiceRow::of(service)));
    }
    if services.len() > MOST_SERVICES {
        let more = services.len().saturating_sub(MOST_SERVICES);
        line(&mut page, format_args!("and {more} more: --json has them all"));
    }
    if let Some((event, more)) = status.events.split_first() {
        line(&mut page, format_args!("\n{}", show_attack(event, status.time)));
        if !more.is_empty() {
            line(&mut page, format_args!("and {} more at the moment: see `synwall attacks`", more.len()));
        }
    }
    if !status.blocks.is_empty() {
        line(&mut page, format_args!("\nprefixes blocked: {}, see `synwall blocks`", status.blocks.len()));
    }
    page
}

fn show_port(port: &Port) -> String {
    let count = |name: &str| number(port.counters.get(name).copied().unwrap_or(0));
    let lost = port.receive_dropped.values().chain(port.send_failed.values()).sum();
    let up = if port.up { "up" } else { "DOWN" };
    format!(
        "{:<8} {:<15} {up:<4}  {} received, {} forwarded, {} dropped, {} lost",
        port.name,
        port.interface,
        count("received"),
        count("forwarded"),
        count("dropped"),
        number(lost)
    )
}

/// How many connections there are, in all and by state, and how many are half-open: those have a table of their own.
pub(super) fn flow_counts(status: &Status) -> String {
    let (half_open, flows): (Vec<_>, Vec<_>) =
        status.flows.iter().filter(|(_, count)| **count > 0).partition(|(state, _)| *state == "syn_sent");
    let all = flows.iter().map(|(_, count)| **count).sum();
    let states: Vec<String> =
        flows.iter().map(|(state, count)| format!("{} {state}", number(**count))).collect();
    let detail = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
    let half_open: u64 = half_open.iter().map(|(_, count)| **count).sum();
    let rest = if half_open == 0 { String::new() } else { format!("; {} half-open", number(half_open)) };
    format!("{} of {}{detail}{rest}", number(all), number(status.flow_table_capacity))
}

/// A service in a line.
struct ServiceRow;

impl ServiceRow {
    const HEADING: &str =
        "service          mode      state        half-open     SYNs  cookies    valid  direct  dropped";

    fn of(service: &Service) -> String {
        let mode = if service.mode == service.configured_mode {
            service.mode.clone()
        } else {
            format!("{}*", service.mode)
        };
        let half_open = format!("{}/{}", number(service.half_open), number(service.max_half_open));
        let count = |name| number(service.counter(name));
        let notes = [
            (service.under_attack, "  UNDER ATTACK"),
            (!service.backend_up, "  SERVER DOWN"),
            (service.mode != service.configured_mode, "  *by `synwall mode`"),
        ];
        let notes: String = notes.into_iter().filter(|(is_so, _)| *is_so).map(|(_, note)| note).collect();
        format!(
            "{:<16} {mode:<9} {:<11} {half_open:>10} {:>8} {:>8} {:>8} {:>7} {:>8}{notes}",
            service.name,
            service.state.label(),
            count("syn_received"),
            count("synack_sent"),
            count("cookie_valid"),
            count("flows_direct"),
            number(service.dropped_frames())
        )
    }
}

/// The text of `synwall attacks`.
pub(super) fn attacks(attacks: &Attacks) -> String {
    if attacks.attacks.is_empty() {
        return "no attacks\n".to_owned();
    }
    let mut page = String::new();
    attacks
        .attacks
        .iter()
        .for_each(|event| line(&mut page, format_args!("{}", show_attack(event, attacks.time))));
    page
}

/// An event in three lines.
fn show_attack(event: &Attack, now: f64) -> String {
    let prefixes: Vec<String> = event
        .top_prefixes
        .iter()
        .filter(|heavy| heavy.share >= LEAST_SHARE)
        .take(5)
        .map(|heavy| format!("{} {:.0}%", heavy.prefix, heavy.share * 100.0))
        .collect();
    format!(
        "{}  {} on {}, {}\n    peak {} SYN/s, {} half-open; {} SYNs, {} cookies sent, {} completed, {} dropped\n    {} \
         sources, {:.0}% new; most from: {}",
        event.id,
        event.kind.label(),
        event.service,
        course(event, now),
        number(event.peak_syn_rate as u64),
        number(event.peak_half_open),
        number(event.totals.syns),
        number(event.totals.cookies_sent),
        number(event.totals.completed),
        number(event.totals.dropped),
        number(event.distinct_sources),
        event.new_source_share * 100.0,
        if prefixes.is_empty() { "no prefix stands out".to_owned() } else { prefixes.join(", ") }
    )
}

/// When an event was.
pub(super) fn course(event: &Attack, now: f64) -> String {
    let begun = duration(now - event.started);
    match event.ended {
        None => format!("for {begun}"),
        Some(ended) => format!("{begun} ago, for {}", duration(ended - event.started)),
    }
}

/// The text of `synwall flows`.
pub(super) fn flows(flows: &Flows) -> String {
    let ends = |flow: &Flow| {
        let end = |address: &str, port: u16| match address.contains(':') {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        };
        (end(&flow.client, flow.client_port), end(&flow.server, flow.server_port))
    };
    let mut page = String::new();
    let widths = flows
        .flows
        .iter()
        .map(ends)
        .fold((6, 6), |(client, server), (one, other)| (one.len().max(client), other.len().max(server)));
    let (left, right) = widths;
    if !flows.flows.is_empty() {
        line(
            &mut page,
            format_args!(
                "{:<left$}  {:<right$}  {:<16} {:<12} {:<9} last seen",
                "client", "server", "service", "state", "kind"
            ),
        );
    }
    for flow in &flows.flows {
        let (client, server) = ends(flow);
        let seen = flow.idle_seconds.or(flow.age_seconds).map_or("-".to_owned(), duration);
        line(
            &mut page,
            format_args!(
                "{client:<left$}  {server:<right$}  {:<16} {:<12} {:<9} {seen}",
                flow.service, flow.state, flow.kind
            ),
        );
    }
    let count = flows.flows.len();
    let rest = if flows.is_truncated { ", and there are more: --limit" } else { "" };
    line(&mut page, format_args!("{count} {}{rest}", if count == 1 { "connection" } else { "connections" }));
    page
}

/// The text of `synwall blocks`.
pub(super) fn blocks(blocks: &Blocks) -> String {
    if blocks.blocks.is_empty() {
        return "nothing is blocked\n".to_owned();
    }
    blocks.blocks.iter().map(|block| format!("{:<43} {}\n", block.prefix, remaining(block))).collect()
}

/// The text of `synwall block`.
pub(super) fn blocked(request: &BlockRequest, blocks: &Blocks) -> String {
    let prefix = &request.prefix;
    let is_it = |block: &&Block| block.prefix == *prefix || block.prefix.starts_with(&format!("{prefix}/"));
    let until =
        blocks.blocks.iter().find(is_it).map_or(String::new(), |block| format!(" {}", remaining(block)));
    format!("{prefix} is blocked{until}\n")
}

fn remaining(block: &Block) -> String {
    block
        .remaining_seconds
        .map_or("until a restart".to_owned(), |left| format!("for {}", duration(left.ceil())))
}

/// The text of `synwall mode`.
pub(super) fn mode(answer: &ModeAnswer) -> String {
    let ModeAnswer { service, mode, configured_mode } = answer;
    if mode == configured_mode {
        format!("{service}: {mode}, as configured\n")
    } else {
        format!("{service}: {mode} until a restart; the configuration says {configured_mode}\n")
    }
}

/// A count in at most six characters.
pub(super) fn number(count: u64) -> String {
    let (value, unit) = match count {
        0..=99_999 => return count.to_string(),
        100_000..=9_999_999 => (count as f64 / 1e3, "k"),
        10_000_000..=9_999_999_999 => (count as f64 / 1e6, "M"),
        _ => (count as f64 / 1e9, "G"),
    };
    format!("{value:.0}{unit}")
}

/// Seconds in the two largest units.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 10.0 {
        return format!("{seconds:.1}s");
    }
    // More than any clock shows is cut off.
    let seconds = seconds as u64;
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3_599 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "{text}");
}

/// A prefix with less of the SYNs would be said to have 0%.
const LEAST_SHARE: f64 = 0.005;

/// With ports, an event, two problems and empty lines as many as a screen of 24 lines holds.
const MOST_SERVICES: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_names_the_prefixes_that_stand_out_or_says_that_none_does() {
        let most_from = |top_prefixes: serde_json::Value| {
            let event = serde_json::json!({
                "id": "1790000000-1", "service": "web", "kind": "spoofed_syn", "started": 0.0, "ended": null,
                "peak_syn_rate": 0.0, "peak_half_open": 0, "distinct_sources": 0, "new_source_share": 0.0,
                "totals": { "syns": 0, "cookies_sent": 0, "completed": 0, "dropped": 0 }, "completed_share": 0.0,
                "top_prefixes": top_prefixes, "source_ports": 0, "top_ports": [], "hop_limits": [0, 0],
            });
            let shown = show_attack(&serde_json::from_value(event).unwrap(), 1.0);
            shown.split_once("most from: ").unwrap().1.to_owned()
        };
        let heavy = serde_json::json!([{ "prefix": "198.18.3.0/24", "share": 0.62 }]);
        assert_eq!(most_from(heavy), "198.18.3.0/24 62%");
        let light = serde_json::json!([{ "prefix": "198.18.3.0/24", "share": 0.004 }]);
        assert_eq!(most_from(light), "no prefix stands out");
    }

    #[test]
    fn counts_and_times_stay_short() {
        for (count, shown) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100k"),
            (9_999_999, "10000k"),
            (10_000_000, "10M"),
            (123_456_789_000, "123G"),
        ] {
            assert_eq!(number(count), shown);
        }
        for (seconds, shown) in [
            (-1.0, "0.0s"),
            (9.94, "9.9s"),
            (59.9, "59s"),
            (61.0, "1m1s"),
            (3_600.0, "1h0m"),
            (90_000.0, "1d1h"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }
}
