//! The gateway under test: the real binary, its configuration, its log and its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::metrics::Metrics;
use super::patience::eventually;
use super::process::Process;
use super::sender::{Answer, Client, H2Client, Request};
use super::upstream::Upstream;

pub const PATH: &str = "/webhooks/vpn-enterprise";
/// The route's secret, and the one before it.
pub const SECRET: &str = "whsec_it_current_8c1f5a";
pub const OLD_SECRET: &str = "whsec_it_previous_77d02e";

/// One route of the configuration: named `hooks`, signed with [`SECRET`], unless the test says otherwise.
#[derive(Clone)]
pub struct Route {
    keys: Vec<(String, String)>,
}

impl Route {
    pub fn to(upstream: &Upstream) -> Self {
        Self::to_url(&upstream.url())
    }

    pub fn to_url(url: &str) -> Self {
        let route = Self { keys: Vec::new() };
        route
            .with("name", "hooks")
            .with("path", PATH)
            .with("provider", "vpn-enterprise")
            .with("secrets", "[{env: WEBHOOK_SECRET, name: current}]")
            .with("upstream", url)
    }

    /// Sets a key to a YAML value.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.keys.retain(|(k, _)| k != key);
        self.keys.push((key.into(), value.into()));
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(k, _)| k != key);
        self
    }

    /// Under another name and path.
    pub fn named(self, name: &str) -> Self {
        let path = format!("/webhooks/{name}");
        self.with("name", name).with("path", &path)
    }

    /// Under a signature scheme of its own, in place of the preset.
    pub fn signature(self, scheme: &str) -> Self {
        self.without("provider").with("signature", scheme)
    }
}

/// A whole configuration, with the environment and the files it refers to.
#[derive(Clone)]
pub struct Setup {
    keys: Vec<(String, String)>,
    routes: Vec<Route>,
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
}

impl Setup {
    pub fn new(routes: impl Into<Vec<Route>>) -> Self {
        let setup = Self { keys: Vec::new(), routes: routes.into(), environment: Vec::new(), files: Vec::new() };
        setup
            .with("listen", r#"[{address: "127.0.0.1:0"}]"#)
            .with("admin", r#"{address: "127.0.0.1:0"}"#)
            .env("WEBHOOK_SECRET", SECRET)
            .env("WEBHOOK_SECRET_OLD", OLD_SECRET)
    }

    /// Sets a top-level key to a YAML value.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.keys.retain(|(k, _)| k != key);
        self.keys.push((key.into(), value.into()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A file beside the configuration.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.into(), content.into()));
        self
    }

    pub fn yaml(&self) -> String {
        let mut lines: Vec<String> = self.keys.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        lines.push("routes:".into());
        for route in &self.routes {
            for (number, (key, value)) in route.keys.iter().enumerate() {
                let indent = if number == 0 { "  - " } else { "    " };
                lines.push(format!("{indent}{key}: {value}"));
            }
        }
        lines.join("\n") + "\n"
    }
}

impl From<Route> for Setup {
    fn from(route: Route) -> Self {
        Self::new([route])
    }
}

/// A running gateway. Killed by its own handle when the test ends.
pub struct Gateway {
    process: Process,
    directory: TempDir,
    data: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts the binary and waits until it is ready.
    pub async fn start(setup: impl Into<Setup>) -> Self {
        let (process, directory) = spawn(&setup.into());
        let data = listening(&process, "data").await;
        let admin = listening(&process, "admin").await;
        let gateway = Self { process, directory, data, admin };
        eventually("the gateway is ready", async || gateway.admin_get("/readyz").await.status == 200).await;
        gateway
    }

    /// Runs the binary on a configuration it must refuse: its exit code and all it said.
    pub async fn refuses(setup: impl Into<Setup>) -> (Option<i32>, String) {
        let (process, _directory) = spawn(&setup.into());
        let status = process.exited().await;
        (status.code(), process.output())
    }

    /// Where webhooks go.
    pub fn data(&self) -> SocketAddr {
        self.data
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.data).await
    }

    pub async fn connect_h2(&self) -> H2Client {
        H2Client::connect(self.data).await
    }

    /// One request on a connection of its own.
    pub async fn send(&self, request: impl Into<Request>) -> Answer {
        self.connect().await.send(request).await
    }

