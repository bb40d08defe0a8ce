//! The kinds of values: what each accepts, what it says when it does not, and how it is written.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::document::{Fault, Value, kind};
use crate::engine::policy::{PortSet, Prefix, Rate};

/// A string.
pub(super) fn string(value: &Value<'_>) -> Result<String, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        other => Err(format!("must be a string, not {}", kind(other)).into()),
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value<'_>) -> Result<bool, Fault> {
    match value.get_ref() {
        DeValue::Boolean(flag) => Ok(*flag),
        other => Err(format!("must be true or false, not {}", kind(other)).into()),
    }
}

/// An integer of `range`.
pub(super) fn integer(value: &Value<'_>, range: RangeInclusive<u64>) -> Result<u64, Fault> {
    match value.get_ref() {
        DeValue::Integer(number) => {
            match i128::from_str_radix(number.as_str(), number.radix()).map(u64::try_from) {
                Ok(Ok(parsed)) => within(parsed, range, |number| number.to_string()),
                _ => Err(out_of_range(number, range.start(), range.end()).into()),
            }
        }
        other => Err(format!("must be an integer, not {}", kind(other)).into()),
    }
}

/// One of `words`, each with its label.
pub(super) fn word<T: Copy>(
    value: &Value<'_>,
    words: &[T],
    label: impl Fn(T) -> &'static str,
) -> Result<T, Fault> {
    let text = string(value)?;
    words.iter().copied().find(|word| label(*word) == text).ok_or_else(|| {
        let known: Vec<String> = words.iter().map(|word| format!("{:?}", label(*word))).collect();
        format!("{text:?} is none of {}", known.join(", ")).into()
    })
}

/// An integer of `range`, or `None` for the word `absent`.
pub(super) fn integer_or(
    value: &Value<'_>,
    absent: &str,
    range: RangeInclusive<u64>,
) -> Result<Option<u64>, Fault> {
    match value.get_ref() {
        DeValue::String(text) if text == absent => Ok(None),
        DeValue::String(text) => Err(format!(
            "{text:?} is neither {absent:?} nor an integer, {} to {}",
            range.start(),
            range.end()
        )
        .into()),
        _ => integer(value, range).map(Some),
    }
}

/// A duration such as `"250ms"`, `"32s"` or `"2h4m"`, within `range`.
pub(super) fn duration(value: &Value<'_>, range: RangeInclusive<Duration>) -> Result<Duration, Fault> {
    let text = match value.get_ref() {
        DeValue::String(text) => text,
        DeValue::Integer(number) => {
            return Err(format!("has no unit; write a string such as \"{number}s\" or \"{number}ms\"").into());
        }
        other => return Err(format!("must be a string such as \"32s\", not {}", kind(other)).into()),
    };
    let parsed = parse_duration(text).ok_or_else(|| {
        format!("{text:?} is not a duration; write for example \"250ms\", \"32s\" or \"2h4m\"")
    })?;
    within(parsed, range, show_duration)
}

/// Octets: an integer, or a string such as `"14600"` or `"16KiB"`, within `range`.
pub(super) fn size(value: &Value<'_>, range: RangeInclusive<u64>) -> Result<u64, Fault> {
    let DeValue::String(text) = value.get_ref() else { return integer(value, range) };
    let parsed = parse_size(text).ok_or_else(|| {
        format!("{text:?} is not a size; write octets, or for example \"16KiB\" or \"64MiB\"")
    })?;
    within(parsed, range, show_size)
}

/// A protected address or prefix.
pub(super) fn prefix(value: &Value<'_>) -> Result<Prefix, Fault> {
    let text = string(value)?;
    Ok(parse_prefix(&text)?)
}

/// A list of addresses and prefixes.
pub(super) fn prefixes(value: &Value<'_>) -> Result<Vec<Prefix>, Fault> {
    let DeValue::Array(entries) = value.get_ref() else {
        let message = format!("must be a list such as [\"198.18.0.0/24\"], not {}", kind(value.get_ref()));
        return Err(message.into());
    };
    let parse = |entry: &Value<'_>| {
        let parsed = string(entry).and_then(|text| Ok(parse_prefix(&text)?));
        parsed.map_err(|fault| fault.or_at(entry.span().start))
    };
    entries.iter().map(parse).collect()
}

