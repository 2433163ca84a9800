//! What one decision costs: parsing the head's credential, BLAKE3, the look-up and the rules, as the request path runs them.
//!
//! `decide/1k-hot`: keys that are always in the processor's caches; the cost of the code itself.
//! `decide/1M-random`, `decide/10M-random`: a key drawn at random each time; adds the misses in memory of a large index.
//! `…/writer`: the same while another thread changes keys without pause; what a busy feed costs requests.
//! `refuse/unknown`: a secret that nobody has, among a million.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{HeaderMap, Method, Uri};
use martis_gateway::access::address::{AddressRule, ClientAddress};
use martis_gateway::access::key::{AccountId, Environment, KeyId, LifeState};
use martis_gateway::access::permission::Permissions;
use martis_gateway::access::route::RouteTable;
use martis_gateway::access::secret::Digest;
use martis_gateway::access::time::Timestamp;
use martis_gateway::gate::{ClientAddressRules, Gate, Head, HeadLimits, HostTable, Served};
use martis_gateway::index::{IndexChange, IndexWriter, IndexedKey, new_index};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// So many heads are made ready before the clock starts, each with its own key: few, since a head that was just parsed is in the
/// processor's caches.
const READY: usize = 64;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn secret(number: u64) -> String {
    // Made up, of the right shape and length; the checksum plays no part in a decision.
    format!("sk_live_{number:038}")
}

fn key(number: u64, state: LifeState) -> IndexedKey {
    IndexedKey {
        digest: Digest::of(secret(number).as_bytes()),
        id: KeyId::from_bytes(u128::from(number).to_be_bytes()),
        account: AccountId::from_bytes(u128::from(number / 10).to_be_bytes()),
        environment: Environment::Production,
        state,
        expires_at: None,
        permissions: Permissions::Full,
        addresses: AddressRule::Anywhere,
    }
}

fn gate_with(keys: u64) -> (IndexWriter, Gate) {
    let (mut writer, index) = new_index(None);
    let mut load = IndexWriter::load(keys as usize);
    (0..keys).for_each(|number| load.key(key(number, LifeState::Active)));
    writer.swap(load, 0, NOW);
    let mut hosts = HostTable::default();
    hosts.serve("api.martis.id", Served { environment: Environment::Production, upstream: 0 });
    let limits = HeadLimits { head_bytes: Some(32 << 10), head_fields: Some(100), uri_bytes: Some(8 << 10), body_bytes: Some(10 << 20) };
    let gate = Gate { hosts, routes: RouteTable::default(), addresses: ClientAddressRules::default(), limits, index };
    (writer, gate)
}

fn headers(number: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("api.martis.id"));
    headers.insert("user-agent", HeaderValue::from_static("martis-node/3.1"));
    headers.insert("accept", HeaderValue::from_static("application/json"));
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {}", secret(number))).expect("secrets are plain text"));
    headers
}

/// Measures decisions for keys that `draw` names.
fn measure(criterion: &mut Criterion, name: &str, gate: &Gate, passes: bool, mut draw: impl FnMut() -> u64) {
    let uri = Uri::from_static("/api/v1/payments/charges?limit=10");
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            let mut left = rounds;
            while left > 0 {
                let batch: Vec<HeaderMap> = (0..READY.min(left as usize)).map(|_| headers(draw())).collect();
                let start = Instant::now();
                for headers in &batch {
                    let peer = ClientAddress::Known(std::net::Ipv4Addr::new(203, 0, 113, 7).into());
                    let head = Head { method: &Method::POST, uri: &uri, headers, protocol: None, guarded: true, peer };
                    let judgement = gate.judge(black_box(&head), NOW, &mut ());
                    assert_eq!(judgement.verdict.is_ok(), passes);
                    let _ = black_box(judgement);
                }
                spent += start.elapsed();
                left -= batch.len() as u64;
            }
            spent
        });
    });
}

fn with_writer(writer: &mut IndexWriter, keys: u64, during: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(7);
            let mut revision = writer.reader().revision();
            while !done.load(Ordering::Relaxed) {
                revision += 1;
                writer.apply(revision, IndexChange::Key(key(random.u64(..keys), LifeState::Active))).expect("revisions are in order");
            }
        });
        during();
        done.store(true, Ordering::Relaxed);
    });
}

fn decisions(criterion: &mut Criterion) {
    for (name, keys) in [("1k-hot", 1_000), ("1M-random", 1_000_000), ("10M-random", 10_000_000)] {
        let (mut writer, gate) = gate_with(keys);
        let mut random = fastrand::Rng::with_seed(1);
        measure(criterion, &format!("decide/{name}"), &gate, true, || random.u64(..keys));
        with_writer(&mut writer, keys, || measure(criterion, &format!("decide/{name}/writer"), &gate, true, || random.u64(..keys)));
        if keys == 1_000_000 {
            measure(criterion, "refuse/unknown", &gate, false, || keys + random.u64(..keys));
        }
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
