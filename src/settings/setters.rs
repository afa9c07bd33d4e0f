//! Settings from code, one setter each.

use std::path::PathBuf;
use std::time::Duration;

use super::Settings;

impl Settings {
    /// Sets the table's name.
    #[must_use]
    pub fn table_name(mut self, name: impl Into<String>) -> Self {
        self.table_name = name.into();
        self
    }

    /// Sets the table's schema.
    #[must_use]
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = Some(name.into());
        self
    }

    /// Sets the NOTIFY channel.
    #[must_use]
    pub fn channel(mut self, name: impl Into<String>) -> Self {
        self.channel = name.into();
        self
    }

    /// Sets the name by which the database knows this instance.
    #[must_use]
    pub fn instance_name(mut self, name: impl Into<String>) -> Self {
        self.instance_name = Some(name.into());
        self
    }

    /// Sets where the last good state is kept. Beside the file stand `.mark` and `.lock` of its name; it holds every value,
    /// and its owner alone may read it.
    #[must_use]
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self
    }

    /// Sets the API key that a server is shown, where the store is that of one.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Sets the file of authorities, in PEM, that a server's certificate may be of; without it the system's are trusted.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Sets how long the server works on one statement of the pool; zero is no limit.
    #[must_use]
    pub fn statement_timeout(mut self, value: Duration) -> Self {
        self.statement_timeout = Some(value);
        self
    }

    /// Sets a direct address for the listening session, for when the database's URL leads to a pooler.
    #[must_use]
    pub fn listen_database_url(mut self, url: impl Into<String>) -> Self {
        self.listen_database_url = Some(url.into());
        self
    }
}

/// A setter that takes the parsed type.
macro_rules! setters {
    ($($name:ident: $type:ty, $about:literal;)*) => {
        impl Settings {
            $(
                #[doc = concat!("Sets ", $about, ".")]
                #[must_use]
                pub fn $name(mut self, value: $type) -> Self {
                    self.$name = value;
                    self
                }
            )*
        }
    };
}

setters! {
    heartbeat_interval: Duration, "how often the checksum is broadcast and the table audited";
    check_interval: Duration, "how often the head is looked at while notices arrive";
    reconnect_interval: Duration, "the longest delay between attempts to reconnect";
    sync_on_mismatch: bool, "whether a mismatch forces a full resync";
    enable_notification: bool, "whether to LISTEN";
    poll_interval: Duration, "how often the head is looked at while notices do not arrive";
    poll_jitter: Duration, "how much is added to the poll interval at most";
    event_retention: Duration, "how long the journal keeps revisions";
    consumer_grace: Duration, "how much longer it keeps those that a named consumer has still to read";
    cleanup_interval: Duration, "how often the journal is trimmed";
    request_timeout: Duration, "how long a write or a resync may take";
    lock_timeout: Duration, "how long a statement waits for a lock; zero is no limit";
    max_connections: usize, "the size of the service's own pool";
    migrate: bool, "whether to create or upgrade the schema at start";
    max_state_age: Duration, "how long ago a kept state may have been proven current";
}
