//! The gateway under test: the real binary, its configuration, its log and its exit.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fleet::Endpoint;
use super::history::Disturbance;
use super::metrics::Metrics;
use super::process::{Process, freeze};
use super::sender::{Client, H2Client, Request, Response};
use super::upstream::Upstream;
use super::wait::eventually;

pub const PATH: &str = "/webhooks/vpn-enterprise";
/// The route's current and previous secret.
pub const SECRET: &str = "whsec_it_current_8c1f5a";
pub const OLD_SECRET: &str = "whsec_it_previous_77d02e";

/// One route of the configuration: named `hooks` and signed with [`SECRET`] unless the test changes
/// it.
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

    /// Sets another name and path.
    pub fn named(self, name: &str) -> Self {
        let path = format!("/webhooks/{name}");
        self.with("name", name).with("path", &path)
    }

    /// Sets a custom signature scheme in place of the preset.
    pub fn signature(self, scheme: &str) -> Self {
        self.without("provider").with("signature", scheme)
    }
}

/// A command that starts the binary, whose own command line follows, or environment variables for
/// it.
#[derive(Clone, Default)]
pub struct Launcher {
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Launcher {
    /// Starts the binary by this command, which must `exec` it: the process that a test kills is
    /// the one it started.
    pub fn command(command: Vec<OsString>) -> Self {
        Self {
            command,
            environment: Vec::new(),
        }
    }

    /// Starts by this launcher what the other one starts.
    pub fn running(mut self, other: Self) -> Self {
        self.command.extend(other.command);
        self.environment.extend(other.environment);
        self
    }

    pub fn environment(environment: Vec<(OsString, OsString)>) -> Self {
        Self {
            command: Vec::new(),
            environment,
        }
    }
}

/// A complete configuration, with the environment and the files it refers to.
#[derive(Clone)]
pub struct Setup {
    keys: Vec<(String, String)>,
    routes: Vec<Route>,
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
    launcher: Launcher,
    /// The sockets that the binary inherits, as from systemd.
    sockets: Vec<Arc<OwnedFd>>,
}

impl Setup {
    pub fn new(routes: impl Into<Vec<Route>>) -> Self {
        let (environment, files, launcher, sockets) =
            (Vec::new(), Vec::new(), Launcher::default(), Vec::new());
        let setup = Self {
            keys: Vec::new(),
            routes: routes.into(),
            environment,
            files,
            launcher,
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

    /// Adds a file beside the configuration.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.into(), content.into()));
        self
    }

    /// Makes the gateway stop at once when nothing is in flight.
    pub fn stopping_at_once(self) -> Self {
        self.with("shutdown", "{drain: 0s, grace: 5s}")
    }

    pub fn launched_by(mut self, launcher: Launcher) -> Self {
        self.launcher = launcher;
        self
    }

    /// Passes this socket to the binary at each start.
    pub fn with_socket(mut self, socket: impl Into<OwnedFd>) -> Self {
        self.sockets.push(Arc::new(socket.into()));
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

/// A gateway, which a test may kill and restart in the same folder. It is killed by its own handle
/// when the test ends.
pub struct Gateway {
    setup: Setup,
    process: Process,
    directory: TempDir,
    endpoint: Endpoint,
    /// The listeners' addresses, once the gateway is up.
    listening: Option<Listening>,
}

#[derive(Clone, Copy)]
struct Listening {
    data: SocketAddr,
    admin: SocketAddr,
}

/// The exit code and the output of a gateway that did not start.
#[derive(Debug)]
pub struct StartError {
    pub code: Option<i32>,
    pub output: String,
}

impl Gateway {
    /// Starts the binary and waits until it is ready.
    pub async fn start(setup: impl Into<Setup>) -> Self {
        let mut gateway = Self::launch(setup);
        gateway.expect_up().await;
        gateway
    }

    /// Starts the binary in a folder of its own.
    pub fn launch(setup: impl Into<Setup>) -> Self {
        let (setup, directory) = (setup.into(), tempfile::tempdir().expect("a folder"));
        let process = spawn(&setup, directory.path());
        Self {
            setup,
            process,
            directory,
            endpoint: Endpoint::default(),
            listening: None,
        }
    }

    /// Runs the binary on a configuration that it must reject; returns its exit code and its
    /// output.
    pub async fn refuses(setup: impl Into<Setup>) -> (Option<i32>, String) {
        let directory = tempfile::tempdir().expect("a folder");
        let process = spawn(&setup.into(), directory.path());
        let status = process.wait_for_exit().await;
        (status.code(), process.output())
    }

    /// Sends SIGKILL; returns the time in which the process died.
    pub async fn kill(&mut self) -> Disturbance {
        self.endpoint.set(None);
        let from = Instant::now();
        self.process.kill();
        self.process.wait_for_exit().await;
        Disturbance::since(from)
    }

    /// Sends SIGSTOP: the process keeps everything but does nothing. New senders use other gateways
    /// meanwhile; waiting ones keep waiting.
    pub async fn freeze(&self) {
        self.endpoint.set(None);
        freeze(&[self.pid()]).await;
    }

    pub fn resume(&self) {
        self.signal("CONT");
        self.endpoint.set(Some(self.public_address()));
    }

    /// Sends SIGTERM and waits for the exit.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let status = self.wait_for_exit().await;
        self.endpoint.set(None);
        status
    }

    /// Restarts it with the same configuration, in the same folder.
    pub async fn restart(&mut self) {
        self.restart_with(self.setup.clone()).await;
    }

    /// Restarts it in the same folder with another configuration.
    pub async fn restart_with(&mut self, setup: impl Into<Setup>) {
        self.launch_with(setup);
        self.expect_up().await;
    }

    /// Restarts it when it may fail to start.
    ///
    /// # Errors
    /// Returns the exit code and the output if it exits instead.
    pub async fn try_restart_with(&mut self, setup: impl Into<Setup>) -> Result<(), StartError> {
        self.launch_with(setup);
        self.wait_until_up().await
    }

    /// Launches it again without waiting.
    pub fn launch_with(&mut self, setup: impl Into<Setup>) {
        assert!(
            self.process.exit().is_some(),
            "the previous process has ended"
        );
        self.setup = setup.into();
        self.listening = None;
        self.process = spawn(&self.setup, self.directory.path());
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// Returns the exit code and the output if it exits instead.
    pub async fn wait_until_up(&mut self) -> Result<(), StartError> {
        let Some(listening) = wait_for_listeners(&self.process).await else {
            let status = self.process.wait_for_exit().await;
            return Err(StartError {
                code: status.code(),
                output: self.process.output(),
            });
        };
        self.listening = Some(listening);
        self.endpoint.set(Some(listening.data));
        Ok(())
    }

    async fn expect_up(&mut self) {
        if let Err(error) = self.wait_until_up().await {
            panic!(
                "the gateway did not start, exit code {:?}:\n{}",
                error.code, error.output
            );
        }
    }

    /// Runs a second process on the same folder, which must be refused; returns its exit code and
    /// its output.
    pub async fn refuses_second_process(&self) -> StartError {
        let process = spawn(&self.setup, self.directory.path());
        let status = process.wait_for_exit().await;
        StartError {
            code: status.code(),
            output: process.output(),
        }
    }

    /// Waits until it reports that it is ready.
    #[track_caller]
    pub fn wait_until_ready(&self) -> impl Future<Output = ()> {
        eventually("the gateway is ready", async || {
            self.admin_get("/readyz").await.status == 200
        })
    }

    /// Returns whether the process has exited.
    pub fn is_gone(&self) -> bool {
        self.process.exit().is_some()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns the resident memory of the process, in bytes.
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

    /// Counts the open sockets of the process. The store opens more files on demand and keeps them,
    /// so files are not counted.
    pub fn open_sockets(&self) -> usize {
        let files =
            std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running process");
        let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        targets
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// Returns the gateway's address for senders, which follows restarts.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Returns the store's folder, unless the configuration names another.
    pub fn store(&self) -> PathBuf {
        self.directory.path().join("hookstile-data")
    }

    /// Returns the store's files, including those that exist only while the gateway runs.
    pub fn store_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.store()).expect("the store's folder");
        entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .collect()
    }

    /// Returns the file of the commit log.
    pub fn commit_log(&self) -> PathBuf {
        self.store().join("hookstile.commits")
    }

    /// Returns the address of the public listener.
    pub fn public_address(&self) -> SocketAddr {
        self.listening.expect("the gateway is up").data
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.listening.expect("the gateway is up").admin
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.public_address()).await
    }

    pub async fn connect_h2(&self) -> H2Client {
        H2Client::connect(self.public_address()).await
    }

    /// Sends one request on a connection of its own.
    pub async fn send(&self, request: impl Into<Request>) -> Response {
        self.connect().await.send(request).await
    }

    /// Sends one request and returns the time from the first byte sent to the last byte received.
    pub async fn send_timed(&self, request: impl Into<Request>) -> (Response, Duration) {
        let mut client = self.connect().await;
        let start = Instant::now();
        let response = client.send(request).await;
        (response, start.elapsed())
    }

    pub async fn admin_get(&self, path: &str) -> Response {
        let request = Request::new("GET", path).set("Host", &self.admin_address().to_string());
        Client::connect(self.admin_address())
            .await
            .send(request)
            .await
    }

    /// Returns the paths of the store's databases.
    pub fn databases(&self) -> Vec<PathBuf> {
        self.store_files()
            .into_iter()
            .filter(|path: &PathBuf| {
                std::fs::read(path).is_ok_and(|content| content.starts_with(b"SQLite format 3\0"))
            })
            .collect()
    }

    /// Sends `GET` to the admin API and returns the JSON of a 200 response.
    pub async fn api(&self, path: &str) -> Value {
        let response = self.admin_get(path).await;
        assert_eq!(response.status, 200, "GET {path}: {}", response.text());
        serde_json::from_slice(&response.body)
            .unwrap_or_else(|error| panic!("GET {path}: {error}: {}", response.text()))
    }

    /// Posts a JSON document to the admin listener.
    pub async fn admin_post(&self, path: &str, document: &Value) -> Response {
        let request = Request::post(document.to_string().as_bytes())
            .at(path)
            .set("Host", &self.admin_address().to_string());
        Client::connect(self.admin_address())
            .await
            .send(request)
            .await
    }

    pub async fn metrics(&self) -> Metrics {
        let response = self.admin_get("/metrics").await;
        assert_eq!(response.status, 200, "/metrics: {}", response.text());
        Metrics::parse(response.text())
    }

    /// Waits until a series has reached a value: responses are written before they are counted.
    #[track_caller]
    pub fn wait_for_metric(
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

    /// Waits until a series has reached or passed a value.
    #[track_caller]
    pub fn wait_for_metric_at_least(
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

    /// Returns the log lines so far.
    pub fn lines(&self) -> Vec<Value> {
        self.process
            .lines()
            .iter()
            .filter(|line| !line.is_empty())
            .map(|line: &String| {
                serde_json::from_str(line).unwrap_or_else(|error| {
                    panic!("a log line that is not JSON ({error}): {line:?}")
                })
            })
            .collect()
    }

    /// Returns the log lines of requests.
    pub fn access_lines(&self) -> Vec<Value> {
        self.lines()
            .into_iter()
            .filter(|line| line["message"] == "request")
            .collect()
    }

    /// Waits for a request's log line with these members, and returns it.
    #[track_caller]
    pub fn wait_for_request_log(&self, members: Value) -> impl Future<Output = Value> {
        let find = move || {
            self.access_lines().into_iter().find(|line: &Value| {
                members
                    .as_object()
                    .expect("members")
                    .iter()
                    .all(|(k, v)| line.get(k) == Some(v))
            })
        };
        async move {
            eventually("the request is logged", async || find().is_some()).await;
            find().expect("just seen")
        }
    }

    /// Returns everything the process has written.
    pub fn output(&self) -> String {
        self.process.output()
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub async fn wait_for_exit(&self) -> ExitStatus {
        self.process.wait_for_exit().await
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("hookstile.yaml")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Rewrites the configuration file in place.
    pub fn rewrite(&self, setup: impl Into<Setup>) {
        self.rewrite_text(&setup.into().yaml());
    }

    /// Rewrites the configuration, reloads it over the admin API, and returns the answer.
    pub async fn try_reload(&self, setup: impl Into<Setup>) -> Response {
        self.rewrite(setup);
        self.admin_post("/reload", &json!({})).await
    }

    /// Rewrites the configuration and reloads it, which must succeed. Returns the answer.
    pub async fn reload(&self, setup: impl Into<Setup>) -> Response {
        let response = self.try_reload(setup).await;
        assert_eq!(response.status, 200, "{}", response.text());
        response
    }

    pub fn rewrite_text(&self, yaml: &str) {
        std::fs::write(self.config(), yaml).expect("a writable configuration");
    }

    /// Replaces the configuration with another file, as editors and Kubernetes do.
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
                "the gateway's output:\n{}",
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
    let mut line = setup.launcher.command.clone();
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
    command.envs(setup.launcher.environment.iter().cloned());
    if !setup.sockets.is_empty() {
        let numbered = (3..)
            .zip(&setup.sockets)
            .map(|(child_fd, socket)| FdMapping {
                parent_fd: socket.try_clone().expect("a copy"),
                child_fd,
            });
        command.env("LISTEN_FDS", setup.sockets.len().to_string());
        command
            .fd_mappings(numbered.collect())
            .expect("a distinct file descriptor");
    }
    Process::spawn(&mut command)
}

/// Waits until the gateway is ready; returns its public and admin addresses, or `None` if it exited
/// instead.
async fn wait_for_listeners(process: &Process) -> Option<Listening> {
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
        let response = client
            .send_raw(&request.bytes())
            .await
            .filter(|response| response.status == 200);
        ready = response.map(|_| Listening { data, admin });
        ready.is_some()
    })
    .await;
    ready
}

/// Returns the address from a log line that reports this listener: JSON, or `pretty` if a test
/// configured that.
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
