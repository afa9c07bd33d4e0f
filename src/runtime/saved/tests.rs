//! What is refused of a kept state, and that a process may die at any moment of writing one.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use super::disk::Writer;
use super::format::{Mark, State};
use super::{Fresh, Kept, Refusal, StateFile};
use crate::core::{Cursor, Entry, Epoch, Key, Revision, RevisionId, Snapshot, Value};

const STORE: &str = "PostgreSQL h:5432/d table sync_config schema \"\" as app";
const DAY: Duration = Duration::from_secs(86_400);

/// A directory of a test, removed with this value.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sctest-saved-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.join("state")
    }

    fn file(&self) -> StateFile {
        StateFile::new(&self.path(), STORE.to_owned(), DAY)
    }

    fn writer(&self) -> Writer {
        Writer::new(self.file())
    }

    fn load(&self) -> Result<Kept, Refusal> {
        self.file().load(now())
    }

    fn refusal(&self) -> String {
        self.load().unwrap_err().to_string()
    }

    fn revision(&self) -> u64 {
        self.load().unwrap().loaded.cursor.revision.get()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// Revision `number` with awkward keys and values, proven current at a time.
fn fresh_at(number: u64, proven_at: SystemTime) -> Fresh {
    let cursor = Cursor {
        epoch: Epoch::from_u128(7),
        revision: Revision::new(number),
        id: RevisionId::from_u128(u128::from(number) + 1_000),
    };
    let texts = ["a\nb\"", "ä", "limit:login"].map(str::to_owned);
    let mut entries: Vec<_> = texts
        .iter()
        .map(|key| {
            let value = Value::stored(&format!("{{\"n\": {number}, \"text\": \"\\n😀\"}}"));
            Arc::new(Entry::new(Key::stored(key), value, cursor.revision, -5))
        })
        .collect();
    entries.sort_by(|a, b| a.key().cmp(b.key()));
    Fresh {
        snapshot: Arc::new(Snapshot::new(cursor, entries)),
        proven_at,
    }
}

fn fresh(number: u64) -> Fresh {
    fresh_at(number, now())
}

#[test]
fn what_is_read_is_what_was_written() {
    let place = Place::new();
    assert!(place.load().unwrap_err().is_missing());
    let (mut writer, fresh) = (place.writer(), fresh(3));
    writer.write(&fresh, now()).unwrap();
    let kept = place.load().unwrap();
    let was = &fresh.snapshot;
    let is = Snapshot::new(kept.loaded.cursor, kept.loaded.entries);
    assert_eq!((is.cursor(), is.checksum()), (was.cursor(), was.checksum()));
    for (is, was) in is.iter().zip(was.iter()) {
        assert_eq!((is.key(), is.as_json()), (was.key(), was.as_json()));
        assert_eq!(is.revision(), was.revision());
        assert_eq!(is.updated_at(), was.updated_at());
    }
    assert_eq!((kept.written_at, kept.proven_at), (now(), now()));
}

#[cfg(unix)]
#[test]
fn its_owner_alone_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.writer().write(&fresh(3), now()).unwrap();
    for file in fs::read_dir(&place.0).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", file.path());
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let place = Place::new();
    place.writer().write(&fresh(3), now()).unwrap();
    for path in [place.path(), place.file().mark_path()] {
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let taken = State::decode(&bytes).is_ok() || Mark::decode(&bytes).is_ok();
                assert!(!taken, "{path:?}: byte {at}, bit {bit}");
            }
        }
        fs::write(&path, &whole[1..]).unwrap();
        assert!(place.refusal().contains("damaged"), "{}", place.refusal());
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(place.revision(), 3);
}