    /// The same, with the time from the first byte sent to the last byte received.
    pub async fn timed(&self, request: impl Into<Request>) -> (Answer, Duration) {
        let mut client = self.connect().await;
        let start = Instant::now();
        let answer = client.send(request).await;
        (answer, start.elapsed())
    }

    pub async fn admin_get(&self, path: &str) -> Answer {
        let request = Request::new("GET", path).set("Host", &self.admin.to_string());
        Client::connect(self.admin).await.send(request).await
    }

    pub async fn metrics(&self) -> Metrics {
        let answer = self.admin_get("/metrics").await;
        assert_eq!(answer.status, 200, "/metrics: {}", answer.text());
        Metrics::parse(answer.text())
    }

    /// Waits until a series has reached a value: answers are written before they are counted.
    #[track_caller]
    pub fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], value: f64) -> impl Future<Output = ()> {
        let what = format!("hookgate_{name}{labels:?} reaches {value}");
        eventually(what, async move || self.metrics().await.find(name, labels) == Some(value))
    }

    /// Log lines so far.
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line: &String| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("a log line that is not JSON ({error}): {line:?}"))
        };
        self.process.lines().iter().filter(|line| !line.is_empty()).map(parse).collect()
    }

    /// The lines of requests.
    pub fn access_lines(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["message"] == "request").collect()
    }

    /// Waits for a request's line with these members, and returns it.
    #[track_caller]
    pub fn logged(&self, members: Value) -> impl Future<Output = Value> {
        let fits =
            move |line: &Value| members.as_object().expect("members").iter().all(|(k, v)| line.get(k) == Some(v));
        let find = move || self.access_lines().into_iter().find(&fits);
        async move {
            eventually("the request is logged", async || find().is_some()).await;
            find().expect("just seen")
        }
    }

    /// Everything the process has written.
    pub fn output(&self) -> String {
        self.process.output()
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub async fn exited(&self) -> ExitStatus {
        self.process.exited().await
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("hookgate.yaml")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes the configuration file anew, in place.
    pub fn rewrite(&self, setup: impl Into<Setup>) {
        self.rewrite_text(&setup.into().yaml());
    }

    pub fn rewrite_text(&self, yaml: &str) {
        std::fs::write(self.config(), yaml).expect("a writable configuration");
    }

    /// Puts another file in the configuration's place, as editors and Kubernetes do.
    pub fn rename_over(&self, setup: impl Into<Setup>) {
        let fresh = self.directory.path().join(".hookgate.yaml.new");
        std::fs::write(&fresh, setup.into().yaml()).expect("a writable folder");
        std::fs::rename(fresh, self.config()).expect("a rename");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.process.lines();
            eprintln!("the gateway's last words:\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
        }
    }
}

fn spawn(setup: &Setup) -> (Process, TempDir) {
    let directory = tempfile::tempdir().expect("a folder");
    std::fs::write(directory.path().join("hookgate.yaml"), setup.yaml()).expect("a writable folder");
    for (name, content) in &setup.files {
        std::fs::write(directory.path().join(name), content).expect("a writable folder");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookgate"));
    command.args(["run", "--config", "hookgate.yaml"]).current_dir(directory.path());
    command.env_remove("RUST_LOG").envs(setup.environment.iter().cloned());
    (Process::spawn(&mut command), directory)
}

async fn listening(process: &Process, listener: &str) -> SocketAddr {
    let address = || process.lines().iter().find_map(|line| listening_address(line, listener));
    eventually("the gateway listens", async || {
        assert!(process.exit().is_none(), "the gateway did not start:\n{}", process.output());
        address().is_some()
    })
    .await;
    address().expect("just seen")
}

/// The address in a line that tells that this listener is up: JSON, or `pretty` where a test asked for it.
fn listening_address(line: &str, listener: &str) -> Option<SocketAddr> {
    if let Ok(line) = serde_json::from_str::<Value>(line) {
        let fits = line["message"] == "listening" && line["listener"] == listener;
        return line["address"].as_str().filter(|_| fits)?.parse().ok();
    }
    let fits = line.contains("listening") && line.contains(listener);
    let start = line.find("127.0.0.1:").filter(|_| fits)?;
    line[start..].split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').next()?.parse().ok()
}
