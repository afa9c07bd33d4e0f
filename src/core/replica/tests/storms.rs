//! Floods, liars and steady load: the work they cause is bounded, and nobody is accused wrongly.

use std::time::Duration;

use super::world::{HEARTBEAT, Item, World, config};
use crate::core::backoff::Random;
use crate::core::notice::Notice;
use crate::core::{Checksum, Epoch, Key, Revision};

const HOUR: Duration = Duration::from_secs(3_600);

fn well(world: &World) {
    assert_eq!(world.wrong, None);
}

fn write(world: &mut World, key: &str, text: &str) {
    let writes = [(Key::stored(key), Some(text.to_owned()))];
    world.write(None, &writes.into(), false);
}

fn loaded(hosts: u64) -> World {
    let mut world = World::new((1..=hosts).map(config).collect(), 5);
    for number in 0..4 {
        write(&mut world, &format!("k{number}"), "1");
    }
    world.pass(HEARTBEAT / 2, true);
    well(&world);
    world
}

fn forged_heartbeat(world: &World) -> Notice {
    Notice::Heartbeat {
        epoch: world.database.head().epoch,
        revision: world.database.head().revision,
        checksum: Checksum::new(0xBAD),
        instance: 99,
        audited: true,
    }
}

#[test]
fn a_flood_of_forged_notices_costs_bounded_reads() {
    let mut world = loaded(1);
    let epoch = world.database.head().epoch;
    let changed = |epoch, revision| {
        let revision = Revision::new(revision);
        Some(Notice::Changed { epoch, revision })
    };
    let far = Some(match forged_heartbeat(&world) {
        Notice::Heartbeat {
            epoch,
            checksum,
            instance,
            audited,
            ..
        } => Notice::Heartbeat {
            epoch,
            revision: Revision::new(1 << 60),
            checksum,
            instance,
            audited,
        },
        other => other,
    });
    for forged in [
        None,
        changed(epoch, 1 << 60),
        changed(epoch, 0),
        changed(epoch, 4),
        changed(Epoch::from_u128(3), 9),
        far,
    ] {
        let before = world.hosts[0].queries;
        for _ in 0..10_000 {
            world.hear(0, forged);
            world.pass(Duration::from_micros(100), true);
        }
        let queries = world.hosts[0].queries - before;
        assert!(queries <= 203, "{forged:?} caused {queries} queries");
        well(&world);
    }
}

#[test]
fn a_peer_that_is_always_wrong_leads_to_ever_fewer_resyncs() {
    let mut world = loaded(1);
    world.suspect = true;
    let mut resyncs = Vec::new();
    for _ in 0..4 {
        let before = world.hosts[0].snapshots;
        for _ in 0..HOUR.as_secs() / HEARTBEAT.as_secs() {
            let forged = forged_heartbeat(&world);
            world.hear(0, Some(forged));
            world.pass(HEARTBEAT, true);
        }
        resyncs.push(world.hosts[0].snapshots - before);
    }
    well(&world);
    assert!(resyncs[0] <= 9 && resyncs[3] <= 2, "{resyncs:?}");
}

#[test]
fn a_stream_of_forged_heartbeats_leads_to_ever_fewer_resyncs() {
    let mut world = loaded(1);
    world.suspect = true;
    let before = world.hosts[0].snapshots;
    for turn in 0..HOUR.as_secs() * 4 {
        let forged = forged_heartbeat(&world);
        world.hear(0, Some(forged));
        if turn % 8 == 0 {
            write(&mut world, "k1", &turn.to_string());
        }
        world.pass(Duration::from_millis(250), true);
    }
    well(&world);
    let resyncs = world.hosts[0].snapshots - before;
    assert!((1..=9).contains(&resyncs), "{resyncs}");
}

#[test]
fn nobody_is_accused_under_continuous_writes() {
    let mut world = loaded(3);
    let mut random = Random::seeded(11);
    for turn in 0..20_000u32 {
        let at = random.next() as usize;
        if turn % 3 == 0 {
            let (key, text) = (format!("k{}", at % 7), random.next().to_string());
            world.database.trim(100, true);
            let own = Some(at % 4).filter(|own| *own < 3);
            world.write(own, &[(Key::stored(&key), Some(text))].into(), true);
        }
        // Whatever is under way arrives in any order, and late.
        for _ in 0..random.next() % 8 {
            let (at, nth) = (random.next() as usize, random.next() as usize);
            world.step(at % 3, nth % 5);
        }
        world.pass(Duration::from_millis(10), false);
    }
    world.heal();
    well(&world);
    let mismatches: Vec<_> = world.hosts.iter().map(|host| host.mismatches).collect();
    assert_eq!(mismatches, [0, 0, 0]);
}

#[test]
fn a_quiet_replica_asks_for_the_head_and_nothing_else() {
    let mut world = loaded(1);
    let before = world.hosts[0].queries;
    world.pass(Duration::from_secs(100), true);
    let queries = world.hosts[0].queries - before;
    assert!((49..=51).contains(&queries), "{queries}");
    assert_eq!(world.hosts[0].snapshots, 1);
    let waiting = |item: &Item| !matches!(item, Item::Deliver(..));
    assert!(!world.hosts[0].items.iter().any(waiting));
    well(&world);
}
