//! Several services to a file: what pools, services and variables give to each.
//!
//! Guarantees: no two services have the same table, whatever the file and the environment say, and no variable has two
//! meanings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::environment::{Environment, Given, forms, plain_names};
use super::file::Section;
use super::layers::{Layers, Origin};
use super::{SPECS, Settings, Spec, names};
use crate::core::shown;
use crate::error::{Error, Result};

/// What leads to a database.
const ADDRESSES: [&str; 2] = ["database_url", "listen_database_url"];

/// What only the pool of a service says, if it has one.
const POOL_ONLY: [&str; 5] = [
    "database_url",
    "listen_database_url",
    "max_connections",
    "statement_timeout",
    "lock_timeout",
];

/// What a pool may say for its services, which may say otherwise.
const POOL_TOO: [&str; 2] = ["schema", "instance_name"];

/// What tells one service's table from another's: a variable for all would give them the same.
const ONE_SERVICES: [&str; 4] = ["schema", "table_name", "channel", "state_file"];

/// What a file declares, with the environment.
pub(crate) struct Resolved {
    pub(crate) services: BTreeMap<String, ResolvedService>,
    pub(crate) pools: BTreeMap<String, Layers>,
}

pub(crate) struct ResolvedService {
    pub(crate) layers: Layers,
    pub(crate) pool: Option<String>,
}

struct Resolver<'a> {
    path: &'a Path,
    base: Layers,
    environment: &'a Environment,
    /// What the variables without a section give.
    plain: Vec<Given>,
}

pub(super) fn resolve(
    path: &Path,
    pools: &BTreeMap<String, Section>,
    services: &BTreeMap<String, Section>,
    code: &Settings,
    environment: &Environment,
) -> Result<Resolved> {
    check_variables(path, pools, services, environment)?;
    let resolver = Resolver {
        path,
        base: Layers::new(code.clone()),
        environment,
        plain: environment.plain()?,
    };
    resolver.refuse_names_for_all(services)?;
    let mut resolved = Resolved {
        services: BTreeMap::new(),
        pools: BTreeMap::new(),
    };
    for (name, section) in pools {
        resolved
            .pools
            .insert(name.clone(), resolver.pool(name, section)?);
    }
    for (name, section) in services {
        let service = resolver.service(name, section, &resolved.pools)?;
        resolved.services.insert(name.clone(), service);
    }
    resolver.refuse_shared_tables(services, &resolved.services)?;
    Ok(resolved)
}

