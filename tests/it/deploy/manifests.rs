//! The ways to run one or several gateways: manifests that Kubernetes accepts and that agree with
//! each other, and configurations that the gateway accepts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::{read, root};
use crate::harness::programs::{program, tool};
use crate::harness::*;

const BASE: &str = "deploy/kubernetes/base";
/// The manifests of one gateway and of several. Each builds on [`BASE`].
const VARIANTS: [&str; 2] = ["deploy/kubernetes/one", "deploy/kubernetes/replicas"];
const REPLICAS: &str = "deploy/kubernetes/replicas";
const COMPOSE: &str = "deploy/docker/replicas/compose.yaml";
const COMPOSE_CONFIGURATION: &str = "deploy/docker/replicas/hookstile/hookstile.yaml";
const BALANCER: &str = "deploy/docker/replicas/haproxy.cfg";

const SECRET_OF_SOME_LENGTH: &str = "a-secret-of-some-length";
/// The connections to PostgreSQL that one gateway may open, the usual `max_connections` there, and
/// how many of those are reserved for special roles.
const CONNECTIONS: u64 = 10;
const USUAL_CONNECTIONS: u64 = 100;
const RESERVED_CONNECTIONS: u64 = 3;

/// Returns the manifest files of a folder, without its `kustomization.yaml`.
fn manifests(folder: &str) -> Vec<String> {
    let entries =
        std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| {
        entry
            .expect("an entry")
            .file_name()
            .to_str()
            .expect("UTF-8")
            .to_owned()
    });
    let mut paths: Vec<_> = names
        .filter(|name| name != "kustomization.yaml")
        .map(|name| format!("{folder}/{name}"))
        .collect();
    paths.sort();
    paths
}

