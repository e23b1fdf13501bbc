//! `HAProxy` in front of several gateways, configured as in `deploy/docker/replicas`.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;

use command_fds::{CommandFdExt as _, FdMapping};
use tempfile::TempDir;

use super::{read, root};
use crate::harness::fleet::Endpoint;
use crate::harness::process::Process;
use crate::harness::programs::{program, tool};
use crate::harness::*;

const CONFIGURATION: &str = "deploy/docker/replicas/haproxy.cfg";

fn haproxy() -> Option<PathBuf> {
    tool(
        "HAProxy",
        program("HOOKSTILE_HAPROXY", "haproxy")
            .or_else(|| Some(PathBuf::from("/usr/sbin/haproxy")).filter(|path| path.is_file())),
        "the balancer before several gateways",
    )
}

#[test]
fn haproxy_accepts_its_configuration() {
    let Some(haproxy) = haproxy() else { return };
    let output = Command::new(haproxy)
        .args(["-c", "-f", CONFIGURATION])
        .current_dir(root())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !text.contains("[WARNING]"),
        "{text}"
    );
}

/// `HAProxy` with the shipped configuration, in front of a test's gateways.
struct Balancer {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Balancer {
    fn before(haproxy: PathBuf, gateways: &[&Gateway]) -> Self {
        let server = |(number, gateway): (u16, &&Gateway)| {
            let (data, admin) = (gateway.public_address(), gateway.admin_address().port());
            format!("    server gateway{number} {data} check port {admin}\n")
        };
        let servers = (1..).zip(gateways).map(server).collect::<Vec<_>>().concat();
        let mut text = read(CONFIGURATION);
        for (shipped, replacement) in [
            ("bind :8080\n", "bind fd@3\n"),
            // Keeps within an ordinary user's limit of open files.
            ("maxconn 10000\n", "maxconn 200\n"),
            (
                "    server-template gateway 10 hookstile:8080 resolvers docker init-addr none\n",
                &servers,
            ),
        ] {
            assert!(text.contains(shipped), "{shipped}");
            text = text.replace(shipped, replacement);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).expect("a writable folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut command = Command::new(haproxy);
        command.args(["-db", "-f"]).arg(file);
        let mapping = FdMapping {
            parent_fd: OwnedFd::from(listener),
            child_fd: 3,
        };
        command
            .fd_mappings(vec![mapping])
            .expect("a free file descriptor number");
        Self {
            process: Process::spawn(&mut command),
            address,
            _folder: folder,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_stop_fails_no_request() {
    let (Some(haproxy), Some(postgres)) = (haproxy(), Postgres::start().await) else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream))
        .with("store", "{postgres: {url: {env: DATABASE_URL}}}")
        .with("trusted_proxies", "[127.0.0.1/32]")
        .with("shutdown", "{drain: 5s, grace: 15s}")
        .env("DATABASE_URL", &postgres.url());
    let [mut one, mut two, three] = [
        Gateway::start(setup.clone()).await,
        Gateway::start(setup.clone()).await,
        Gateway::start(setup.clone()).await,
    ];
    let balancer = Balancer::before(haproxy, &[&one, &two, &three]);
    let endpoint = Endpoint::default();
    endpoint.set(Some(balancer.address));
    let fleet = Fleet::start(&endpoint, PATH, 4);
    fleet.wait_for_progress(50).await;
    for (name, gateway) in [("gateway1", &mut one), ("gateway2", &mut two)] {
        gateway
            .wait_for_metric_at_least(
                "requests_total",
                &[("route", "hooks"), ("outcome", "delivered")],
                1.0,
            )
            .await;
        assert_eq!(gateway.stop().await.code(), Some(0));
        let left = format!("{name} is DOWN, reason: Layer7 wrong status, code: 503");
        assert!(
            balancer.process.output().contains(&left),
            "the balancer noticed earlier:\n{}",
            balancer.process.output()
        );
        fleet.wait_for_progress(50).await;
    }
    let sent = fleet.finish().await;
    let failed: Vec<_> = sent
        .iter()
        .filter(|sent| !matches!(&sent.response, Some((_, outcome)) if outcome == "delivered" || outcome == "duplicate"))
        .map(|sent| (&sent.id, &sent.response))
        .collect();
    assert!(
        failed.is_empty(),
        "{failed:?} of {}\n{}",
        sent.len(),
        balancer.process.output()
    );
    let mut events = upstream.event_ids();
    let count = events.len();
    events.sort();
    events.dedup();
    assert_eq!(events.len(), count, "each event arrives once");
}
