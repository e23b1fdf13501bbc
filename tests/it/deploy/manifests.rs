//! The ways to run one or several gateways: a chart whose manifests Kubernetes accepts and that agree
//! with each other, and configurations that the gateway accepts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::{read, root};
use crate::harness::programs::{program, tool};
use crate::harness::*;

const CHART: &str = "deploy/helm/hookstile";
/// The example values of one gateway and of several.
const VARIANTS: [&str; 2] = ["deploy/helm/one.yaml", REPLICAS];
const REPLICAS: &str = "deploy/helm/replicas.yaml";
/// The kinds that a plain cluster has.
const PLAIN_KINDS: [&str; 8] = [
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "Ingress",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
    "StatefulSet",
];
const COMPOSE: &str = "deploy/docker/replicas/compose.yaml";
const COMPOSE_CONFIGURATION: &str = "deploy/docker/replicas/hookstile/hookstile.yaml";
const BALANCER: &str = "deploy/docker/replicas/haproxy.cfg";

const SECRET_OF_SOME_LENGTH: &str = "a-secret-of-some-length";
const URL: &str = "postgres://hookstile:password@db.example.com/hookstile?sslmode=disable";
/// The connections to PostgreSQL that one gateway may open, the usual `max_connections` there, and
/// how many of those are reserved for special roles.
const CONNECTIONS: u64 = 10;
const USUAL_CONNECTIONS: u64 = 100;
const RESERVED_CONNECTIONS: u64 = 3;