#[test]
fn a_file_that_is_cut_short_or_goes_on_is_found() {
    let place = Place::new();
    place.writer().write(&fresh(3), now()).unwrap();
    let whole = fs::read(place.path()).unwrap();
    for length in 0..whole.len() {
        fs::write(place.path(), &whole[..length]).unwrap();
        assert!(
            matches!(place.load(), Err(Refusal::Damaged { .. })),
            "{length}"
        );
    }
    for more in ["\n", "{}\n", "["] {
        fs::write(place.path(), [&whole, more.as_bytes()].concat()).unwrap();
        assert!(matches!(place.load(), Err(Refusal::Damaged { .. })));
    }
    // A line taken out or a value altered, and the seal made anew: the store's own checksum is left.
    let text = String::from_utf8(whole).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let (lines, without) = (
        &lines[..lines.len() - 1],
        [&lines[..1], &lines[2..]].concat(),
    );
    let altered = lines.join("\n").replacen("n\\\": 3", "n\\\": 4", 1);
    assert_ne!(altered, lines.join("\n"));
    for body in [without[..without.len() - 1].join("\n"), altered] {
        let body = body + "\n";
        let seal = format!(
            "{{\"crc32\":\"{:08x}\"}}\n",
            crc32fast::hash(body.as_bytes())
        );
        fs::write(place.path(), body + &seal).unwrap();
        assert!(place.refusal().contains("checksum"), "{}", place.refusal());
    }
}

#[test]
fn another_version_is_refused_by_its_number() {
    let place = Place::new();
    place.writer().write(&fresh(3), now()).unwrap();
    let text = fs::read_to_string(place.path()).unwrap();
    fs::write(place.path(), text.replace("\"version\":1", "\"version\":2")).unwrap();
    assert!(place.refusal().contains("version 2"), "{}", place.refusal());
}

#[test]
fn the_state_of_another_store_is_neither_served_nor_replaced() {
    let place = Place::new();
    place.writer().write(&fresh(3), now()).unwrap();
    let before = fs::read(place.path()).unwrap();
    let other = StateFile::new(&place.path(), "PostgreSQL h:5432/other".to_owned(), DAY);
    let refusal = other.load(now()).unwrap_err().to_string();
    assert!(
        refusal.contains("another store") && refusal.contains("h:5432/d"),
        "{refusal}"
    );
    let problem = Writer::new(other).write(&fresh(9), now()).unwrap_err();
    assert!(problem.contains("another store"), "{problem}");
    fs::write(place.path(), "dear diary").unwrap();
    let problem = place.writer().write(&fresh(9), now()).unwrap_err();
    assert!(problem.contains("no state file"), "{problem}");
    assert_eq!(fs::read(place.path()).unwrap(), b"dear diary");
    fs::write(place.path(), before).unwrap();
    assert_eq!(place.revision(), 3);
}

#[test]
fn an_older_state_put_back_is_refused() {
    let place = Place::new();
    let mut writer = place.writer();
    writer.write(&fresh(3), now()).unwrap();
    let older = fs::read(place.path()).unwrap();
    writer.write(&fresh(5), now()).unwrap();
    fs::write(place.path(), &older).unwrap();
    let refusal = place.refusal();
    assert!(
        refusal.contains("revision 3") && refusal.contains("revision 5"),
        "{refusal}"
    );
    fs::remove_file(place.file().mark_path()).unwrap();
    let refusal = place.refusal();
    assert!(
        refusal.contains(".mark") && refusal.contains("missing"),
        "{refusal}"
    );
}

#[test]
fn generations_go_on_where_the_last_process_ended_also_to_a_lower_revision() {
    let place = Place::new();
    place.writer().write(&fresh(9), now()).unwrap();
    let before = fs::read(place.path()).unwrap();
    // The history was replaced: the newest state is of a lower revision.
    place.writer().write(&fresh(2), now()).unwrap();
    assert_eq!(place.revision(), 2);
    fs::write(place.path(), before).unwrap();
    assert!(matches!(place.load(), Err(Refusal::Rewound { .. })));
}

