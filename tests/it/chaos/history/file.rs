//! Histories in files of JSON lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{Event, Micros, Record};

/// Writes records of one process to a file, each at once and whole.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: Mutex<File>,
    process: String,
    incarnation: u32,
    wall: Micros,
    begun: Instant,
}

impl Recorder {
    /// Appends to a file. Times are those of the system at this moment plus what a steady clock says has passed since,
    /// so that a clock that is stepped later leads nobody astray.
    #[allow(
        clippy::disallowed_methods,
        reason = "a history is told by a real clock"
    )]
    pub(crate) fn append(path: &Path, process: &str, incarnation: u32) -> io::Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = since.map_err(io::Error::other)?.as_micros();
        Ok(Self {
            file: Mutex::new(OpenOptions::new().create(true).append(true).open(path)?),
            process: process.to_owned(),
            incarnation,
            wall: Micros::try_from(wall).map_err(io::Error::other)?,
            begun: Instant::now(),
        })
    }

    /// The time now.
    pub(crate) fn now(&self) -> Micros {
        let passed = Micros::try_from(self.begun.elapsed().as_micros());
        self.wall.saturating_add(passed.unwrap_or(Micros::MAX))
    }

    /// Writes an event of this recorder's own process, which is over now.
    pub(crate) fn note(&self, event: Event) {
        self.note_of(&self.process, self.incarnation, event);
    }

    /// Writes an event of another process, which is over now. A history with a hole proves nothing, so it panics when
    /// the disk is full.
    pub(crate) fn note_of(&self, process: &str, incarnation: u32, event: Event) {
        let mut file = self.file.lock().unwrap();
        let record = Record {
            process: process.to_owned(),
            incarnation,
            at: self.now(),
            event,
        };
        let mut line = serde_json::to_string(&record).unwrap();
        line.push('\n');
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Reads all `*.jsonl` of a directory, file after file. The last line of a file may be torn by a kill, and is dropped then.
pub(crate) fn read(directory: &Path) -> io::Result<Vec<Record>> {
    let mut paths: Vec<_> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|name| name == "jsonl"));
    paths.sort();
    let mut records = Vec::new();
    for path in paths {
        let mut file = BufReader::new(File::open(&path)?);
        let (mut line, mut number) = (String::new(), 0);
        while file.read_line(&mut line)? > 0 {
            number += 1;
            match serde_json::from_str(&line) {
                Ok(record) => records.push(record),
                Err(_) if !line.ends_with('\n') => {}
                Err(error) => {
                    let place = format!("{}:{number}: {error}", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, place));
                }
            }
            line.clear();
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Outcome, Place, Repairs, Status, Told};
    use super::*;

    #[test]
    fn records_are_read_back_and_a_torn_last_line_is_dropped() {
        let name = format!("sync-config-history-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("one.jsonl");
        let recorder = Recorder::append(&file, "i1", 2).unwrap();
        let place = Place {
            epoch: "e".to_owned(),
            revision: 7,
            rid: None,
        };
        let events = [
            Event::Started,
            Event::Applied {
                place: place.clone(),
                checksum: "00000000".to_owned(),
            },
            Event::Delivered {
                subscriber: "s".to_owned(),
                place: place.clone(),
                told: Told::Changed(vec![Change {
                    key: "k".to_owned(),
                    old: None,
                    new: Some("null".to_owned()),
                }]),
            },
            Event::Returned {
                operation: "o".to_owned(),
                outcome: Outcome::Applied {
                    place,
                    changed: true,
                    visible: true,
                    replayed: false,
                },
            },
            Event::Status(Status {
                mode: "push".to_owned(),
                ready: true,
                stale: false,
                place: None,
                checksum: None,
                proven_ago: Some(5),
                took: 0,
                repairs: Repairs::default(),
            }),
        ];
        for event in &events {
            recorder.note(event.clone());
        }
        let mut torn = OpenOptions::new().append(true).open(&file).unwrap();
        torn.write_all(b"{\"process\":\"i1\",\"incarn").unwrap();
        let records = read(&directory).unwrap();
        let read: Vec<_> = records.iter().map(|record| record.event.clone()).collect();
        assert_eq!(read, events);
        assert!(
            records
                .iter()
                .all(|record| record.process == "i1" && record.incarnation == 2)
        );
        assert!(records.is_sorted_by_key(|record| record.at));
        torn.write_all(b"\n").unwrap();
        assert!(super::read(&directory).is_err(), "a broken line within");
        fs::remove_dir_all(&directory).unwrap();
    }
}
