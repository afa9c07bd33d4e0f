//! The hosts of an address, one by one: tokio-postgres tries them all with one kind of TLS, libpq each with both.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

use super::address;

/// The numbers of the hosts, in the order in which to try them.
pub(super) fn order(config: &Config) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..address::count(config)).collect();
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        let chance = RandomState::new();
        numbers.sort_by_key(|number| chance.hash_one(number));
    }
    numbers
}

/// A configuration for each address of a host. The host's own name stays with it, for certificates.
pub(super) async fn resolve(config: &Config, number: usize) -> Result<Vec<Config>, String> {
    let port = address::port(config, number);
    let host = config.get_hosts().get(number);
    let name = match (host, config.get_hostaddrs().get(number)) {
        #[cfg(unix)]
        (Some(Host::Unix(path)), _) => {
            let mut one = copy(config, true);
            one.host_path(path).port(port);
            return Ok(vec![one]);
        }
        (Some(Host::Tcp(name)), Some(address)) => {
            return Ok(vec![at(config, name, *address, port)]);
        }
        (None, Some(address)) => {
            return Ok(vec![at(config, &address.to_string(), *address, port)]);
        }
        (Some(Host::Tcp(name)), None) => name,
        (None, None) => return Err("the address names no host".to_owned()),
    };
    let found = tokio::net::lookup_host((name.as_str(), port)).await;
    let found = found.map_err(|error| format!("its name is not resolved: {error}"))?;
    let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        let chance = RandomState::new();
        found.sort_by_key(|address| chance.hash_one(address));
    }
    match found.is_empty() {
        true => Err("its name has no address".to_owned()),
        false => Ok(found.iter().map(|ip| at(config, name, *ip, port)).collect()),
    }
}

fn at(config: &Config, name: &str, address: IpAddr, port: u16) -> Config {
    let mut one = copy(config, true);
    one.host(name).hostaddr(address).port(port);
    one
}

/// Everything of a configuration but its hosts and, since neither can be taken out again, perhaps its options.
pub(super) fn copy(config: &Config, options: bool) -> Config {
    let mut one = Config::new();
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(database) = config.get_dbname() {
        one.dbname(database);
    }
    if let (Some(given), true) = (config.get_options(), options) {
        one.options(given);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        one.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding());
    one
}

/// Takes the hosts over.
pub(super) fn hosts(from: &Config, to: &mut Config) {
    for host in from.get_hosts() {
        match host {
            Host::Tcp(name) => to.host(name),
            #[cfg(unix)]
            Host::Unix(path) => to.host_path(path),
        };
    }
    for address in from.get_hostaddrs() {
        to.hostaddr(*address);
    }
    for port in from.get_ports() {
        to.port(*port);
    }
}
