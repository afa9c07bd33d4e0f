//! Faults of processes, and of what lies in their memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::{Course, Fault};
use crate::chaos::instance::{Instance, Kind};
use crate::chaos::storm::Storm;
use crate::chaos::{database, writers};
use crate::support::wait::{PATIENCE, eventually};

/// Revisions that come while a subscriber is blocked: its queue takes 1,024.
const FLOOD: u64 = 1_100;

impl Storm {
    pub(super) async fn kill(
        &self,
        fault: Fault,
        those: &[Arc<Instance>],
        last: Duration,
    ) -> Instant {
        let course = Course::begin(self, fault, &those.iter().collect::<Vec<_>>());
        for instance in those {
            instance.kill().await;
            self.run.figures().killed += 1;
        }
        course.in_effect();
        sleep(last).await;
        course.mending();
        for instance in those {
            instance.start().await;
        }
        course.healed()
    }

    pub(super) async fn stop(&self, fault: Fault, one: &Arc<Instance>, last: Duration) -> Instant {
        let course = Course::begin(self, fault, &[one]);
        one.freeze(true).await;
        course.in_effect();
        sleep(last).await;
        course.mending();
        one.freeze(false).await;
        // What it was asked meanwhile is answered late; after that it is itself again.
        let _late = one.ask_status().await;
        course.healed()
    }

    pub(super) async fn step_clock(&mut self, fault: Fault) -> Instant {
        let one = self.one_of(|one| one.kind == Kind::Agent);
        let hours = i64::try_from(self.dice.roll(49)).unwrap() - 24;
        let course = Course::begin(self, fault, &[&one]);
        let order = json!({ "do": "stepClock", "micros": hours * 3_600_000_000 + 1_000_000 });
        assert!(one.ask(order, PATIENCE).await.is_some(), "{}", one.name);
        course.in_effect();
        course.mending();
        course.healed()
    }

    /// One instance shows what was never written, until a heartbeat finds it.
    pub(super) async fn falsify(&mut self, fault: Fault) -> Instant {
        let one = self.one_of(|one| one.kind == Kind::Agent);
        let key = writers::key(&mut self.dice);
        let course = Course::begin(self, fault, &[&one]);
        let order = json!({ "do": "falsify", "key": key, "text": "\"never written\"" });
        let told = one.ask(order, PATIENCE).await.expect("an answer");
        assert!(told["error"].is_null(), "{told}");
        course.in_effect();
        course.mending();
        eventually("the falsified copy is repaired", PATIENCE, async || {
            // Two looks at different revisions say nothing; nor does a key that somebody has written meanwhile.
            let text = one.ask_text(&key).await;
            (text.as_deref() != Some("\"never written\"")).then_some(())
        })
        .await;
        course.healed()
    }

    /// One subscriber's callback does not come back while more revisions come than its queue takes. That excuses nobody: the
    /// instance and all others go on, and this one is told that it lagged.
    pub(super) async fn slow_subscriber(&mut self, fault: Fault) -> Instant {
        self.run.figures().count(fault.name());
        let one = self.one_of(|one| one.kind == Kind::Agent);
        let subscriber = format!("slow{}", self.run.number());
        let filter = json!("all");
        one.order(&json!({ "do": "subscribe", "subscriber": subscriber, "filter": filter, "state": true }));
        let hold = json!({ "do": "hold", "subscriber": subscriber });
        assert!(one.ask(hold, PATIENCE).await.is_some(), "{}", one.name);
        self.flood().await;
        self.converge(Instant::now()).await;
        let free = json!({ "do": "free", "subscriber": subscriber });
        assert!(one.ask(free, PATIENCE).await.is_some(), "{}", one.name);
        let newest = database::head(&self.database.client().await).await;
        eventually(
            "the slow subscriber is told of what it missed",
            PATIENCE,
            async || {
                let heard = one.heard(&subscriber);
                let there = heard.as_ref().is_some_and(|heard| heard.revision >= newest);
                if there {
                    Ok(())
                } else {
                    Err(format!("{heard:?}, not {newest}"))
                }
            },
        )
        .await;
        one.order(&json!({ "do": "unsubscribe", "subscriber": subscriber }));
        Instant::now()
    }

    /// Makes many revisions in a short time.
    async fn flood(&self) {
        let client = self.database.client().await;
        let flood = format!(
            "DO $$ BEGIN FOR number IN 1..{FLOOD} LOOP
                 INSERT INTO sync_config (key, value)
                 VALUES ('flood:' || number % 7, to_jsonb(number || ' ' || clock_timestamp()))
                 ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value;
                 COMMIT;
             END LOOP; END $$"
        );
        let wanted = database::head(&client).await + FLOOD;
        // Somebody may keep the head for longer than a writer waits.
        while database::head(&client).await < wanted {
            if let Err(error) = client.batch_execute(&flood).await {
                eprintln!("chaos: the flood goes on after {error}");
            }
        }
    }
}
