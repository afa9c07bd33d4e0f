//! What is in `deploy/`: parsed, and held against the program that it runs. Nothing is built: there is no engine for that here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::server_metrics::{Exported, metrics};
use crate::support::postgres::TestDb;
use crate::support::program::{Server, program, run};

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{pointer} in {value}"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    let items = value.pointer(pointer).and_then(Value::as_array);
    let items = items.unwrap_or_else(|| panic!("{pointer} in {value}"));
    items
        .iter()
        .map(|item| item.as_str().unwrap_or_else(|| panic!("{item}")))
        .collect()
}

/// Fails unless the program takes these arguments.
async fn takes(args: &[&str]) {
    let mut args = args.to_vec();
    args.push("--help");
    let output = run(&mut program(None, &args)).await;
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Fails unless the program reads a variable: as a setting, or as an argument of `serve`.
async fn knows(variable: &str) {
    if variable.starts_with("SYNC_CONFIG_") {
        let help = run(&mut program(None, &["serve", "--help"])).await;
        let help = String::from_utf8(help.stdout).unwrap();
        let setting = sync_config::SPECS.iter().any(|spec| spec.env == variable);
        assert!(
            setting
                || help.contains(&format!("[env: {variable}="))
                || help.contains(&format!("without it {variable},")),
            "{variable} is not read"
        );
    } else {
        assert_eq!(variable, "DATABASE_URL");
    }
}

/// The instructions of the Dockerfile, each on one line.
fn instructions() -> Vec<(String, String)> {
    let joined = read("deploy/Dockerfile").replace("\\\n", " ");
    let lines = joined
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect()
}

#[tokio::test]
async fn the_image_is_built_in_stages_and_runs_as_nobody_in_particular() {
    let steps = instructions();
    let all = |name: &str| -> Vec<&str> {
        steps
            .iter()
            .filter(|(step, _)| step == name)
            .map(|(_, rest)| rest.as_str())
            .collect()
    };
    let one = |name: &str| -> &str {
        let found = all(name);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0]
    };
    let known = [
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "ENV",
        "EXPOSE",
        "VOLUME",
        "HEALTHCHECK",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
    ];
    assert!(
        steps.iter().all(|(name, _)| known.contains(&name.as_str())),
        "{steps:?}"
    );
    let stages = all("FROM");
    assert!(
        stages.len() == 2 && stages[0].ends_with(" AS build") && !stages[1].contains(" AS "),
        "{stages:?}"
    );
    let build = all("RUN").join(" ");
    assert!(build.contains("cargo build --release --locked --features server --bin sync-config"));
    assert!(read("Cargo.toml").contains("\nserver = ["));
    assert!(all("COPY").contains(&"--from=build /sync-config /usr/local/bin/sync-config"));
    let (user, group) = one("USER").split_once(':').unwrap();
    assert!(user.parse::<u32>().unwrap() > 0 && group.parse::<u32>().unwrap() > 0);
    let json = |text: &str| -> Value {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    assert_eq!(json(one("ENTRYPOINT")), serde_json::json!(["sync-config"]));
    takes(&list(&json(one("CMD")), "")).await;
    for setting in one("ENV").split_whitespace() {
        knows(setting.split_once('=').unwrap().0).await;
    }
    let port = one("EXPOSE");
    assert!(one("ENV").contains(&format!("SYNC_CONFIG_LISTEN=0.0.0.0:{port}")));
    let (_, check) = one("HEALTHCHECK").split_once("CMD ").unwrap();
    assert!(list(&json(check), "")[2].contains(&format!("/dev/tcp/127.0.0.1/{port} ")));
    for ignored in ["target", ".git"] {
        assert!(
            read(".dockerignore").lines().any(|line| line == ignored),
            "{ignored}"
        );
    }
}

/// The image's own check, run here against a server.
#[tokio::test]
async fn the_images_health_check_tells_a_server_that_serves_from_one_that_does_not() {
    let steps = instructions();
    let (_, check) = steps
        .iter()
        .find(|(name, _)| name == "HEALTHCHECK")
        .unwrap();
    let (_, check) = check.split_once("CMD ").unwrap();
    let command: Vec<String> = serde_json::from_str(check).unwrap();
    let healthy = async |address: std::net::SocketAddr| {
        let script = command[2].replace("127.0.0.1/8420", &format!("127.0.0.1/{}", address.port()));
        let mut shell = tokio::process::Command::new(&command[0]);
        run(shell.args([&command[1], &script]))
            .await
            .status
            .success()
    };
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    assert!(healthy(at.address).await);
    let unready = Server::launch(Some("postgres://nobody@127.0.0.1:1/none"), &[], &[]).await;
    assert!(!healthy(unready.address).await);
    assert!(!healthy("127.0.0.1:1".parse().unwrap()).await);
}

#[tokio::test]
async fn compose_starts_a_database_and_two_servers_of_it() {
    let compose = yaml("deploy/compose.yaml");
    let services = compose["services"].as_object().unwrap();
    let declared = compose["volumes"].as_object().unwrap();
    assert_eq!(
        services.keys().collect::<Vec<_>>(),
        ["config-1", "config-2", "postgres"]
    );
    let (mut ports, mut volumes, mut names) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (name, service) in services {
        for volume in list(service, "/volumes") {
            let (volume, _) = volume.split_once(':').unwrap();
            assert!(declared.contains_key(volume), "{volume}");
            assert!(volumes.insert(volume), "{volume} is one server's");
        }
        if name == "postgres" {
            continue;
        }
        assert_eq!(
            text(service, "/depends_on/postgres/condition"),
            "service_healthy"
        );
        assert!(
            std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(text(service, "/build/dockerfile"))
                .exists()
        );
        takes(&list(service, "/command")).await;
        let settings = service["environment"].as_object().unwrap();
        for variable in settings.keys() {
            knows(variable).await;
        }
        let url = settings["DATABASE_URL"].as_str().unwrap();
        assert!(
            url.contains("@postgres:5432/config") && !url.contains(":postgres@"),
            "no password stands here"
        );
        assert!(names.insert(settings["SYNC_CONFIG_INSTANCE_NAME"].as_str().unwrap()));
        for port in list(service, "/ports") {
            assert!(
                port.starts_with("127.0.0.1:") && port.ends_with(":8420"),
                "{port} is plaintext"
            );
            assert!(ports.insert(port), "{port}");
        }
    }
    assert_eq!((ports.len(), names.len()), (2, 2));
    assert!(
        text(&compose, "/services/postgres/environment/POSTGRES_PASSWORD")
            .starts_with("${POSTGRES_PASSWORD:?")
    );
}

#[tokio::test]
async fn the_manifests_of_kubernetes_fit_each_other_the_image_and_the_program() {
    let deployment = yaml("deploy/kubernetes/deployment.yaml");
    let service = yaml("deploy/kubernetes/service.yaml");
    let budget = yaml("deploy/kubernetes/poddisruptionbudget.yaml");
    for (manifest, kind, version) in [
        (&deployment, "Deployment", "apps/v1"),
        (&service, "Service", "v1"),
        (&budget, "PodDisruptionBudget", "policy/v1"),
    ] {
        assert_eq!(
            (text(manifest, "/kind"), text(manifest, "/apiVersion")),
            (kind, version)
        );
        assert_eq!(text(manifest, "/metadata/name"), "sync-config");
    }
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
    let replicas = deployment["spec"]["replicas"].as_u64().unwrap();
    assert!(
        budget["spec"]["minAvailable"].as_u64().unwrap() < replicas,
        "a drain goes on"
    );
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(
        text(container, "/image"),
        concat!("sync-config:", env!("CARGO_PKG_VERSION"))
    );
    takes(&list(container, "/args")).await;
    let mut variables = BTreeMap::new();
    for variable in container["env"].as_array().unwrap() {
        knows(text(variable, "/name")).await;
        variables.insert(text(variable, "/name"), variable);
    }
    let secret = &variables["DATABASE_URL"]["valueFrom"]["secretKeyRef"];
    assert!(
        secret["name"].is_string() && secret["key"].is_string(),
        "no address stands here"
    );
    let document: Value = serde_json::from_str(&read("src/server/openapi.json")).unwrap();
    let port = &container["ports"][0];
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port["name"]);
    for (probe, path) in [
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
        ("startupProbe", "/healthz"),
    ] {
        let get = &container[probe]["httpGet"];
        assert_eq!(
            (&get["path"], &get["port"]),
            (&Value::from(path), &port["name"])
        );
        assert!(document["paths"][path]["get"].is_object(), "{path}");
    }
    let image = instructions();
    let step = |name: &str| {
        image
            .iter()
            .find(|(step, _)| step == name)
            .unwrap()
            .1
            .clone()
    };
    let (user, group) = step("USER")
        .split_once(':')
        .map(|(user, group)| (user.to_owned(), group.to_owned()))
        .unwrap();
    let rights = &pod["securityContext"];
    assert_eq!(
        (
            rights["runAsUser"].to_string(),
            rights["runAsGroup"].to_string()
        ),
        (user, group)
    );
    assert_eq!(rights["runAsNonRoot"], true);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(text(container, "/volumeMounts/0/mountPath"), step("VOLUME"));
    assert_eq!(port["containerPort"].to_string(), step("EXPOSE"));
}

