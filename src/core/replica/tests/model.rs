//! The model test: random transactions and faults, a few replicas, and the reference database.
//!
//! `PROPTEST_CASES` says how many worlds are tried. A failure is shrunk, printed, and its seed kept in
//! `proptest-regressions`.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::Config as Runner;

use super::world::{World, config};
use crate::core::notice::Notice;
use crate::core::{Checksum, Epoch, Key, Revision};

const DEFAULT_CASES: u32 = 1_500;

/// One thing that happens. Numbers are taken modulo what there is to choose from.
#[derive(Clone, Debug)]
enum Op {
    Write {
        own: Option<usize>,
        writes: Vec<(u8, Option<u8>)>,
        answered: bool,
    },
    Truncate,
    Alter(u8, Option<u8>),
    Trim {
        kept: u64,
        keep_anchor: bool,
    },
    Restore {
        back: usize,
        rotate: bool,
        drops: bool,
    },
    NewEpoch,
    /// Somebody deletes a row of the journal by hand.
    Damage(usize),
    Step(usize, usize),
    Lose(usize, usize),
    Duplicate(usize, usize),
    Forge(usize, Forged),
    Drop(usize),
    RefuseListen(usize, bool),
    Deafen(usize, bool),
    AskResync(usize),
    /// The process ends, and a new one begins with a state that the old one had kept.
    Restart(usize, usize),
    /// Everything under way arrives.
    Settle,
    Pass {
        millis: u64,
        prompt: bool,
    },
}

#[derive(Clone, Debug)]
enum Forged {
    Garbage,
    Changed { ahead: u64, wrong_epoch: bool },
    Zero,
    Heartbeat { back: u64, ahead: u64, crc: u32 },
    OldNonce,
}

