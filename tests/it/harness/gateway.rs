//! The gateway under test: the real binary, its configuration, its log and its end.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use serde_json::Value;
use tempfile::TempDir;

use super::fleet::Front;
use super::history::Disturbance;
use super::metrics::Metrics;
use super::patience::eventually;
use super::process::{Process, freeze};
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

/// A command that the binary is started by (its own line follows), or an environment, that changes its world.
#[derive(Clone, Default)]
pub struct Under {
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Under {
    /// The command must become the binary (`exec`): what a test kills is the process it started.
    pub fn command(command: Vec<OsString>) -> Self {
        Self {
            command,
            environment: Vec::new(),
        }
    }

    pub fn environment(environment: Vec<(OsString, OsString)>) -> Self {
        Self {
            command: Vec::new(),
            environment,
        }
    }
}

/// A whole configuration, with the environment and the files it refers to.
#[derive(Clone)]
pub struct Setup {
    keys: Vec<(String, String)>,
    routes: Vec<Route>,
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
    under: Under,
    /// Handed over, as systemd does.
    sockets: Vec<Arc<TcpListener>>,
}

impl Setup {
    pub fn new(routes: impl Into<Vec<Route>>) -> Self {
        let (environment, files, under, sockets) =
            (Vec::new(), Vec::new(), Under::default(), Vec::new());
        let setup = Self {
            keys: Vec::new(),
            routes: routes.into(),
            environment,
            files,
            under,
            sockets,
        };
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

    /// Stops at once when nothing is in flight.
    pub fn stopping_at_once(self) -> Self {
        self.with("shutdown", "{drain: 0s, grace: 5s}")
    }

    pub fn under(mut self, under: Under) -> Self {
        self.under = under;
        self
    }

    /// With this socket handed over at each start.
    pub fn handed(mut self, socket: TcpListener) -> Self {
        self.sockets.push(Arc::new(socket));
        self
    }

    pub fn yaml(&self) -> String {
        let mut lines: Vec<String> = self
            .keys
            .iter()
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
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

/// A gateway, which a test may kill and start again in the same folder. Killed by its own handle when the test ends.
pub struct Gateway {
    setup: Setup,
    process: Process,
    directory: TempDir,
    front: Front,
    /// Once it is up.
    listening: Option<Listening>,
}

#[derive(Clone, Copy)]
struct Listening {
    data: SocketAddr,
    admin: SocketAddr,
}

/// Why a gateway did not come up: its exit code, and all it said.
#[derive(Debug)]
pub struct Refusal {
    pub code: Option<i32>,
    pub output: String,
}

impl Gateway {
    /// Starts the binary and waits until it is ready.
    pub async fn start(setup: impl Into<Setup>) -> Self {
        let mut gateway = Self::launch(setup);
        gateway.must_come_up().await;
        gateway
    }

    /// Starts the binary, in a folder of its own.
    pub fn launch(setup: impl Into<Setup>) -> Self {
        let (setup, directory) = (setup.into(), tempfile::tempdir().expect("a folder"));
        let process = spawn(&setup, directory.path());
        Self {
            setup,
            process,
            directory,
            front: Front::default(),
            listening: None,
        }
    }

    /// Runs the binary on a configuration it must refuse: its exit code and all it said.
    pub async fn refuses(setup: impl Into<Setup>) -> (Option<i32>, String) {
        let directory = tempfile::tempdir().expect("a folder");
        let process = spawn(&setup.into(), directory.path());
        let status = process.exited().await;
        (status.code(), process.output())
    }

    /// SIGKILL: the time in which it died.
    pub async fn kill(&mut self) -> Disturbance {
        self.front.set(None);
        let from = Instant::now();
        self.process.kill();
        self.process.exited().await;
        Disturbance::since(from)
    }

    /// SIGSTOP: it keeps all it has and does nothing. Senders go elsewhere meanwhile, those that wait for it apart.
    pub async fn freeze(&self) {
        self.front.set(None);
        freeze(&[self.pid()]).await;
    }

    pub fn thaw(&self) {
        self.signal("CONT");
        self.front.set(Some(self.data()));
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let status = self.exited().await;
        self.front.set(None);
        status
    }

    /// Starts it again as it was, in the same folder.
    pub async fn restart(&mut self) {
        self.restart_with(self.setup.clone()).await;
    }

    /// Starts it again in the same folder, otherwise configured.
    pub async fn restart_with(&mut self, setup: impl Into<Setup>) {
        self.launch_with(setup);
        self.must_come_up().await;
    }

    /// The same for one that may not come up.
    ///
    /// # Errors
    /// How it ended instead.
    pub async fn try_restart_with(&mut self, setup: impl Into<Setup>) -> Result<(), Refusal> {
        self.launch_with(setup);
        self.comes_up().await
    }

    /// The same without waiting for anything.
    pub fn launch_with(&mut self, setup: impl Into<Setup>) {
        assert!(self.process.exit().is_some(), "the one before has ended");
        self.setup = setup.into();
        self.listening = None;
        self.process = spawn(&self.setup, self.directory.path());
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// How it ended instead.
    pub async fn comes_up(&mut self) -> Result<(), Refusal> {
        let Some(listening) = up(&self.process).await else {
            let status = self.process.exited().await;
            return Err(Refusal {
                code: status.code(),
                output: self.process.output(),
            });
        };
        self.listening = Some(listening);
        self.front.set(Some(listening.data));
        Ok(())
    }

    async fn must_come_up(&mut self) {
        if let Err(refusal) = self.comes_up().await {
            panic!(
                "the gateway did not start, exit code {:?}:\n{}",
                refusal.code, refusal.output
            );
        }
    }

    /// Another process on the same folder, which must be refused: its exit code and all it said.
    pub async fn refuses_a_second(&self) -> Refusal {
        let process = spawn(&self.setup, self.directory.path());
        let status = process.exited().await;
        Refusal {
            code: status.code(),
            output: process.output(),
        }
    }

    /// Waits until it says that it is ready.
    #[track_caller]
    pub fn is_ready(&self) -> impl Future<Output = ()> {
        eventually("the gateway is ready", async || {
            self.admin_get("/readyz").await.status == 200
        })
    }

    /// Whether the process has ended.
    pub fn is_gone(&self) -> bool {
        self.process.exit().is_some()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Memory that the process holds, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("a running process");
        let kib = status.lines().find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        });
        kib.map(|kib: u64| kib * 1024).expect("a resident size")
    }

    /// Sockets that the process has open. (Of the store's files more are opened as they are wanted, and kept.)
    pub fn open_sockets(&self) -> usize {
        let files =
            std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running process");
        let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        targets
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// Where senders find it, also after it was started again.
    pub fn front(&self) -> Front {
        self.front.clone()
    }

    /// The store's folder, unless the configuration names another.
    pub fn store(&self) -> PathBuf {
        self.directory.path().join("hookstile-data")
    }

    /// The store's files, those that live only while the gateway runs included.
    pub fn store_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.store()).expect("the store's folder");
        entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .collect()
    }

    /// Where webhooks go.
    pub fn data(&self) -> SocketAddr {
        self.listening.expect("the gateway is up").data
    }

    pub fn admin(&self) -> SocketAddr {
        self.listening.expect("the gateway is up").admin
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.data()).await
    }