/// Parses YAML files with the parser that schemathesis installs; returns `None` without it.
fn parsed(paths: &[String], skipped: &str) -> Option<Vec<Value>> {
    let script = "import json, sys, yaml; print(json.dumps([yaml.safe_load(open(path)) for path in sys.argv[1:]]))";
    let python = program("HOOKSTILE_PYTHON", "python3").filter(|python| {
        let probe = Command::new(python).args(["-c", "import yaml"]).output();
        probe.is_ok_and(|output| output.status.success())
    });
    let python = tool("HOOKSTILE_PYTHON with PyYAML", python, skipped)?;
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

#[test]
fn manifests_use_known_kubernetes_fields() {
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
    let all = [BASE]
        .into_iter()
        .chain(VARIANTS)
        .flat_map(manifests)
        .filter(|path| !path.ends_with("/podmonitor.yaml"));
    let all: Vec<PathBuf> = all.map(|path| root().join(path)).collect();
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

#[test]
fn kustomizations_list_every_manifest() {
    for folder in [BASE].into_iter().chain(VARIANTS) {
        let kustomization = read(&format!("{folder}/kustomization.yaml"));
        let named: BTreeSet<_> = kustomization
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- "))
            .collect();
        let there = manifests(folder);
        let there = there
            .iter()
            .map(|path| path.rsplit('/').next().expect("a name"));
        let wanted: BTreeSet<_> = there.chain((folder != BASE).then_some("../base")).collect();
        assert_eq!(named, wanted, "{folder}");
    }
}

/// One way to run gateways in Kubernetes.
struct Variant(Vec<Value>);

impl Variant {
    fn parse(folder: &str) -> Option<Self> {
        let paths: Vec<_> = manifests(BASE)
            .into_iter()
            .chain(manifests(folder))
            .collect();
        parsed(&paths, "how the manifests fit each other").map(Self)
    }

    fn all(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0
            .iter()
            .filter(move |document| document["kind"] == kind)
    }

    fn one(&self, kind: &str) -> &Value {
        self.all(kind).next().unwrap_or_else(|| panic!("no {kind}"))
    }

    fn workload(&self) -> &Value {
        let found = self
            .0
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

    fn secret_has(&self, name: &Value, key: &str) -> bool {
        self.all("Secret").any(|secret| {
            secret["metadata"]["name"] == *name && !secret["stringData"][key].is_null()
        })
    }
}

/// Returns the text after each occurrence of a mark, up to one of the characters that end it.
fn text_after<'a>(text: &'a str, mark: &'a str, ends: &'a [char]) -> impl Iterator<Item = &'a str> {
    text.split(mark)
        .skip(1)
        .map(move |rest| rest.split(ends).next().expect("a part"))
}

#[test]
fn manifests_agree_on_pods_ports_and_secrets() {
    for folder in VARIANTS {
        let Some(variant) = Variant::parse(folder) else {
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
            &variant.one("PodMonitor")["spec"]["selector"]["matchLabels"],
        ];
        for selector in chosen {
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
        let others = rules.iter().map(|rule| &rule["ports"][0]["port"]).chain([
            &variant.one("Service")["spec"]["ports"][0]["targetPort"],
            &variant.one("PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"],
        ]);
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

        let mounted = pod["spec"]["volumes"].as_array().expect("volumes").iter();
        let secret = mounted
            .map(|volume| &volume["secret"]["secretName"])
            .find(|name| !name.is_null());
        for key in text_after(configuration, "/etc/hookstile-secrets/", &['}', ',']) {
            assert!(
                variant.secret_has(secret.expect("a Secret"), key),
                "{folder}: {key}"
            );
        }
        for name in text_after(configuration, "{env: ", &['}', ',']) {
            let variables = container["env"].as_array().expect("an environment");
            let variable = variables.iter().find(|variable| variable["name"] == name);
            let from = &variable.unwrap_or_else(|| panic!("{folder}: {name}"))["valueFrom"]["secretKeyRef"];
            assert!(
                variant.secret_has(&from["name"], from["key"].as_str().expect("a key")),
                "{folder}: {from}"
            );
        }
    }
}

/// While one replica is replaced, the others keep serving, and as many as the autoscaler adds find
/// free connections to PostgreSQL.
#[test]
fn rolling_update_leaves_connections() {
    let Some(variant) = Variant::parse(REPLICAS) else {
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
    let [one, several] = VARIANTS.map(Variant::parse);
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
    let manifests: Vec<_> = VARIANTS
        .into_iter()
        .flat_map(manifests)
        .map(|path| read(&path))
        .collect();
    let mut paths: BTreeSet<_> = manifests
        .iter()
        .flat_map(|manifest| text_after(manifest, "httpGet: {path: ", &[',']))
        .collect();
    let balancer = read(BALANCER);
    paths.extend(text_after(&balancer, "option httpchk GET ", &['\n']));
    assert_eq!(paths, BTreeSet::from(["/healthz", "/readyz"]));
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for path in paths {
        assert_eq!(gateway.admin_get(path).await.status, 200, "{path}");
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

/// Returns the configuration inside a `ConfigMap`, which is a block scalar.
fn config_map_configuration(folder: &str) -> String {
    let manifest = read(&format!("{folder}/configmap.yaml"));
    let (_, block) = manifest
        .split_once("  hookstile.yaml: |\n")
        .expect("the configuration");
    block
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n")
        .collect()
}

#[test]
fn shipped_configurations_are_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    for secret in ["billing-current", "admin-token"] {
        std::fs::write(folder.path().join(secret), SECRET_OF_SOME_LENGTH)
            .expect("a writable folder");
    }
    let here = folder.path().to_str().expect("UTF-8");
    let of_pods = VARIANTS
        .map(|folder| config_map_configuration(folder).replace("/etc/hookstile-secrets", here));
    for yaml in [
        read("deploy/docker/hookstile.yaml"),
        read(COMPOSE_CONFIGURATION),
    ]
    .into_iter()
    .chain(of_pods)
    {
        let file = folder.path().join("hookstile.yaml");
        std::fs::write(&file, &yaml).expect("a writable folder");
        let mut check = Command::new(env!("CARGO_BIN_EXE_hookstile"));
        check
            .args(["check", "--config"])
            .arg(&file)
            .env("WEBHOOK_SECRET", SECRET_OF_SOME_LENGTH);
        check.env("HOOKSTILE_ADMIN_TOKEN", SECRET_OF_SOME_LENGTH);
        check.env(
            "DATABASE_URL",
            "postgres://hookstile:password@db.example.com/hookstile?sslmode=disable",
        );
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
    let repeated = VARIANTS.map(|folder| format!("{folder}/configmap.yaml"));
    for path in repeated
        .iter()
        .map(String::as_str)
        .chain([COMPOSE_CONFIGURATION])
    {
        assert!(
            read(path).contains("shutdown: {drain: 5s, grace: 15s}"),
            "{path}"
        );
    }
    for (path, key) in [
        ("deploy/systemd/hookstile.service", "TimeoutStopSec="),
        (
            "deploy/kubernetes/one/statefulset.yaml",
            "terminationGracePeriodSeconds:",
        ),
        (
            "deploy/kubernetes/replicas/deployment.yaml",
            "terminationGracePeriodSeconds:",
        ),
        (COMPOSE, "stop_grace_period:"),
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