/// Parses YAML files with the parser that schemathesis installs; returns `None` without it.
fn parsed(paths: &[String], skipped: &str) -> Option<Vec<Value>> {
    let script = "import json, sys, yaml; print(json.dumps([yaml.safe_load(open(path)) for path in sys.argv[1:]]))";
    let python = python_with("yaml", skipped)?;
    let output = Command::new(python)
        .args(["-c", script])
        .args(paths)
        .current_dir(root())
        .output()
        .expect("it runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// Returns the Python of the tests if it has a module.
fn python_with(module: &str, skipped: &str) -> Option<PathBuf> {
    let python = program("HOOKSTILE_PYTHON", "python3").filter(|python| {
        let probe = Command::new(python)
            .args(["-c", &format!("import {module}")])
            .output();
        probe.is_ok_and(|output| output.status.success())
    });
    tool(&format!("HOOKSTILE_PYTHON with {module}"), python, skipped)
}

/// Renders the chart with values, which are files or JSON; a later one wins.
fn rendered(release: &str, values: &[&str]) -> Option<Result<Variant, String>> {
    let python = python_with("helm_python", "the Helm chart")?;
    let output = Command::new(python)
        .args(["tests/it/deploy/helm-template.py", CHART, release])
        .args(values)
        .current_dir(root())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{values:?}: {text}");
    let mut found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    if let Some(error) = found["error"].as_str() {
        return Some(Err(error.to_owned()));
    }
    let Value::Array(manifests) = found["manifests"].take() else {
        panic!("{found}")
    };
    Some(Ok(Variant {
        manifests,
        notes: found["notes"].as_str().expect("notes").to_owned(),
    }))
}

#[test]
fn chart_uses_known_kubernetes_fields() {
    let script = program("HOOKSTILE_PYTHON", "python3")
        .map(|python| python.with_file_name("kubernetes-validate"));
    let script = script.filter(|path| path.is_file());
    let Some(validate) = tool(
        "kubernetes-validate beside HOOKSTILE_PYTHON",
        script,
        "the manifests against schemas",
    ) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut all = Vec::new();
    for values in VARIANTS {
        let Some(variant) = Variant::render(values) else {
            return;
        };
        // The schemas are those of a plain cluster.
        for manifest in variant.manifests {
            if PLAIN_KINDS.contains(&manifest["kind"].as_str().expect("a kind")) {
                let file = folder.path().join(format!("{}.yaml", all.len()));
                std::fs::write(&file, manifest.to_string()).expect("a writable folder");
                all.push(file);
            }
        }
    }
    let output = Command::new(validate)
        .arg("--strict")
        .args(&all)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let passed = text
        .lines()
        .filter(|line| line.contains(" passed for resource "))
        .count();
    assert!(output.status.success() && passed == all.len(), "{text}");
}

/// What the chart renders with some values.
struct Variant {
    manifests: Vec<Value>,
    notes: String,
}

impl Variant {
    fn render(values: &str) -> Option<Self> {
        let rendered = rendered("hookstile", &[values])?;
        Some(rendered.unwrap_or_else(|error| panic!("{values}: {error}")))
    }

    fn all(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.manifests
            .iter()
            .filter(move |document| document["kind"] == kind)
    }

    fn one(&self, kind: &str) -> &Value {
        self.all(kind).next().unwrap_or_else(|| panic!("no {kind}"))
    }

    fn workload(&self) -> &Value {
        let found = self
            .manifests
            .iter()
            .find(|document| !document["spec"]["template"].is_null());
        found.expect("a StatefulSet or a Deployment")
    }

    fn container(&self) -> &Value {
        &self.workload()["spec"]["template"]["spec"]["containers"][0]
    }

    fn configuration(&self) -> &str {
        self.one("ConfigMap")["data"]["hookstile.yaml"]
            .as_str()
            .expect("the configuration")
    }

    /// Returns the paths of the mounted keys of Secrets.
    fn secret_files(&self) -> BTreeSet<String> {
        let pod = &self.workload()["spec"]["template"]["spec"];
        let folder = pod["containers"][0]["volumeMounts"]
            .as_array()
            .expect("mounts")
            .iter()
            .find(|mount| mount["name"] == "secrets")
            .and_then(|mount| mount["mountPath"].as_str())
            .expect("a folder");
        let volumes = pod["volumes"].as_array().expect("volumes").iter();
        let sources = volumes.filter_map(|volume| volume["projected"]["sources"].as_array());
        let secrets = sources.flatten().map(|source| &source["secret"]);
        secrets
            .map(|secret| {
                let (item, name) = (&secret["items"][0], &secret["name"]);
                let [name, key, path] =
                    [name, &item["key"], &item["path"]].map(|text| text.as_str().expect("a text"));
                assert_eq!(path, format!("{name}/{key}"));
                format!("{folder}/{path}")
            })
            .collect()
    }
}

/// Returns the text after each occurrence of a mark, up to one of the characters that end it.
fn text_after<'a>(text: &'a str, mark: &'a str, ends: &'a [char]) -> impl Iterator<Item = &'a str> {
    text.split(mark)
        .skip(1)
        .map(move |rest| rest.split(ends).next().expect("a part"))
}

#[test]
fn chart_agrees_with_itself() {
    for folder in VARIANTS {
        let Some(variant) = Variant::render(folder) else {
            return;
        };
        let (workload, container) = (variant.workload(), variant.container());
        let pod = &workload["spec"]["template"];
        let labels = pod["metadata"]["labels"].as_object().expect("labels");
        let chosen = [
            &workload["spec"]["selector"]["matchLabels"],
            &variant.one("Service")["spec"]["selector"],
            &variant.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            &variant.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        ];
        let monitors = variant.all("PodMonitor");
        let monitors = monitors.map(|monitor| &monitor["spec"]["selector"]["matchLabels"]);
        for selector in chosen.into_iter().chain(monitors) {
            let selector = selector.as_object().expect("a selector");
            assert!(
                selector
                    .iter()
                    .all(|(name, value)| labels.get(name) == Some(value)),
                "{folder}: {selector:?}"
            );
        }

        let ports = container["ports"].as_array().expect("ports");
        let names: BTreeSet<_> = ports
            .iter()
            .map(|port| port["name"].as_str().expect("a name"))
            .collect();
        let probes = ["startupProbe", "livenessProbe", "readinessProbe"]
            .map(|probe| &container[probe]["httpGet"]["port"]);
        let rules = variant.one("NetworkPolicy")["spec"]["ingress"]
            .as_array()
            .expect("rules");
        let monitors = variant.all("PodMonitor");
        let monitors = monitors.map(|monitor| &monitor["spec"]["podMetricsEndpoints"][0]["port"]);
        let others = rules.iter().map(|rule| &rule["ports"][0]["port"]);
        let others = others.chain(monitors);
        let others = others.chain([&variant.one("Service")["spec"]["ports"][0]["targetPort"]]);
        for port in probes.into_iter().chain(others) {
            assert!(
                port.as_str().is_some_and(|port| names.contains(port)),
                "{folder}: {port}"
            );
        }
        let configuration = variant.configuration();
        for port in ports {
            let address = format!("address: 0.0.0.0:{}", port["containerPort"]);
            assert!(configuration.contains(&address), "{folder}: {address}");
        }

        let files = text_after(configuration, "file: ", &['\n']).map(str::to_owned);
        assert_eq!(files.collect::<BTreeSet<_>>(), variant.secret_files());

        // What comes from outside reaches the Service.
        let service = variant.one("Service");
        let (name, port) = (&service["metadata"]["name"], &service["spec"]["ports"][0]);
        for ingress in variant.all("Ingress") {
            let to = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
            assert_eq!((&to["name"], &to["port"]["name"]), (name, &port["name"]));
        }
        for route in variant.all("HTTPRoute") {
            let to = &route["spec"]["rules"][0]["backendRefs"][0];
            assert_eq!((&to["name"], &to["port"]), (name, &port["port"]));
        }
    }
}

