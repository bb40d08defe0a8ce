//! A fast path that carries no frame and keeps where the ends of flows are, as the XDP program does: what the engine knows of
//! them it must have told, and must ask for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use synwall::engine::Side;
use synwall::engine::fast::{FastCounts, FastEnds, FastFlow, FastPath};
use synwall::engine::policy::ServiceId;
use synwall::engine::stats::{PortValues, ServiceRowValues};
use synwall::table::flow_key::FlowKey;
use synwall::time::Instant;

/// It: one service's flows.
#[derive(Default)]
pub struct Keeper {
    flows: Mutex<HashMap<FlowKey, (FastFlow, Instant)>>,
    now: AtomicU64,
    is_pressed: AtomicBool,
}

impl Keeper {
    /// What time it is: flows are idle from their last note on.
    pub fn tell_time(&self, now: Instant) {
        self.now.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// How many flows it was told of and not told to forget.
    pub fn len(&self) -> usize {
        self.flows().len()
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<FlowKey, (FastFlow, Instant)>> {
        self.flows.lock().expect("one thread")
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now.load(Ordering::Relaxed))
    }
}

impl FastPath for Keeper {
    fn admit(&self, key: &FlowKey, flow: &FastFlow) -> bool {
        let since =
            Instant::from_nanos(self.now().as_nanos().saturating_sub(flow.ends.idle.as_nanos() as u64));
        self.flows().insert(*key, (*flow, since));
        true
    }

    fn ends(&self, key: &FlowKey) -> Option<FastEnds> {
        let flows = self.flows();
        let (flow, since) = flows.get(key)?;
        Some(FastEnds { idle: self.now().since(*since), ..flow.ends })
    }

    fn note(&self, key: &FlowKey, ends: &FastEnds, is_up: bool) {
        let (mut flows, now) = (self.flows(), self.now());
        let (flow, since) = flows.get_mut(key).expect("a flow that it was told of");
        (flow.ends, flow.is_up, *since) = (*ends, is_up, now);
    }

    fn challenge(&self, key: &FlowKey, iss: u32) {
        self.flows().get_mut(key).expect("a flow that it was told of").0.challenged = Some(iss);
    }

    fn remove(&self, key: &FlowKey) {
        assert!(self.flows().remove(key).is_some(), "a flow that it was told of");
    }

    fn mark_pending(&self, _: &FlowKey) {}

    fn note_refusal(&self, _: (IpAddr, u16), _: Option<IpAddr>, _: Duration) {}

    fn note_known(&self, _: IpAddr, _: Duration) {}

    fn press(&self, _: ServiceId, is_pressed: bool) {
        self.is_pressed.store(is_pressed, Ordering::Relaxed);
    }

    fn is_pressed(&self, _: ServiceId) -> bool {
        self.is_pressed.load(Ordering::Relaxed)
    }

    fn counts(&self, _: ServiceId) -> FastCounts {
        FastCounts::default()
    }

    fn set_direct_flows(&self, _: bool) {}

    fn set_sampling(&self, _: u8) {}

    fn add_service_to(&self, _: Option<ServiceId>, _: &mut ServiceRowValues) {}

    fn add_port_to(&self, _: Side, _: &mut PortValues) {}
}
