//! File descriptors: the soft limit is raised, senders leave some for the rest, and running out of
//! them closes nothing for good.

use crate::harness::command::{command, finish};
use crate::harness::*;

/// Starts the binary after this shell command.
fn launched_after(limit: &str) -> Launcher {
    let exec_binary = format!("{limit}; exec \"$@\"");
    Launcher::command(["sh", "-c", &exec_binary, "sh"].map(Into::into).into())
}

/// Returns the soft and the hard limit of the gateway's open files.
fn file_limits(gateway: &Gateway) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid()))
        .expect("a running process");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a limit");
    let mut numbers = line.split_whitespace().skip(3).map(ToOwned::to_owned);
    (
        numbers.next().expect("a number"),
        numbers.next().expect("a number"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_limit_is_raised_to_hard_limit() {
    let setup = Setup::from(Route::to(&Upstream::ok()));
    let gateway = Gateway::start(setup.launched_by(launched_after("ulimit -Sn 100"))).await;
    let (soft, hard) = file_limits(&gateway);
    assert_eq!(soft, hard);
    assert_ne!(soft, "100");
    let limit = gateway.admin_get("/metrics").await;
    let exported = limit.text().contains(&format!("process_max_fds {soft}\n"));
    assert!(exported, "{}", limit.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_leave_descriptors_for_the_rest() {
    let upstream = Upstream::ok();
    let routes = [
        Route::to(&upstream),
        Route::to(&upstream)
            .named("later")
            .with("delivery", "queue"),
    ];
    let setup = Setup::new(routes).launched_by(launched_after("ulimit -n 300"));
    let gateway = Gateway::start(setup).await;
    let mut kept = gateway.connect().await;
    kept.send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(gateway.connect().await);
    }
    // Half of so few are reserved.
    gateway.wait_for_metric("connections", &[], 150.0).await;
    kept.send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    kept.send(Event::new("evt_3").post().at("/webhooks/later"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(3).await;
    assert_eq!(gateway.admin_get("/readyz").await.status, 200);
    let mut beyond = gateway.connect().await;
    beyond.read_response().await.assert(503, "overloaded");
    let warning = gateway
        .lines()
        .into_iter()
        .find(|line| line["message"].to_string().contains("limits.connections"))
        .expect("a warning");
    assert_eq!(warning["level"], "warn");
    for number in ["10000", "300", "150"] {
        let message = warning["message"].to_string();
        assert!(message.contains(number), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_descriptors_refuse_senders_and_pass() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let setup = Setup::from(Route::to(&upstream).with("budget", "1h"));
    let setup = setup.launched_by(launched_after("ulimit -n 120"));
    let gateway = Gateway::start(setup).await;
    // Each request needs a connection to the upstream, too.
    let mut clients = Vec::new();
    let mut refused = 0;
    for number in 0..60 {
        let mut client = gateway.connect().await;
        client
            .write(&Event::new(&format!("evt_{number}")).post().bytes())
            .await;
        eventually("the request is forwarded or refused", async || {
            upstream.count() + refused >= number
                || gateway.output().contains("no descriptor is left")
        })
        .await;
        if gateway.output().contains("no descriptor is left") {
            refused += 1;
        }
        clients.push(client);
    }
    assert!(refused > 0, "descriptors have run out");
    assert_eq!(gateway.admin_get("/readyz").await.status, 200);
    let warnings = gateway
        .lines()
        .iter()
        .filter(|line| {
            line["message"]
                .to_string()
                .contains("no descriptor is left")
        })
        .count();
    assert_eq!(warnings, 1);
    gate.open();
    drop(clients);
    eventually("a sender is admitted again", async || {
        let mut client = gateway.connect().await;
        let response = client
            .send_raw(&Event::new("evt_after").post().bytes())
            .await;
        response.is_some_and(|response| response.outcome() == "delivered")
    })
    .await;
}

#[tokio::test]
async fn check_warns_of_too_few_open_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hookstile.yaml");
    let yaml = Setup::from(Route::to(&Upstream::ok())).yaml();
    std::fs::write(&file, yaml).expect("a writable folder");
    let binary = command().get_program().to_owned();
    let mut check = std::process::Command::new("sh");
    check
        .args(["-c", "ulimit -n 1024; exec \"$@\"", "sh"])
        .arg(binary)
        .args(["check", "--json", "--config"])
        .arg(&file)
        .env("WEBHOOK_SECRET", SECRET);
    let run = finish(check).await;
    run.assert(0);
    let document = run.json();
    let warnings = document["problems"].as_array();
    let warning = warnings
        .into_iter()
        .flatten()
        .find(|line| line["message"].to_string().contains("1024 open files"))
        .unwrap_or_else(|| panic!("{}", run.stdout));
    assert_eq!(warning["severity"], "warning");
    assert!(warning["help"].to_string().contains("11429"), "{warning}");
}