    pub async fn connect_h2(&self) -> H2Client {
        H2Client::connect(self.data()).await
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
        let request = Request::new("GET", path).set("Host", &self.admin().to_string());
        Client::connect(self.admin()).await.send(request).await
    }

    /// The store's databases.
    pub fn databases(&self) -> Vec<PathBuf> {
        let is_database = |path: &PathBuf| {
            std::fs::read(path).is_ok_and(|content| content.starts_with(b"SQLite format 3\0"))
        };
        self.store_files().into_iter().filter(is_database).collect()
    }

    /// `GET` of the admin listener's API: its JSON, with status 200.
    pub async fn api(&self, path: &str) -> Value {
        let answer = self.admin_get(path).await;
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        serde_json::from_slice(&answer.body)
            .unwrap_or_else(|error| panic!("GET {path}: {error}: {}", answer.text()))
    }

    /// `POST` of a JSON document to the admin listener.
    pub async fn admin_post(&self, path: &str, document: &Value) -> Answer {
        let request = Request::post(document.to_string().as_bytes())
            .at(path)
            .set("Host", &self.admin().to_string());
        Client::connect(self.admin()).await.send(request).await
    }

    pub async fn metrics(&self) -> Metrics {
        let answer = self.admin_get("/metrics").await;
        assert_eq!(answer.status, 200, "/metrics: {}", answer.text());
        Metrics::parse(answer.text())
    }