/// Events a second, or `"unlimited"`.
pub(super) fn rate(value: &Value<'_>) -> Result<Rate, Fault> {
    let rate = integer_or(value, UNLIMITED, 1..=1_000_000_000)?;
    Ok(rate.and_then(|rate| NonZeroU32::new(u32::try_from(rate).unwrap_or(u32::MAX))))
}

/// `rate`, or `"unlimited"`.
pub(super) fn show_rate(rate: Rate) -> String {
    rate.map_or(format!("{UNLIMITED:?}"), |rate| rate.to_string())
}

/// No limit.
const UNLIMITED: &str = "unlimited";

/// Ports: integers and ranges, or `"all"`.
pub(super) fn ports(value: &Value<'_>) -> Result<PortSet, Fault> {
    let entries = match value.get_ref() {
        DeValue::String(text) if text == "all" => return Ok(PortSet::all()),
        DeValue::Array(entries) => entries,
        other => {
            return Err(format!(
                "must be a list such as [80, \"8000-8099\"], or \"all\", not {}",
                kind(other)
            )
            .into());
        }
    };
    if entries.is_empty() {
        return Err("is empty; list ports, or write \"all\"".to_owned().into());
    }
    let mut set = PortSet::empty();
    for entry in entries.iter() {
        let (first, last) = port_range(entry).map_err(|message| Fault::at(entry.span().start, message))?;
        set.insert_range(first, last);
    }
    Ok(set)
}

/// `duration` in the largest units that leave no rest.
pub(super) fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, millis) in DURATION_UNITS {
        let count = rest.checked_div(millis).unwrap_or(0);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            rest = rest.saturating_sub(count.saturating_mul(millis));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `octets` in the largest unit that divides them.
pub(super) fn show_size(octets: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, shift)| octets > 0 && octets.trailing_zeros() >= *shift)
        .map_or_else(|| octets.to_string(), |(unit, shift)| format!("{}{unit}", octets >> shift))
}

/// `prefix`, or the bare address if it is one.
pub(super) fn show_prefix(prefix: &Prefix) -> String {
    if *prefix == Prefix::host(prefix.network()) { prefix.network().to_string() } else { prefix.to_string() }
}

fn within<T: PartialOrd + Copy>(
    value: T,
    range: RangeInclusive<T>,
    show: fn(T) -> String,
) -> Result<T, Fault> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(out_of_range(show(value), show(*range.start()), show(*range.end())).into())
}

fn out_of_range(value: impl Display, first: impl Display, last: impl Display) -> String {
    format!("{value} is out of range, {first} to {last}")
}

/// A duration such as `250ms`, `32s` or `2h4m`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0u64);
    let mut units = DURATION_UNITS.iter();
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        // The iterator goes on where the last unit was found: units descend and none comes twice.
        let (_, millis) = units.find(|(name, _)| *name == unit)?;
        let part = number.parse::<u64>().ok()?.checked_mul(u64::try_from(*millis).ok()?)?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(1u64.checked_shl(shift)?)
}

/// An address or prefix without host bits, of addresses that cross a bridge.
pub(super) fn parse_prefix(text: &str) -> Result<Prefix, String> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    let address: IpAddr =
        address.parse().map_err(|_| format!("{text:?} is not an IPv4 or IPv6 address or prefix"))?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match len {
        None => Prefix::host(address),
        Some(len) => decimal(len)
            .and_then(|len| Prefix::new(address, u8::try_from(len).ok()?))
            .ok_or_else(|| format!("{text:?} has a prefix length out of range, 0 to {bits}"))?,
    };
    if let Some(reason) = not_protectable(&prefix, address) {
        return Err(format!("{text} {reason}"));
    }
    if prefix.network() != address {
        return Err(format!(
            "{text} has host bits set; write {prefix} for the network or {address} for one address"
        ));
    }
    Ok(prefix)
}