impl Resolver<'_> {
    fn pool(&self, name: &str, section: &Section) -> Result<Layers> {
        if let Some(entry) = section.entries.iter().find(|entry| !of_pool(entry.name)) {
            let allowed = POOL_ONLY.iter().chain(&POOL_TOO).copied();
            let allowed: Vec<&str> = allowed.collect();
            let problem = format!(
                "{} is no setting of a pool, which takes {}; put it into the services",
                entry.name,
                allowed.join(", ")
            );
            return Err(Error::placed(entry.origin.to_string(), problem));
        }
        let own = self.own(&section_of_pool(name), of_pool)?;
        self.layered(&self.base, section, own, of_pool)
    }

    fn service(
        &self,
        name: &str,
        section: &Section,
        pools: &BTreeMap<String, Layers>,
    ) -> Result<ResolvedService> {
        let Some((pool, origin)) = &section.pool else {
            let own = self.own(name, |_| true)?;
            let layers = self.layered(&self.base, section, own, |_| true)?;
            return Ok(ResolvedService { layers, pool: None });
        };
        let wrong = |origin: &Origin, problem: String| {
            Err(Error::placed(
                origin.to_string(),
                format!("service {name}: {problem}"),
            ))
        };
        let Some(base) = pools.get(pool) else {
            let hint = names::hint(pool, pools.keys().map(String::as_str));
            let pool = names::told(pool);
            return wrong(
                origin,
                format!("dbpool_name: there is no pool \"{pool}\"; {hint}"),
            );
        };
        if let Some(entry) = section.entries.iter().find(|entry| !of_pooled(entry.name)) {
            let problem = format!(
                "{} is its pool's: put it into [pools.{pool}], or leave dbpool_name out",
                entry.name
            );
            return wrong(&entry.origin, problem);
        }
        let own = self.own(name, of_pooled)?;
        let layers = self.layered(base, section, own, of_pooled)?;
        Ok(ResolvedService {
            layers,
            pool: Some(pool.clone()),
        })
    }

    /// What the variables of one section give.
    fn own(&self, section: &str, allowed: fn(&str) -> bool) -> Result<Vec<Given>> {
        let mut own = Vec::new();
        for spec in SPECS.iter().filter(|spec| allowed(spec.name)) {
            own.extend(self.environment.given(spec, variables(section, spec))?);
        }
        Ok(own)
    }

    /// Puts section, plain variables and the section's own variables over a base.
    fn layered(
        &self,
        base: &Layers,
        section: &Section,
        own: Vec<Given>,
        allowed: fn(&str) -> bool,
    ) -> Result<Layers> {
        // An address for all would lead away those that have one of their own.
        let address = ADDRESSES[0];
        let addressed = section.holds(address) || own.iter().any(|given| given.name == address);
        let for_all =
            |given: &&Given| allowed(given.name) && !(addressed && ADDRESSES.contains(&given.name));
        let plain: Vec<Given> = self.plain.iter().filter(for_all).cloned().collect();
        let stronger: Vec<Given> = plain.into_iter().chain(own).collect();
        let layers = base.clone().all(section.given(&stronger)?)?.all(stronger)?;
        layers.check()?;
        Ok(layers)
    }

    fn refuse_names_for_all(&self, services: &BTreeMap<String, Section>) -> Result<()> {
        let names_one = |given: &&Given| ONE_SERVICES.contains(&given.name);
        let (Some(given), Some(first)) =
            (self.plain.iter().find(names_one), services.keys().next())
        else {
            return Ok(());
        };
        let own = names::variable(first, given.name);
        let path = self.path.display();
        let problem = format!(
            "would give every service of {path} the same {}; set {own} and the like",
            given.name
        );
        Err(Error::placed(given.origin.to_string(), problem))
    }

    fn refuse_shared_tables(
        &self,
        sections: &BTreeMap<String, Section>,
        services: &BTreeMap<String, ResolvedService>,
    ) -> Result<()> {
        let mut tables = BTreeMap::new();
        for (name, service) in services {
            let settings = service.layers.settings();
            let schema = settings.schema.as_deref();
            let table = (
                settings.database_url.as_deref(),
                schema,
                settings.table_name.as_str(),
            );
            let Some(other) = tables.insert(table, name) else {
                continue;
            };
            let table = shown(&settings.table_name);
            let problem = format!(
                "services {other} and {name} have the same table {table}; give each a table_name or a schema of its own, or let them be one"
            );
            let line = sections.get(name).map_or(1, |section| section.line);
            let path = self.path.to_owned();
            return Err(Error::placed(
                Origin::File { path, line }.to_string(),
                problem,
            ));
        }
        Ok(())
    }
}

fn of_pool(name: &str) -> bool {
    POOL_ONLY.contains(&name) || POOL_TOO.contains(&name)
}

fn of_pooled(name: &str) -> bool {
    !POOL_ONLY.contains(&name)
}

fn section_of_pool(name: &str) -> String {
    format!("pool-{name}")
}

fn variables(section: &str, spec: &Spec) -> impl Iterator<Item = String> {
    names::all_of(spec).map(move |name| names::variable(section, name))
}

/// Refuses variables that nobody reads, and sections whose variables would have the same names.
fn check_variables(
    path: &Path,
    pools: &BTreeMap<String, Section>,
    services: &BTreeMap<String, Section>,
    environment: &Environment,
) -> Result<()> {
    let mut known: BTreeSet<String> = plain_names().into_iter().collect();
    let pools = pools
        .iter()
        .map(|(name, section)| (section_of_pool(name), section, of_pool as fn(&str) -> bool));
    let services = services.iter().map(|(name, section)| {
        let allowed = if section.pool.is_some() {
            of_pooled
        } else {
            |_: &str| true
        };
        (name.clone(), section, allowed as fn(&str) -> bool)
    });
    for (name, section, allowed) in pools.chain(services) {
        for spec in SPECS.iter().filter(|spec| allowed(spec.name)) {
            let forms = variables(&name, spec).flat_map(|variable| forms(spec, variable));
            for (variable, _) in forms {
                if !names::is_of_others(&variable) && known.insert(variable.clone()) {
                    continue;
                }
                let (path, line) = (path.to_owned(), section.line);
                let problem = format!(
                    "the variable {variable} would have two meanings; name this section otherwise"
                );
                return Err(Error::placed(
                    Origin::File { path, line }.to_string(),
                    problem,
                ));
            }
        }
    }
    let known: Vec<String> = known.into_iter().collect();
    environment.refuse_unknown(&known)
}