    /// Waits until a series has reached a value: answers are written before they are counted.
    #[track_caller]
    pub fn metric_reaches(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) -> impl Future<Output = ()> {
        let what = format!("hookstile_{name}{labels:?} reaches {value}");
        eventually(what, async move || {
            self.metrics().await.find(name, labels) == Some(value)
        })
    }

    /// Waits until a series has reached a value or gone past it.
    #[track_caller]
    pub fn metrics_past(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) -> impl Future<Output = ()> {
        let what = format!("hookstile_{name}{labels:?} is {value} or more");
        eventually(what, async move || {
            self.metrics().await.find(name, labels) >= Some(value)
        })
    }

    /// Log lines so far.
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line: &String| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("a log line that is not JSON ({error}): {line:?}"))
        };
        self.process
            .lines()
            .iter()
            .filter(|line| !line.is_empty())
            .map(parse)
            .collect()
    }

    /// The lines of requests.
    pub fn access_lines(&self) -> Vec<Value> {
        self.lines()
            .into_iter()
            .filter(|line| line["message"] == "request")
            .collect()
    }

    /// Waits for a request's line with these members, and returns it.
    #[track_caller]
    pub fn logged(&self, members: Value) -> impl Future<Output = Value> {
        let fits = move |line: &Value| {
            members
                .as_object()
                .expect("members")
                .iter()
                .all(|(k, v)| line.get(k) == Some(v))
        };
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
        self.directory.path().join("hookstile.yaml")
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
        let fresh = self.directory.path().join(".hookstile.yaml.new");
        std::fs::write(&fresh, setup.into().yaml()).expect("a writable folder");
        std::fs::rename(fresh, self.config()).expect("a rename");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.process.lines();
            eprintln!(
                "the gateway's last words:\n{}",
                lines[lines.len().saturating_sub(25)..].join("\n")
            );
        }
    }
}

fn spawn(setup: &Setup, folder: &Path) -> Process {
    std::fs::write(folder.join("hookstile.yaml"), setup.yaml()).expect("a writable folder");
    for (name, content) in &setup.files {
        std::fs::write(folder.join(name), content).expect("a writable folder");
    }
    let mut line = setup.under.command.clone();
    line.extend(
        [
            env!("CARGO_BIN_EXE_hookstile"),
            "run",
            "--config",
            "hookstile.yaml",
        ]
        .map(OsString::from),
    );
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).current_dir(folder);
    command
        .env_remove("RUST_LOG")
        .envs(setup.environment.iter().cloned());
    command.envs(setup.under.environment.iter().cloned());
    if !setup.sockets.is_empty() {
        let copy = |socket: &Arc<TcpListener>| OwnedFd::from(socket.try_clone().expect("a copy"));
        let numbered = (3..)
            .zip(&setup.sockets)
            .map(|(child_fd, socket)| FdMapping {
                parent_fd: copy(socket),
                child_fd,
            });
        command.env("LISTEN_FDS", setup.sockets.len().to_string());
        command
            .fd_mappings(numbered.collect())
            .expect("each has a number of its own");
    }
    Process::spawn(&mut command)
}

/// Waits until the gateway is ready: its data and admin addresses, or `None` when it has ended instead.
async fn up(process: &Process) -> Option<Listening> {
    let address = |listener| {
        process
            .lines()
            .iter()
            .find_map(|line| listening_address(line, listener))
    };
    let mut ready = None;
    eventually("the gateway is ready", async || {
        if process.exit().is_some() {
            return true;
        }
        let (Some(data), Some(admin)) = (address("data"), address("admin")) else {
            return false;
        };
        let request = Request::new("GET", "/readyz").set("Host", &admin.to_string());
        let Some(mut client) = Client::try_connect(admin).await else {
            return false;
        };
        let answer = client
            .send_raw(&request.bytes())
            .await
            .filter(|answer| answer.status == 200);
        ready = answer.map(|_| Listening { data, admin });
        ready.is_some()
    })
    .await;
    ready
}

/// The address in a line that tells that this listener is up: JSON, or `pretty` where a test asked for it.
fn listening_address(line: &str, listener: &str) -> Option<SocketAddr> {
    if let Ok(line) = serde_json::from_str::<Value>(line) {
        let fits = line["message"] == "listening" && line["listener"] == listener;
        return line["address"].as_str().filter(|_| fits)?.parse().ok();
    }
    let fits = line.contains("listening") && line.contains(listener);
    let start = line.find("127.0.0.1:").filter(|_| fits)?;
    line[start..]
        .split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
        .next()?
        .parse()
        .ok()
}
