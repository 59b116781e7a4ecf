//! docker-compose.yml, the files that it mounts and `config/` say the same. No Docker needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use trunkline::config::{self, Config};
use trunkline::observe::{ProcessCounters, ProcessSample, Scrape, render};

const PROXY: &str = "trunkline";
const SCHEMA: &str = "./sql/demo/schema.sql:/docker-entrypoint-initdb.d/schema.sql:ro";

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Service {
    image: String,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    volumes: Vec<String>,
    ports: Vec<String>,
}

#[derive(Deserialize)]
struct Prometheus {
    scrape_configs: Vec<ScrapeConfig>,
}

#[derive(Deserialize)]
struct ScrapeConfig {
    metrics_path: String,
    static_configs: Vec<StaticConfig>,
}

#[derive(Deserialize)]
struct StaticConfig {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct DataSources {
    datasources: Vec<DataSource>,
}

#[derive(Deserialize)]
struct DataSource {
    uid: String,
    url: String,
}

#[derive(Deserialize)]
struct Dashboard {
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
struct Panel {
    title: String,
    datasource: PanelSource,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct PanelSource {
    uid: String,
}

#[derive(Deserialize)]
struct Target {
    expr: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A YAML or JSON file: the second is a part of the first.
fn parsed<T: DeserializeOwned>(path: &str) -> T {
    serde_saphyr::from_str(&text_of(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn compose() -> Compose {
    parsed("docker-compose.yml")
}

/// The proxy's configuration, found as its container finds it: by its command line and what is mounted.
fn config_of(proxy: &Service) -> Config {
    let flag = proxy.command.iter().position(|word| word == "-c").expect("a configuration in the command");
    let inside = &proxy.command[flag + 1];
    let mounted = proxy.volumes.iter().find_map(|volume| volume.strip_suffix(&format!(":{inside}:ro")));
    let path = root().join(mounted.expect("the configuration is mounted"));
    config::load(&path).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

#[test]
fn every_shard_is_a_service_with_its_database() {
    let compose = compose();
    let config = config_of(&compose.services[PROXY]);
    let mut used = BTreeSet::new();
    for (name, database) in &config.databases {
        for shard in &database.topology.shards {
            for node in &shard.nodes {
                let service = compose.services.get(&node.host).unwrap_or_else(|| panic!("no service {}", node.host));
                assert!(service.image.starts_with("postgres:"), "{}", service.image);
                assert_eq!(node.port, 5432, "containers reach each other on the port inside");
                assert_eq!(service.environment["POSTGRES_DB"], shard.dbname, "{name}");
                assert_eq!(service.environment["POSTGRES_USER"], database.control.user);
                assert_eq!(Some(&service.environment["POSTGRES_PASSWORD"]), database.control.password.as_ref());
                assert!(service.volumes.iter().any(|volume| volume == SCHEMA), "{:?}", service.volumes);
                assert!(service.command.iter().any(|word| word.starts_with("max_prepared_transactions=")));
                used.insert(node.host.clone());
            }
        }
    }
    let servers = compose.services.iter().filter(|(_, service)| service.image.starts_with("postgres:"));
    assert_eq!(servers.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), used, "no server is idle");
}

#[test]
fn users_log_in_to_the_servers_as_the_servers_expect() {
    let compose = compose();
    let config = config_of(&compose.services[PROXY]);
    let environment = &compose.services["americas"].environment;
    let app = &config.auth.users["app"];
    assert_eq!(app.backend_user.as_ref(), environment.get("POSTGRES_USER"));
    assert_eq!(app.backend_password.as_ref(), environment.get("POSTGRES_PASSWORD"));
}

#[test]
fn every_mounted_file_exists() {
    for (name, service) in &compose().services {
        for volume in &service.volumes {
            let source = volume.split(':').next().expect("a path");
            assert!(root().join(source).exists(), "service {name} mounts {source}");
        }
    }
}

#[test]
fn ports_of_the_proxy_are_published_on_loopback() {
    let compose = compose();
    let proxy = &compose.services[PROXY];
    let config = config_of(proxy);
    let listened: BTreeSet<_> =
        config.server.listen.iter().chain([&config.admin.listen]).map(|a| format!("127.0.0.1:{0}:{0}", a.port())).collect();
    assert_eq!(proxy.ports.iter().cloned().collect::<BTreeSet<_>>(), listened);
    let all = compose.services.values().flat_map(|service| &service.ports);
    assert!(all.clone().all(|port| port.starts_with("127.0.0.1:")), "{:?}", all.collect::<Vec<_>>());
    assert!(config.server.listen.iter().chain([&config.admin.listen]).all(|a| a.ip().is_unspecified()));
}

#[test]
fn image_holds_what_the_service_runs() {
    let dockerfile = text_of("Dockerfile");
    let command = &compose().services[PROXY].command;
    let words: Vec<_> = command.iter().map(|word| format!("\"{word}\"")).collect();
    assert!(dockerfile.contains(&format!("CMD [{}]", words.join(", "))), "{command:?}");
}

#[test]
fn prometheus_scrapes_the_admin_port() {
    let compose = compose();
    let config = config_of(&compose.services[PROXY]);
    let prometheus: Prometheus = parsed("config/prometheus/prometheus.yml");
    let targets: Vec<_> = prometheus.scrape_configs.iter().flat_map(|job| &job.static_configs).flat_map(|c| &c.targets).collect();
    assert_eq!(targets, [&format!("{PROXY}:{}", config.admin.listen.port())]);
    assert!(prometheus.scrape_configs.iter().all(|job| job.metrics_path == "/metrics"));
    let sources: DataSources = parsed("config/grafana/provisioning/datasources/prometheus.yml");
    assert_eq!(sources.datasources[0].url, "http://prometheus:9090");
    assert!(compose.services["prometheus"].ports.contains(&"127.0.0.1:9090:9090".to_owned()));
}

/// The names of all families on an empty page of metrics, and of the series that a histogram makes.
fn known_metrics() -> BTreeSet<String> {
    let counters = ProcessCounters::default();
    let process = ProcessSample { version: "0", started_at_seconds: 0.0, counters: &counters };
    let page = render(&Scrape { process, databases: &[], pools: &[], nodes: &[] });
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    families
        .filter_map(|line| line.split_once(' '))
        .flat_map(|(name, kind)| match kind {
            "histogram" => ["_bucket", "_sum", "_count"].iter().map(|end| format!("{name}{end}")).collect(),
            _ => vec![name.to_owned()],
        })
        .collect()
}

#[test]
fn dashboards_use_known_metrics_and_the_provisioned_source() {
    let known = known_metrics();
    let sources: DataSources = parsed("config/grafana/provisioning/datasources/prometheus.yml");
    let entries = fs::read_dir(root().join("config/grafana/dashboards")).expect("the directory");
    let files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let relative = file.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        let dashboard: Dashboard = parsed(&relative);
        for panel in &dashboard.panels {
            assert_eq!(panel.datasource.uid, sources.datasources[0].uid, "{}", panel.title);
            assert!(!panel.targets.is_empty(), "{}", panel.title);
            for word in panel.targets.iter().flat_map(|target| target.expr.split(|c: char| !c.is_alphanumeric() && c != '_')) {
                assert!(!word.starts_with("trunkline_") || known.contains(word), "{}: {word} is no metric", panel.title);
            }
        }
    }
}

#[test]
fn the_example_and_the_containers_place_tables_alike() {
    let example = config::load(&root().join("config/trunkline.toml")).unwrap_or_else(|faults| panic!("{faults:#?}"));
    let containers = config_of(&compose().services[PROXY]);
    assert_eq!(example.databases["shop"].topology.tables, containers.databases["shop"].topology.tables);
}

#[test]
fn operations_page_knows_every_metric() {
    let page = text_of("docs/operations.md");
    for name in known_metrics() {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        assert!(page.contains(&format!("`{family}`")), "{family} is not in docs/operations.md");
    }
}

#[test]
fn the_unit_for_systemd_says_what_the_program_does() {
    let unit = fs::read_to_string("config/systemd/trunkline.service").unwrap();
    let of = |key: &str| {
        let found = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("the unit has no {key}"))
    };
    assert_eq!(of("Type"), "notify-reload");
    assert_eq!(of("RestartPreventExitStatus"), "64");
    let program = "/usr/local/bin/trunkline";
    assert_eq!(of("ExecStartPre"), format!("{program} check -c /etc/trunkline/trunkline.toml"));
    assert_eq!(of("ExecStart"), format!("{program} run -c /etc/trunkline/trunkline.toml"));
    let stop_seconds: u64 = of("TimeoutStopSec").trim_end_matches('s').parse().unwrap();
    assert!(stop_seconds > config::ServerConfig::default().shutdown_grace.as_secs());
    let n_files: usize = of("LimitNOFILE").parse().unwrap();
    assert!(n_files > 2 * config::ServerConfig::default().max_clients);
}
