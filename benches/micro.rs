//! What one packet costs in each part of the core: `cargo bench --bench micro`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use synwall::cookie::{KeyRing, MasterKey, Offer, Tuple, check, mint};
use synwall::wire::seq::SeqNumber;

/// Minting and checking, per family; a forged cookie must not cost more than a genuine one.
fn cookie(c: &mut Criterion) {
    let mut group = c.benchmark_group("cookie");
    let ring = KeyRing::at(&MasterKey::from_bytes([0x5c; 32]), 55_000_000);
    let offer = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: true, ecn: false };
    let (iss, now) = (SeqNumber(4_294_957_295), 1_760_000_000);
    for (family, tuple) in
        [("ipv4", tuple([192, 0, 2, 1], [198, 51, 100, 2])), ("ipv6", tuple([0x20; 16], [0xfd; 16]))]
    {
        let minted = mint(&ring, &tuple, iss, &offer, now);
        let isn = minted.isn;
        group.bench_function(format!("mint/{family}"), |b| {
            b.iter(|| mint(&ring, black_box(&tuple), black_box(iss), black_box(&offer), now));
        });
        group.bench_function(format!("check-genuine/{family}"), |b| {
            b.iter(|| check(&ring, black_box(&tuple), black_box(iss), black_box(isn), Some(minted.tsval)));
        });
        group.bench_function(format!("check-forged/{family}"), |b| {
            b.iter(|| {
                check(&ring, black_box(&tuple), black_box(iss), black_box(isn.add(1)), Some(minted.tsval))
            });
        });
    }
    group.finish();
}

fn tuple<A: Into<std::net::IpAddr>>(source: A, destination: A) -> Tuple {
    Tuple {
        source: source.into(),
        destination: destination.into(),
        source_port: 40_000,
        destination_port: 443,
    }
}

criterion_group! {
    /// All of them.
    benches, cookie
}
criterion_main!(benches);
