//! Histories that are lost: a backup is brought back, or a standby takes over that had not got everything.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::database::{Standby, head, truth};
use super::faults::{Course, Fault};
use super::history::Event;
use super::storm::Storm;
use crate::support::program;
use crate::support::proxy::Mode;

impl Storm {
    /// Keeps everybody from the database, and waits until nobody is there any more.
    async fn shut_out(&self) {
        let links = self.instances.iter().map(|instance| &instance.proxy);
        for proxy in links.chain(self.proxies.iter().map(|proxy| &**proxy)) {
            proxy.set(Mode::Refuse).await;
            proxy.cut().await;
        }
    }

    async fn let_in(&mut self) {
        let port = self.database.port();
        let links = self.instances.iter().map(|instance| &instance.proxy);
        for proxy in links.chain(self.proxies.iter().map(|proxy| &**proxy)) {
            proxy.lead_to(port);
            proxy.set(Mode::Pass).await;
        }
    }

    /// Takes down the history that is about to be lost, all but what is kept.
    async fn branch(&self, kept_up_to: u64) -> u64 {
        let mut client = self.database.client().await;
        let truth = truth(&mut client).await;
        let lost = truth.head.saturating_sub(kept_up_to);
        self.run.figures().lost_revisions += lost;
        self.run.book.note(Event::Branch { truth, kept_up_to });
        lost
    }

    /// Makes more revisions than were lost, before anybody may look: then only the ids of revisions tell that the past is
    /// another one, not that the head lies behind.
    async fn outrun(&self, lost: u64) {
        let client = self.database.client().await;
        for number in 0..lost + 2 {
            let sql = format!(
                "INSERT INTO sync_config (key, value) VALUES ('outrun', '{number}')
                 ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
            );
            client.batch_execute(&sql).await.unwrap();
        }
    }

    pub(super) async fn restore(&mut self, fault: Fault, told: bool, last: Duration) -> Instant {
        let begun = Course::begin(self, Fault::Restart { immediate: false }, &[]).name;
        self.shut_out().await;
        self.database.nobody_else().await;
        let kept = head(&self.database.client().await).await;
        self.course(begun.clone()).in_effect();
        self.database.back_up();
        self.course(begun.clone()).mending();
        self.let_in().await;
        let healed = self.course(begun).healed();
        self.converge(healed).await;
        sleep(last).await;
        let begun = Course::begin(self, fault, &[]).name;
        self.shut_out().await;
        self.database.nobody_else().await;
        let lost = self.branch(kept).await;
        self.course(begun.clone()).in_effect();
        self.database.restore();
        if told {
            let url = self.database.url();
            let output = program::run(&mut program::program(Some(&url), &["new-epoch"])).await;
            assert!(output.status.success(), "{output:?}");
        } else {
            self.outrun(lost).await;
        }
        self.course(begun.clone()).mending();
        self.let_in().await;
        self.course(begun).healed()
    }

    pub(super) async fn fail_over(&mut self, fault: Fault, last: Duration) -> Instant {
        let begun = Course::begin(self, Fault::Restart { immediate: false }, &[]).name;
        self.shut_out().await;
        self.database.nobody_else().await;
        self.course(begun.clone()).in_effect();
        let standby = self.database.stand_by().await;
        self.course(begun.clone()).mending();
        self.let_in().await;
        let healed = self.course(begun).healed();
        self.converge(healed).await;
        sleep(last).await;
        standby.lose().await;
        let kept = standby.head().await;
        sleep(last).await;
        let begun = Course::begin(self, fault, &[]).name;
        self.shut_out().await;
        self.database.nobody_else().await;
        let lost = self.branch(kept).await;
        self.course(begun.clone()).in_effect();
        self.database.fail_over(standby).await;
        self.outrun(lost).await;
        self.course(begun.clone()).mending();
        self.let_in().await;
        self.course(begun).healed()
    }
}

impl Standby {
    async fn head(&self) -> u64 {
        let client = crate::support::postgres::connect(&self.url()).await;
        head(&client).await
    }
}