#[test]
fn age_counts_from_the_last_proof_and_is_bounded() {
    let place = Place::new();
    let mut writer = place.writer();
    let written = now() - 3 * DAY;
    writer.write(&fresh_at(3, written), written).unwrap();
    let refusal = place.refusal();
    assert!(
        refusal.contains("3days") && refusal.contains("max_state_age"),
        "{refusal}"
    );
    let proven = now() - Duration::from_secs(60);
    writer.prove(&fresh_at(3, proven)).unwrap();
    let kept = place.load().unwrap();
    assert_eq!((kept.written_at, kept.proven_at), (written, proven));
}

#[test]
fn a_state_from_the_future_is_refused_unless_it_is_near() {
    let place = Place::new();
    let ahead = |seconds| now() + Duration::from_secs(seconds);
    place
        .writer()
        .write(&fresh_at(3, ahead(60)), ahead(60))
        .unwrap();
    assert_eq!(place.revision(), 3);
    place
        .writer()
        .write(&fresh_at(4, ahead(3_600)), ahead(3_600))
        .unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("1h in the future"), "{refusal}");
}

#[test]
fn a_process_may_die_at_any_moment_of_writing() {
    let place = Place::new();
    let mut writer = place.writer();
    writer.write(&fresh(3), now()).unwrap();
    let (state, mark) = (place.path(), place.file().mark_path());
    let before = (fs::read(&state).unwrap(), fs::read(&mark).unwrap());
    writer.write(&fresh(4), now()).unwrap();
    let after = (fs::read(&state).unwrap(), fs::read(&mark).unwrap());
    drop(writer);
    let half = &after.0[..after.0.len() / 2];
    // While the new state is written; before, and after it is renamed; while its mark is; and after all.
    let moments = [
        (&before.0, &before.1, half, 3),
        (&before.0, &before.1, &after.0[..], 3),
        (&after.0, &before.1, &[][..], 4),
        (&after.0, &before.1, &after.1[..10], 4),
        (&after.0, &after.1, &[][..], 4),
    ];
    for (there, marked, left, revision) in moments {
        fs::write(&state, there).unwrap();
        fs::write(&mark, marked).unwrap();
        for left_at in [&state, &mark] {
            fs::write(super::beside(left_at, ".tmp"), left).unwrap();
        }
        assert_eq!(place.revision(), revision);
        // The next process goes on from there.
        place.writer().write(&fresh(5), now()).unwrap();
        assert_eq!(place.revision(), 5);
    }
    // The very first state: its mark is there before it.
    fs::remove_file(&state).unwrap();
    fs::write(&mark, &before.1).unwrap();
    assert!(place.load().unwrap_err().is_missing());
}

#[test]
fn two_processes_do_not_write_one_file_and_the_second_takes_over() {
    let place = Place::new();
    let (mut one, mut two) = (place.writer(), place.writer());
    one.write(&fresh(3), now()).unwrap();
    let problem = two.write(&fresh(4), now()).unwrap_err();
    assert!(problem.contains("another process"), "{problem}");
    assert_eq!(place.revision(), 3);
    drop(one);
    two.write(&fresh(4), now()).unwrap();
    assert_eq!(place.revision(), 4);
}

#[test]
fn what_cannot_be_written_leaves_what_is_there() {
    let place = Place::new();
    let mut writer = place.writer();
    writer.write(&fresh(3), now()).unwrap();
    // A directory where the new file would be written: it cannot be made, by root neither.
    let blocked = super::beside(&place.path(), ".tmp");
    fs::create_dir(&blocked).unwrap();
    assert!(writer.write(&fresh(4), now()).is_err());
    assert_eq!(place.revision(), 3);
    fs::remove_dir(&blocked).unwrap();
    writer.write(&fresh(4), now()).unwrap();
    assert_eq!(place.revision(), 4);
    let nowhere = StateFile::new(&place.0.join("none/state"), STORE.to_owned(), DAY);
    let problem = Writer::new(nowhere).write(&fresh(4), now()).unwrap_err();
    assert!(problem.contains("none/state"), "{problem}");
}
