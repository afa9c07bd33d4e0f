//! How many connections the process has file descriptors for.
//!
//! Guarantees: clients cannot take those that the database's connections and the state file need.

/// What stays free beside the clients' connections: the pool, the listening session, attempts of both, files. More than a pool of
/// the usual size takes several times over.
#[cfg(unix)]
const RESERVED: u64 = 128;

/// So many connections of those wanted. On Unix the process's soft limit is raised to its hard one for them first: the soft one
/// is 1,024 almost everywhere for the sake of programs that still use select(2).
#[cfg(unix)]
pub(super) fn connections(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let had = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: had.maximum,
        maximum: had.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    // None is no limit.
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return wanted;
    };
    let within = within(wanted, limit);
    if within < wanted {
        tracing::warn!(
            connections = within,
            limit,
            "the limit of open files allows fewer connections than {wanted}; raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    within
}

#[cfg(not(unix))]
pub(super) fn connections(wanted: usize) -> usize {
    wanted
}

/// What a limit leaves; where it is small, a half of it.
#[cfg(unix)]
fn within(wanted: usize, limit: u64) -> usize {
    let left = limit.saturating_sub(RESERVED).max(limit / 2).max(1);
    usize::try_from(left).map_or(wanted, |left| left.min(wanted))
}

#[cfg(all(test, unix))]
mod tests {
    use super::within;

    #[test]
    fn clients_are_left_what_the_database_does_not_need() {
        for (limit, connections) in [
            (0, 1),
            (64, 32),
            (256, 128),
            (1_024, 896),
            (2_127, 1_999),
            (2_128, 2_000),
            (u64::MAX, 2_000),
        ] {
            assert_eq!(within(2_000, limit), connections, "{limit}");
        }
    }
}