/// The metrics that an expression names, with the labels that it selects them by.
fn named(expression: &str) -> Vec<(String, Vec<String>)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("sync_config_") {
        let rest = &expression[at..];
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let selected = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let labels = selected
            .into_iter()
            .flat_map(|(labels, _)| labels.split(','));
        let labels = labels.map(|label| label.split(['=', '!', '~']).next().unwrap().to_owned());
        found.push((name.to_owned(), labels.collect()));
    }
    found
}

/// Fails unless every metric and label of an expression is exported; answers with the metrics.
fn exist(expression: &str, exported: &BTreeMap<String, Exported>) -> Vec<String> {
    let mut names = Vec::new();
    for (name, labels) in named(expression) {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part));
        let base = base.filter(|base| {
            exported
                .get(*base)
                .is_some_and(|metric| metric.kind == "histogram")
        });
        let base = base.unwrap_or(&name).to_owned();
        let metric = exported
            .get(&base)
            .unwrap_or_else(|| panic!("{name} is not exported: {expression}"));
        for label in labels {
            let added = ["instance", "job", "le"].contains(&label.as_str());
            assert!(
                added || metric.labels.contains(&label),
                "{name} has no label {label}: {expression}"
            );
        }
        names.push(base);
    }
    names
}

#[tokio::test]
async fn alerts_and_dashboard_name_what_is_exported_and_the_dashboard_shows_all_of_it() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    crate::support::http::get(at.address, "/").await;
    let exported = metrics(at.address).await;
    let rules = yaml("deploy/prometheus/alerts.yaml");
    let scraping = yaml("deploy/prometheus/prometheus.yaml");
    let job = text(&scraping, "/scrape_configs/0/job_name");
    assert_eq!(list(&scraping, "/rule_files"), ["alerts.yaml"]);
    let mut alerts = BTreeSet::new();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let (name, expression) = (text(rule, "/alert"), text(rule, "/expr"));
        assert!(alerts.insert(name), "{name}");
        let names = exist(expression, &exported);
        assert!(
            !names.is_empty() || expression == format!("up{{job=\"{job}\"}} == 0"),
            "{expression}"
        );
        assert!(["critical", "warning"].contains(&text(rule, "/labels/severity")));
        assert!(
            !text(rule, "/annotations/summary").is_empty()
                && !text(rule, "/annotations/description").is_empty()
        );
    }
    assert!(alerts.len() >= 12);
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboard.json")).unwrap();
    let (mut shown, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()));
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(
                    x < 24 && taken.insert((x, y)),
                    "{} overlaps",
                    panel["title"]
                );
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            shown.extend(exist(text(target, "/expr"), &exported));
        }
    }
    let all: BTreeSet<String> = exported.into_keys().collect();
    assert_eq!(shown, all);
}