/// Why nothing with this address can be a server behind the bridge.
fn not_protectable(prefix: &Prefix, address: IpAddr) -> Option<String> {
    let whole = |network: IpAddr, len| {
        Prefix::new(network, len).is_some_and(|outer| outer.contains(address) && prefix.len() >= len)
    };
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("is the broadcast address, no server has it".to_owned()),
        IpAddr::V4(_) if whole(IpAddr::from([0, 0, 0, 0]), 8) => {
            Some("is unspecified, no server has it".to_owned())
        }
        IpAddr::V4(_) if whole(IpAddr::from([127, 0, 0, 0]), 8) => {
            Some("is loopback, it never crosses a bridge".to_owned())
        }
        IpAddr::V4(_) if whole(IpAddr::from([224, 0, 0, 0]), 4) => {
            Some("is multicast, TCP has no multicast".to_owned())
        }
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) if prefix.len() == 128 => Some(format!("is an IPv4-mapped address; write {v4}")),
            Some(_) if prefix.len() >= 96 => {
                Some("is an IPv4-mapped prefix; write the IPv4 prefix".to_owned())
            }
            _ if prefix.len() == 128 && v6.is_unspecified() => {
                Some("is unspecified, no server has it".to_owned())
            }
            _ if v6 == Ipv6Addr::LOCALHOST => Some("is loopback, it never crosses a bridge".to_owned()),
            _ if whole(IpAddr::from([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8) => {
                Some("is multicast, TCP has no multicast".to_owned())
            }
            _ => None,
        },
    }
}

fn port_range(value: &Value<'_>) -> Result<(u16, u16), String> {
    match value.get_ref() {
        DeValue::Integer(number) => {
            let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok();
            port(parsed, number).map(|port| (port, port))
        }
        DeValue::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (Some(low), Some(high)) = (decimal(first), decimal(last)) else {
                return Err(format!("{text:?} is neither a port nor a range such as \"8000-8099\""));
            };
            let (low, high) = (port(Some(low), first)?, port(Some(high), last)?);
            if low > high {
                return Err(format!("{text:?} runs backwards; write \"{high}-{low}\""));
            }
            Ok((low, high))
        }
        other => Err(format!("holds {}; write integers and ranges such as \"8000-8099\"", kind(other))),
    }
}

fn port(parsed: Option<u64>, text: impl Display) -> Result<u16, String> {
    let port = parsed.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| out_of_range(text, 1, u16::MAX))
}

/// Digits only: `parse` alone would also take a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok())?
}

const DURATION_UNITS: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_are_shown() {
        for (text, millis) in [("250ms", 250), ("32s", 32_000), ("2h4m", 7_440_000), ("1d1ms", 86_400_001)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)));
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(parse_duration("90m"), Some(Duration::from_secs(5400)));
        for wrong in
            ["", "5", "s", "5 s", "4m2h", "1s1s", "1.5s", "-1s", "18446744073709551615d", "1S", "1s ", "s1"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sizes_read_back_as_they_are_shown() {
        for (text, octets) in
            [("14600", 14_600), ("16KiB", 16_384), ("64MiB", 64 << 20), ("3GiB", 3 << 30), ("0", 0)]
        {
            assert_eq!(parse_size(text), Some(octets));
            assert_eq!(show_size(octets), text);
        }
        for wrong in ["", "KiB", "16KB", "16 KiB", "-1", "17179869184GiB", "+5", "16kib"] {
            assert_eq!(parse_size(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn prefixes_name_what_was_meant() {
        let shown = |text: &str| parse_prefix(text).map(|prefix| show_prefix(&prefix));
        for right in [
            "198.18.255.2",
            "198.18.0.0/15",
            "2001:db8::/32",
            "2001:db8::1",
            "0.0.0.0/0",
            "::/0",
            "128.0.0.0/1",
        ] {
            assert_eq!(shown(right), Ok(right.to_owned()));
        }
        assert_eq!(shown("198.18.0.1/32"), Ok("198.18.0.1".to_owned()));
        for wrong in
            ["", "a", "1.2.3", "1.2.3.4/33", "1.2.3.4/+8", "::/129", "1.2.3.4/8", "fe80::1%eth0", "1.2.3.4/"]
        {
            assert!(shown(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["0.0.0.0", "127.0.0.1", "127.1.0.0/16", "224.0.0.1", "239.0.0.0/8", "255.255.255.255"] {
            assert!(shown(wrong).is_err(), "{wrong:?}");
        }
        for wrong in
            ["::", "::1", "ff02::1", "ff00::/8", "::ffff:1.2.3.4", "::ffff:0:0/96", "::ffff:1.2.3.0/120"]
        {
            assert!(shown(wrong).is_err(), "{wrong:?}");
        }
    }
}
