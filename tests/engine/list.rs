//! What the tables hold, as it is listed for an operator.

use std::time::Duration;

use synwall::engine::list::{Kind, Listed};
use synwall::engine::policy::{Mode, ServiceId};

use crate::lab::*;

/// At most `most` connections.
fn list(lab: &Lab, most: usize) -> Vec<Listed> {
    let mut all = Vec::new();
    lab.shared.list(lab.now, |listed| {
        all.push(listed);
        all.len() < most
    });
    all
}

fn the_one(lab: &Lab) -> Listed {
    let listed = list(lab, 9);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((listed[0].service, listed[0].client.1, listed[0].server.1), (ServiceId(0), 40_000, 80));
    listed[0]
}

#[test]
fn a_connection_is_listed_in_each_of_its_states() {
    let mut lab = Lab::new();
    assert_eq!(list(&lab, 9), []);
    lab.syn();
    assert_eq!(list(&lab, 9), [], "a SYN leaves nothing");
    lab.syn_sent();
    lab.advance(Duration::from_millis(300));
    let asked = the_one(&lab);
    assert_eq!((asked.kind, asked.state, asked.idle), (Kind::HalfOpen, "syn_sent", None));
    assert_eq!(asked.age, Some(Duration::from_millis(300)));

    let mut lab = Lab::new();
    lab.established();
    lab.advance(Duration::from_secs(3));
    let open = the_one(&lab);
    assert_eq!((open.kind, open.state, open.age), (Kind::Proxied, "established", None));
    assert_eq!(open.idle, Some(Duration::from_secs(3)));
}

#[test]
fn a_connection_that_is_let_through_is_listed_too_and_a_list_can_be_cut_short() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Monitor);
    lab.client(linux_syn());
    let waits = the_one(&lab);
    assert_eq!((waits.kind, waits.state), (Kind::HalfOpen, "syn_received"));
    lab.server(seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(1460));
    lab.client(seg(ACK, c(1)).ack(s(1)));
    assert_eq!((the_one(&lab).kind, the_one(&lab).state), (Kind::Direct, "established"));
    lab.client(linux_syn().port(40_001));
    assert_eq!(list(&lab, 9).len(), 2);
    assert_eq!(list(&lab, 1).len(), 1);
}