fn forged() -> impl Strategy<Value = Forged> {
    prop_oneof![
        Just(Forged::Garbage),
        (0..1_000u64, any::<bool>())
            .prop_map(|(ahead, wrong_epoch)| Forged::Changed { ahead, wrong_epoch }),
        Just(Forged::Zero),
        (0..4u64, 0..4u64, any::<u32>()).prop_map(|(back, ahead, crc)| Forged::Heartbeat {
            back,
            ahead,
            crc
        }),
        Just(Forged::OldNonce),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let host = 0..4usize;
    let value = || prop_oneof![3 => (0..3u8).prop_map(Some), 1 => Just(None)];
    let writes = prop::collection::vec((0..5u8, value()), 1..4);
    prop_oneof![
        30 => (prop::option::of(host.clone()), writes, prop::bool::weighted(0.9))
            .prop_map(|(own, writes, answered)| Op::Write { own, writes, answered }),
        1 => Just(Op::Truncate),
        2 => (0..5u8, value()).prop_map(|(key, new)| Op::Alter(key, new)),
        4 => (0..5u64, any::<bool>()).prop_map(|(kept, keep_anchor)| Op::Trim { kept, keep_anchor }),
        3 => (1..5usize, prop::bool::weighted(0.3), any::<bool>())
            .prop_map(|(back, rotate, drops)| Op::Restore { back, rotate, drops }),
        1 => Just(Op::NewEpoch),
        1 => (0..4usize).prop_map(Op::Damage),
        60 => (host.clone(), 0..8usize).prop_map(|(at, nth)| Op::Step(at, nth)),
        8 => (host.clone(), 0..8usize).prop_map(|(at, nth)| Op::Lose(at, nth)),
        3 => (host.clone(), 0..8usize).prop_map(|(at, nth)| Op::Duplicate(at, nth)),
        4 => (host.clone(), forged()).prop_map(|(at, forged)| Op::Forge(at, forged)),
        3 => host.clone().prop_map(Op::Drop),
        2 => (host.clone(), any::<bool>()).prop_map(|(at, yes)| Op::RefuseListen(at, yes)),
        2 => (host.clone(), any::<bool>()).prop_map(|(at, yes)| Op::Deafen(at, yes)),
        3 => host.clone().prop_map(Op::AskResync),
        3 => (host, 0..8usize).prop_map(|(at, nth)| Op::Restart(at, nth)),
        12 => Just(Op::Settle),
        10 => (prop_oneof![0..20u64, 0..4_000u64, 0..40_000u64], any::<bool>())
            .prop_map(|(millis, prompt)| Op::Pass { millis, prompt }),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    hosts: usize,
    notifications: bool,
    sync_on_mismatch: bool,
    seed: u64,
    ops: Vec<Op>,
}

fn case() -> impl Strategy<Value = Case> {
    let ops = prop::collection::vec(op(), 1..120);
    let often = || prop::bool::weighted(0.9);
    (1..5usize, often(), often(), 0..100u64, ops).prop_map(
        |(hosts, notifications, sync_on_mismatch, seed, ops)| Case {
            hosts,
            notifications,
            sync_on_mismatch,
            seed,
            ops,
        },
    )
}

fn key(number: u8) -> Key {
    Key::stored(&format!("k{number}"))
}

fn apply(world: &mut World, op: &Op) {
    let count = world.hosts.len();
    match op {
        Op::Write {
            own,
            writes,
            answered,
        } => {
            let text = |new: &Option<u8>| new.map(|number| number.to_string());
            let writes: BTreeMap<_, _> =
                (writes.iter().map(|(at, new)| (key(*at), text(new)))).collect();
            world.write(own.map(|at| at % count), &writes, *answered);
        }
        Op::Truncate => {
            let all = world.database.table().keys();
            let all = all.map(|key| (key.clone(), None)).collect();
            world.write(None, &all, false);
        }
        Op::Alter(at, new) => {
            world.suspect = true;
            world
                .database
                .alter(&key(*at), new.map(|number| number.to_string()));
        }
        Op::Trim { kept, keep_anchor } => world.database.trim(*kept, *keep_anchor),
        Op::Restore {
            back,
            rotate,
            drops,
        } => {
            (world.suspect, world.restored) = (true, true);
            world.rewritten();
            let done = world.database.restore(world.now, *back);
            if done && *rotate {
                world.database.rotate(world.now, None);
            }
            for at in 0..count {
                if *drops {
                    world.drop_session(at);
                }
            }
        }
        Op::NewEpoch => {
            world.database.rotate(world.now, None);
            world.notify_head();
            world.rewritten();
        }
        Op::Damage(nth) => world.database.damage(*nth),
        Op::Step(at, nth) => world.step(at % count, *nth),
        Op::Lose(at, nth) => world.lose(at % count, *nth),
        Op::Duplicate(at, nth) => world.duplicate(at % count, *nth),
        Op::Forge(at, forged) => forge(world, at % count, forged),
        Op::Drop(at) => world.drop_session(at % count),
        Op::RefuseListen(at, yes) => world.hosts[at % count].refuses_listen = *yes,
        Op::Deafen(at, yes) => world.hosts[at % count].deaf = *yes,
        Op::AskResync(at) => world.ask_resync(at % count),
        Op::Restart(at, nth) => world.restart(at % count, *nth),
        Op::Settle => {
            world.settle();
            world.check_prompt();
        }
        Op::Pass { millis, prompt } => world.pass(Duration::from_millis(*millis), *prompt),
    }
}

fn forge(world: &mut World, at: usize, forged: &Forged) {
    let head = world.database.head();
    let (epoch, ahead_of) = (head.epoch, |by: u64| {
        Revision::new(head.revision.get() + by)
    });
    let notice = match *forged {
        Forged::Garbage => None,
        Forged::Zero => Some(Notice::Changed {
            epoch,
            revision: Revision::ZERO,
        }),
        Forged::Changed { ahead, wrong_epoch } => Some(Notice::Changed {
            epoch: if wrong_epoch {
                Epoch::from_u128(7)
            } else {
                epoch
            },
            revision: ahead_of(ahead),
        }),
        Forged::Heartbeat { back, ahead, crc } => {
            world.suspect = true;
            Some(Notice::Heartbeat {
                epoch,
                revision: Revision::new(ahead_of(ahead).get().saturating_sub(back)),
                checksum: Checksum::new(crc),
                instance: 77,
                audited: false,
            })
        }
        Forged::OldNonce => Some(Notice::Nonce(1)),
    };
    world.hear(at, notice);
}

fn run(case: &Case) -> Result<(), TestCaseError> {
    let configs = (0..case.hosts).map(|at| {
        let mut config = config(at as u64 + 1);
        config.notifications = case.notifications || at > 0;
        config.sync_on_mismatch = case.sync_on_mismatch || at > 0;
        config
    });
    let mut world = World::new(configs.collect(), case.seed);
    for (at, op) in case.ops.iter().enumerate() {
        apply(&mut world, op);
        if let Some(wrong) = &world.wrong {
            return Err(TestCaseError::fail(format!("step {at}, {op:?}: {wrong}")));
        }
    }
    world.heal();
    match world.wrong {
        Some(wrong) => Err(TestCaseError::fail(format!("healed, yet {wrong}"))),
        None => Ok(()),
    }
}

fn runner() -> Runner {
    // The default reads PROPTEST_CASES; 256 is what it says when nobody chose.
    let chosen = Runner::default();
    Runner {
        cases: if chosen.cases == 256 {
            DEFAULT_CASES
        } else {
            chosen.cases
        },
        max_shrink_iters: 20_000,
        ..chosen
    }
}

proptest! {
    #![proptest_config(runner())]

    #[test]
    fn replicas_follow_the_database_through_every_fault(case in case()) {
        run(&case)?;
    }
}