/// `helm upgrade` replaces what it rendered before: a Secret among it would overwrite the real one.
#[test]
fn chart_renders_no_secret() {
    for values in VARIANTS {
        let off = r#"{"podMonitor": {"enabled": false}, "httpRoute": {"enabled": false}}"#;
        let Some(variant) = rendered("hookstile", &[values, off]) else {
            return;
        };
        for manifest in variant.expect("valid values").manifests {
            let kind = manifest["kind"].as_str().expect("a kind");
            assert!(PLAIN_KINDS.contains(&kind), "{values}: {kind}");
        }
    }
}

#[test]
fn chart_refuses_what_cannot_work() {
    let cases = [
        (
            r#"{"config": {"routes": []}}"#,
            "config.routes: name at least one",
        ),
        (r#"{"replicas": 2}"#, "need config.store.postgres"),
        (
            r#"{"autoscaling": {"enabled": true}}"#,
            "need config.store.postgres",
        ),
        (
            r#"{"config": {"trusted_proxies": []}}"#,
            "config.trusted_proxies: name",
        ),
        (
            r#"{"podMonitor": {"enabled": true}}"#,
            "networkPolicy.adminFrom: name Prometheus",
        ),
        (
            r#"{"config": {"admin": {"token": {"value": "secret"}}}}"#,
            "`secretKeyRef: {name, key}`",
        ),
        (r#"{"replica": 2}"#, "'replica' not allowed"),
    ];
    for (values, expected) in cases {
        let Some(rendered) = rendered("hookstile", &[VARIANTS[0], values]) else {
            return;
        };
        let error = rendered
            .err()
            .unwrap_or_else(|| panic!("{values} is accepted"));
        assert!(error.contains(expected), "{values}: {error}");
    }
}

/// The alert rules look at jobs named hookstile…, and count the gateways of one as replicas.
#[test]
fn every_release_has_its_scrape_job() {
    for (release, job) in [
        ("hookstile", "hookstile"),
        ("hookstile-eu", "hookstile-eu"),
        ("eu", "hookstile-eu"),
    ] {
        let Some(variant) = rendered(release, &[REPLICAS]) else {
            return;
        };
        let variant = variant.expect("valid values");
        let endpoint = &variant.one("PodMonitor")["spec"]["podMetricsEndpoints"][0];
        assert_eq!(endpoint["relabelings"][0]["replacement"], job, "{release}");
        let name = variant.workload()["metadata"]["name"].as_str();
        let name = name.expect("a name");
        assert!(variant.notes.contains(&format!("deployment/{name}")));
    }
}

#[test]
fn chart_is_of_this_version() {
    let chart = read(&format!("{CHART}/Chart.yaml"));
    let version = text_after(&chart, "appVersion: ", &['\n']).next();
    assert_eq!(version, Some(env!("CARGO_PKG_VERSION")));
    assert!(chart.contains(concat!("\nhome: ", env!("CARGO_PKG_REPOSITORY"), "\n")));
}

/// While one replica is replaced, the others keep serving, and as many as the autoscaler adds find
/// free connections to PostgreSQL.
#[test]
fn rolling_update_leaves_connections() {
    let Some(variant) = Variant::render(REPLICAS) else {
        return;
    };
    let (workload, scaler) = (
        variant.workload(),
        &variant.one("HorizontalPodAutoscaler")["spec"],
    );
    for (here, there) in [
        ("kind", &workload["kind"]),
        ("name", &workload["metadata"]["name"]),
    ] {
        assert_eq!(&scaler["scaleTargetRef"][here], there);
    }
    assert!(
        workload["spec"]["replicas"].is_null(),
        "a fixed count would conflict with the autoscaler"
    );
    let rolling = &workload["spec"]["strategy"]["rollingUpdate"];
    let [surge, least, most] = [
        &rolling["maxSurge"],
        &scaler["minReplicas"],
        &scaler["maxReplicas"],
    ]
    .map(|n| n.as_u64().expect("a number"));
    assert_eq!(rolling["maxUnavailable"], 0);
    assert!(
        (most + surge) * CONNECTIONS <= USUAL_CONNECTIONS - RESERVED_CONNECTIONS,
        "{most} and {surge}"
    );
    let budget = &variant.one("PodDisruptionBudget")["spec"]["maxUnavailable"];
    assert!(
        budget
            .as_u64()
            .is_some_and(|away| away > 0 && away + 2 <= least),
        "{budget} of {least}"
    );
    let template = &workload["spec"]["template"]["spec"];
    let claims = template["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .any(|volume| volume["persistentVolumeClaim"].is_object());
    assert!(
        !claims && workload["spec"]["volumeClaimTemplates"].is_null(),
        "replicas store nothing on disk"
    );
}

#[test]
fn single_and_replicated_pods_differ_in_store_only() {
    let [one, several] = VARIANTS.map(Variant::render);
    let (Some(one), Some(several)) = (one, several) else {
        return;
    };
    for key in [
        "image",
        "args",
        "ports",
        "securityContext",
        "livenessProbe",
        "readinessProbe",
    ] {
        assert_eq!(one.container()[key], several.container()[key], "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_probes_match_gateway_endpoints() {
    let pod = read(&format!("{CHART}/templates/_helpers.tpl"));
    let mut paths: BTreeSet<_> = text_after(&pod, "httpGet: {path: ", &[',']).collect();
    let balancer = read(BALANCER);
    paths.extend(text_after(&balancer, "option httpchk GET ", &['\n']));
    assert_eq!(paths, BTreeSet::from(["/healthz", "/readyz"]));
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for path in paths {
        assert_eq!(gateway.admin_get(path).await.status, 200, "{path}");
    }
}

/// Returns every compose file.
fn compose_files() -> Vec<String> {
    let folder = root().join("deploy/docker");
    let entries = std::fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let files = names.map(|name| format!("deploy/docker/{}/compose.yaml", name.display()));
    let files: Vec<_> = files.filter(|file| root().join(file).exists()).collect();
    assert!(files.len() >= 2, "{files:?}");
    files
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|item| item.as_str().expect("text"))
}

/// `docker compose config` would find a missing file or service, but is not on every machine.
#[test]
fn compose_files_name_what_exists() {
    let files = compose_files();
    let Some(documents) = parsed(&files, "what the compose files name") else {
        return;
    };
    for (file, document) in files.iter().zip(&documents) {
        let folder = file.strip_suffix("compose.yaml").expect("its name");
        let here = |path: &str| root().join(folder).join(path).exists();
        let services = document["services"].as_object().expect("services");
        for (name, service) in services {
            let place = format!("{file}: {name}");
            if let Some(context) = service["build"]["context"].as_str() {
                let dockerfile = service["build"]["dockerfile"].as_str().expect("a name");
                assert!(here(&format!("{context}/{dockerfile}")), "{place}");
            }
            for volume in texts(&service["volumes"]) {
                let source = volume.split(':').next().expect("a source");
                let declared = document["volumes"].get(source).is_some();
                let there = source.starts_with("./") && here(source);
                assert!(declared || there, "{place}: {volume}");
            }
            let needed = &service["depends_on"];
            let named = needed
                .as_object()
                .into_iter()
                .flat_map(|needed| needed.keys());
            for needed in texts(needed).chain(named.map(String::as_str)) {
                assert!(services.contains_key(needed), "{place}: {needed}");
            }
        }

        // The gateway has the variables, ports and folders that its configuration names.
        let gateway = &services["hookstile"];
        let configuration = read(&format!("{folder}hookstile/hookstile.yaml"));
        let used: BTreeSet<_> = text_after(&configuration, "{env: ", &['}', ',']).collect();
        let set = gateway["environment"].as_object().expect("variables");
        assert_eq!(
            set.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            used
        );
        let listens: BTreeSet<_> =
            text_after(&configuration, "address: 0.0.0.0:", &['\n', '}', ',']).collect();
        for port in texts(&gateway["ports"]) {
            let inner = port.rsplit(':').next().expect("a port");
            assert!(listens.contains(inner), "{file}: {port}");
        }
        for path in text_after(&configuration, "store: {path: ", &['}']) {
            let mounted = texts(&gateway["volumes"]).any(|volume| volume.ends_with(path));
            assert!(mounted, "{file}: {path}");
        }
        let read_only = texts(&gateway["volumes"]);
        let mut read_only = read_only.filter(|volume| volume.ends_with(":/etc/hookstile:ro"));
        assert_eq!(read_only.next(), Some("./hookstile:/etc/hookstile:ro"));

        // The page writes every variable of `.env`, and no other.
        let page = read("deploy/README.md");
        let written = page
            .split(&format!("\ncd {}\n", folder.trim_end_matches('/')))
            .nth(1)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_else(|| panic!("deploy/README.md has no commands for {folder}"));
        let written: BTreeSet<_> = written
            .split('"')
            .filter_map(|part| part.split_once('=').map(|(name, _)| name))
            .collect();
        let text = read(file);
        let asked: BTreeSet<_> = text_after(&text, "${", &[':', '}']).collect();
        assert_eq!(written, asked, "{file}");
        for name in asked {
            assert!(
                text.contains(&format!("${{{name}:?")),
                "{file}: {name} is optional"
            );
        }
    }
}

#[test]
fn compose_exposes_only_the_balancer() {
    let Some(documents) = parsed(&[COMPOSE.to_owned()], "how compose.yaml fits the balancer")
    else {
        return;
    };
    let services = documents[0]["services"].as_object().expect("services");
    let doors: Vec<_> = services
        .iter()
        .filter(|(_, service)| !service["ports"].is_null())
        .collect();
    let [(_, balancer)] = doors[..] else {
        panic!("{doors:?}")
    };
    let (configuration, gateways) = (read(BALANCER), read(COMPOSE_CONFIGURATION));
    let listens = text_after(&configuration, "    bind :", &['\n', ' '])
        .next()
        .expect("a bind");
    assert_eq!(
        balancer["ports"][0]
            .as_str()
            .and_then(|port| port.rsplit(':').next()),
        Some(listens)
    );

    let (name, port) = text_after(&configuration, "server-template gateway 10 ", &[' '])
        .next()
        .expect("gateways")
        .split_once(':')
        .expect("a port");
    let check = text_after(&configuration, "default-server check port ", &[' '])
        .next()
        .expect("a check");
    for port in [port, check] {
        assert!(
            gateways.contains(&format!("address: 0.0.0.0:{port}")),
            "{port}"
        );
    }
    let gateway = &services[name];
    assert!(
        gateway["deploy"]["replicas"]
            .as_u64()
            .is_some_and(|replicas| (2..=10).contains(&replicas))
    );
    let connections = services["postgres"]["command"][2]
        .as_str()
        .and_then(|set| set.strip_prefix("max_connections="));
    let connections = connections
        .and_then(|number| number.parse::<u64>().ok())
        .expect("a number");
    assert!(
        10 * CONNECTIONS + RESERVED_CONNECTIONS <= connections,
        "{connections}"
    );
    let trusted = balancer["networks"]["default"]["ipv4_address"]
        .as_str()
        .expect("an address");
    assert!(
        gateways.contains(&format!("trusted_proxies: [{trusted}/32]")),
        "{trusted}"
    );
    for name in text_after(&gateways, "{env: ", &['}', ',']) {
        let value = gateway["environment"][name]
            .as_str()
            .unwrap_or_else(|| panic!("{name}"));
        assert!(
            value.contains(":?"),
            "{name} must be required, but is {value}"
        );
    }
}

#[test]
fn shipped_configurations_are_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut all = vec![
        read("deploy/docker/hookstile.yaml"),
        read("deploy/systemd/hookstile.yaml"),
        read("deploy/docker/one/hookstile/hookstile.yaml"),
        read(COMPOSE_CONFIGURATION),
    ];
    for values in VARIANTS {
        let variant = Variant::render(values);
        all.extend(variant.map(|variant| variant.configuration().to_owned()));
    }
    for yaml in all {
        // Each file that it names is here, with the content that fits.
        let mut here = yaml.clone();
        for (number, path) in text_after(&yaml, "file: ", &['\n', ',', '}']).enumerate() {
            let file = folder.path().join(number.to_string());
            let content = if path.ends_with("/url") {
                URL
            } else {
                SECRET_OF_SOME_LENGTH
            };
            std::fs::write(&file, content).expect("a writable folder");
            here = here.replacen(path, file.to_str().expect("UTF-8"), 1);
        }
        let yaml = here;
        let file = folder.path().join("hookstile.yaml");
        std::fs::write(&file, &yaml).expect("a writable folder");
        let mut check = Command::new(env!("CARGO_BIN_EXE_hookstile"));
        check
            .args(["check", "--config"])
            .arg(&file)
            .env("WEBHOOK_SECRET", SECRET_OF_SOME_LENGTH);
        check.env("HOOKSTILE_ADMIN_TOKEN", SECRET_OF_SOME_LENGTH);
        check.env("DATABASE_URL", URL);
        let output = check.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("0 warnings"),
            "{text}\n{yaml}"
        );
    }
}

/// Returns the number of seconds after each occurrence of a key.
fn seconds(text: &str, key: &str) -> Vec<u64> {
    let values = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key));
    values
        .map(|value| {
            value
                .trim()
                .trim_end_matches('s')
                .parse()
                .unwrap_or_else(|_| panic!("{key} {value}"))
        })
        .collect()
}

/// Every stop timeout is longer than the gateway's drain and grace period together.
#[test]
fn stop_timeouts_cover_drain_and_grace() {
    // These files repeat the defaults, 5 s and 15 s.
    for path in [&format!("{CHART}/values.yaml"), COMPOSE_CONFIGURATION] {
        assert!(
            read(path).contains("shutdown: {drain: 5s, grace: 15s}"),
            "{path}"
        );
    }
    for (path, key) in [
        ("deploy/systemd/hookstile.service", "TimeoutStopSec="),
        (
            "deploy/helm/hookstile/values.yaml",
            "terminationGracePeriodSeconds:",
        ),
        (COMPOSE, "stop_grace_period:"),
        ("deploy/docker/one/compose.yaml", "stop_grace_period:"),
    ] {
        let found = seconds(&read(path), key);
        assert!(
            !found.is_empty() && found.iter().all(|seconds| *seconds > 20),
            "{path}: {key} {found:?}"
        );
    }
    // The balancer's remaining connections have ended by then.
    let (balancer, compose) = (
        seconds(&read(BALANCER), "hard-stop-after"),
        seconds(&read(COMPOSE), "stop_grace_period:"),
    );
    assert!(balancer[0] < compose[0], "{balancer:?} {compose:?}");
}
