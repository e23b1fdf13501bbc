//! Reload: a changed configuration applies completely, at once and without interruption, or not at
//! all.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::command::{command, finish, run_cli as hookstile};
use crate::harness::*;

/// The configuration under test, which may name another upstream.
fn setup(upstream: &Upstream) -> Setup {
    Setup::from(Route::to(upstream))
}

async fn wait_until_served_by(gateway: &Gateway, upstream: &Upstream) {
    let mut number = 0;
    eventually("the new configuration is active", async || {
        number += 1;
        gateway
            .send(Event::new(&format!("evt_probe_{number}")))
            .await;
        upstream.count() > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_replaces_routes() {
    let (old, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&old)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.rewrite(Setup::new([
        Route::to(&new),
        Route::to(&new).named("added"),
    ]));
    gateway.signal("HUP");
    wait_until_served_by(&gateway, &new).await;
    gateway
        .send(Event::new("evt_2").post().at("/webhooks/added"))
        .await
        .assert(200, "delivered");
    let metrics = gateway.metrics().await;
    metrics.assert_value("config_last_reload_successful", &[], 1.0);
    metrics.assert_value(
        "requests_total",
        &[("route", "added"), ("outcome", "invalid_signature")],
        0.0,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_place_change_is_loaded_without_signal() {
    let (old, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&old)).await;
    gateway.rewrite(setup(&new));
    wait_until_served_by(&gateway, &new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_file_is_loaded_each_time() {
    let upstreams = [Upstream::ok(), Upstream::ok(), Upstream::ok()];
    let gateway = Gateway::start(setup(&upstreams[0])).await;
    for upstream in &upstreams[1..] {
        gateway.rename_over(setup(upstream));
        wait_until_served_by(&gateway, upstream).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_is_detected_beside_busy_log() {
    let (old, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&old)).await;
    let mut log = std::fs::File::create(gateway.directory().join("hookstile.log"))
        .expect("a writable folder");
    let writing = tokio::spawn(async move {
        loop {
            log.write_all(b"a line\n").expect("a writable file");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    gateway.rewrite(setup(&new));
    wait_until_served_by(&gateway, &new).await;
    writing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_symlink_is_loaded() {
    // As Kubernetes mounts a ConfigMap: the file is reached through a link to a folder, and that
    // link is replaced.
    let (old, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&old)).await;
    let folder = gateway.directory().to_owned();
    let publish = |version: &str, setup: &Setup| {
        std::fs::create_dir(folder.join(version)).expect("a folder");
        std::fs::write(folder.join(version).join("hookstile.yaml"), setup.yaml()).expect("a file");
        std::os::unix::fs::symlink(version, folder.join("..tmp")).expect("a link");
        std::fs::rename(folder.join("..tmp"), folder.join("..data")).expect("a rename");
    };
    publish("..v1", &setup(&old));
    std::os::unix::fs::symlink("..data/hookstile.yaml", folder.join("link")).expect("a link");
    std::fs::rename(folder.join("link"), gateway.config()).expect("a rename");
    publish("..v2", &setup(&new));
    wait_until_served_by(&gateway, &new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_from_a_file_follows_it() {
    let (upstream, folder) = (Upstream::ok(), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("app.key");
    std::fs::write(&file, "canary-first\n").expect("a writable folder");
    let headers = format!(
        "{{Authorization: {{env: APP_AUTHORIZATION}}, X-App-Key: {{file: \"{}\"}}}}",
        file.display()
    );
    let setup = Setup::from(Route::to(&upstream).with("headers", &headers))
        .env("APP_AUTHORIZATION", "Bearer canary-app");
    let gateway = Gateway::start(setup).await;
    let request = Event::new("evt_1").post();
    let request = request.header("Authorization", "Bearer forged");
    gateway.send(request).await.assert(200, "delivered");
    upstream
        .last()
        .assert_header("authorization", "Bearer canary-app");
    upstream.last().assert_header("x-app-key", "canary-first");
    std::fs::write(&file, "canary-second\n").expect("a writable folder");
    let mut number = 1;
    eventually("the new key is sent", async || {
        number += 1;
        gateway.send(Event::new(&format!("evt_{number}"))).await;
        upstream.last().header("x-app-key") == Some("canary-second")
    })
    .await;
    assert!(!gateway.output().contains("canary"), "{}", gateway.output());
}

/// Writes a file of `routes.d` with one route, or with this text in its place.
fn write_routes(gateway: &Gateway, file: &str, text: &str) {
    let folder = gateway.directory().join("routes.d");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(file), text).expect("a writable folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_routes_are_watched() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(setup(&upstream).with("routes_from", "[\"routes.d/*.yaml\"]")).await;
    let route = |name: &str| {
        format!(
            "- path: /webhooks/{name}\n  secrets: [{{value: {SECRET}, name: {name}}}]\n  \
             upstream: {}\n",
            upstream.url()
        )
    };
    let mut number = 0;
    let mut wait_for_status = async |path: &str, status: u16| {
        eventually(format!("{path} is answered with {status}"), async || {
            number += 1;
            let event = Event::new(&format!("evt_{number}")).post();
            gateway.send(event.at(path)).await.status == status
        })
        .await;
    };
    // The folder is new, too.
    write_routes(&gateway, "a.yaml", &route("first"));
    gateway.signal("HUP");
    wait_for_status("/webhooks/first", 200).await;
    write_routes(&gateway, "b.yaml", &route("second"));
    wait_for_status("/webhooks/second", 200).await;
    write_routes(&gateway, "a.yaml", &route("third"));
    wait_for_status("/webhooks/third", 200).await;
    wait_for_status("/webhooks/first", 404).await;

    write_routes(
        &gateway,
        "c.yaml",
        "- path: /webhooks/fourth\n  secrts: []\n",
    );
    gateway
        .wait_for_metric("config_last_reload_successful", &[], 0.0)
        .await;
    eventually("the log names the file", async || {
        gateway
            .output()
            .contains("c.yaml:2:3: unknown key `secrts`")
    })
    .await;
    wait_for_status("/webhooks/second", 200).await;
    std::fs::remove_file(gateway.directory().join("routes.d/c.yaml")).expect("the file");
    std::fs::remove_file(gateway.directory().join("routes.d/b.yaml")).expect("the file");
    wait_for_status("/webhooks/second", 404).await;
    wait_for_status("/webhooks/third", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_file_changes_nothing() {
    let (upstream, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&upstream)).await;
    let bad = [
        "routes: [".to_owned(),
        setup(&new).yaml().replace("upstream", "upstraem"),
        Setup::from(Route::to(&new).with("secrets", "[{env: HOOKSTILE_IT_UNSET}]")).yaml(),
        Setup::from(Route::to(&new).with("secrets", "[]")).yaml(),
        String::new(),
    ];
    for (number, text) in bad.iter().enumerate() {
        gateway.rewrite_text(text);
        gateway.signal("HUP");
        gateway
            .wait_for_metric("config_last_reload_successful", &[], 0.0)
            .await;
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
        gateway.rewrite(setup(&upstream));
        gateway.signal("HUP");
        gateway
            .wait_for_metric("config_last_reload_successful", &[], 1.0)
            .await;
    }
    assert_eq!((new.connections(), upstream.count()), (0, bad.len()));
    for expected in ["upstraem", "HOOKSTILE_IT_UNSET"] {
        assert!(
            gateway.output().contains(expected),
            "the log contains {expected}: {}",
            gateway.output()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_file_changes_nothing() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    std::fs::remove_file(gateway.config()).expect("the file was there");
    gateway.signal("HUP");
    gateway
        .wait_for_metric("config_last_reload_successful", &[], 0.0)
        .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.rewrite(setup(&upstream));
    gateway.signal("HUP");
    gateway
        .wait_for_metric("config_last_reload_successful", &[], 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_routes_change_at_once() {
    let (old, new) = (Upstream::ok(), Upstream::ok());
    let both = |upstream: &Upstream| {
        Setup::new([
            Route::to(upstream).named("one"),
            Route::to(upstream).named("two"),
        ])
    };
    let gateway = Gateway::start(both(&old)).await;
    let mut client = gateway.connect().await;
    let mut served_by_new = Vec::new();
    for number in 0..600 {
        let path = if number % 2 == 0 {
            "/webhooks/one"
        } else {
            "/webhooks/two"
        };
        let before = new.count();
        client
            .send(Event::new(&format!("evt_{number}")).post().at(path))
            .await
            .assert(200, "delivered");
        served_by_new.push(new.count() > before);
        if number == 100 {
            gateway.rename_over(both(&new));
            gateway.signal("HUP");
        }
        if number > 100 && !served_by_new[number] {
            // Leaves the processor to the reload.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(served_by_new[599], "the reload applies within the test");
    assert!(
        served_by_new.is_sorted(),
        "no route is old once another is new"
    );
    assert_eq!(old.count() + new.count(), 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_in_flight_keeps_old_configuration() {
    let gate = Gate::shut();
    let old = Upstream::replying([
        Reply::full(200, "", b"from the old").after(&gate),
        Reply::ok(),
    ]);
    let new = Upstream::replying([Reply::full(200, "", b"from the new")]);
    let gateway = Gateway::start(setup(&old)).await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    old.wait_for_requests(1).await;
    gateway.rewrite(setup(&new));
    gateway.signal("HUP");
    wait_until_served_by(&gateway, &new).await;
    gate.open();
    assert_eq!(
        sender.read_response().await.assert(200, "delivered").text(),
        "from the old"
    );
    assert_eq!(
        sender
            .send(Event::new("evt_2"))
            .await
            .assert(200, "delivered")
            .text(),
        "from the new"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ledger_survives_reload() {
    let (old, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&old)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.rewrite(setup(&new));
    gateway.signal("HUP");
    wait_until_served_by(&gateway, &new).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    assert!(!new.event_ids().contains(&"evt_1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_in_flight_blocks_copies_after_reload() {
    let gate = Gate::shut();
    let (old, new) = (
        Upstream::replying([Reply::ok().after(&gate), Reply::ok()]),
        Upstream::ok(),
    );
    let gateway = Gateway::start(Route::to(&old).with("replay", "{in_flight: reject}")).await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    old.wait_for_requests(1).await;
    gateway.rewrite(Route::to(&new).with("replay", "{in_flight: reject}"));
    gateway.signal("HUP");
    wait_until_served_by(&gateway, &new).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "in_flight");
    gate.open();
    sender.read_response().await.assert(200, "delivered");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_secret_file_takes_effect_on_reload() {
    let upstream = Upstream::ok();
    let setup =
        Setup::from(Route::to(&upstream).with("secrets", "[{file: webhook.key, name: current}]"));
    let gateway = Gateway::start(setup.file("webhook.key", "whsec_first\n")).await;
    gateway
        .send(Event::new("evt_1").signed_with("whsec_first"))
        .await
        .assert(200, "delivered");
    std::fs::write(gateway.directory().join("webhook.key"), "whsec_second\n")
        .expect("a writable folder");
    gateway.signal("HUP");
    eventually("the new secret is accepted", async || {
        gateway
            .send(Event::new("evt_2").signed_with("whsec_second"))
            .await
            .status
            != 401
    })
    .await;
    gateway
        .send(Event::new("evt_3").signed_with("whsec_first"))
        .await
        .assert(401, "invalid_signature");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_route_is_gone_on_kept_connections() {
    let upstream = Upstream::ok();
    let removed = Route::to(&upstream).named("removed");
    let gateway = Gateway::start(Setup::new([Route::to(&upstream), removed])).await;
    let mut client = gateway.connect().await;
    client
        .send(Event::new("evt_1").post().at("/webhooks/removed"))
        .await
        .assert(200, "delivered");
    gateway.rewrite(setup(&upstream));
    gateway.signal("HUP");
    let mut number = 1;
    eventually("the route is removed", async || {
        number += 1;
        let request = Event::new(&format!("evt_{number}"))
            .post()
            .at("/webhooks/removed");
        client.send(request).await.outcome() == "unknown_route"
    })
    .await;
    client
        .send(Event::new("evt_last"))
        .await
        .assert(200, "delivered");
}

async fn reload(gateway: &Gateway) -> (u16, Value) {
    let response = gateway.admin_post("/reload", &json!({})).await;
    (
        response.status,
        serde_json::from_slice(&response.body).expect("JSON"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_reload_is_complete_when_answered() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let secret = "literal_secret_of_a_reload_51c2";
    let added = Route::to(&upstream)
        .named("added")
        .with("secrets", &format!("[{{value: {secret}}}]"));
    gateway.rewrite(Setup::new([Route::to(&upstream), added]));
    let (status, document) = reload(&gateway).await;
    assert_eq!(
        (status, &document["success"], &document["routes"]),
        (200, &json!(true), &json!(2)),
        "{document}"
    );
    let warnings = document["warnings"].as_array().expect("a list");
    assert_eq!(warnings.len(), 1, "{document}");
    assert_eq!(
        (&warnings[0]["severity"], &warnings[0]["file"]),
        (&json!("warning"), &json!("hookstile.yaml"))
    );
    assert!(warnings[0]["line"].is_u64(), "{document}");
    assert!(!document.to_string().contains(secret), "{document}");
    let event = Event::new("evt_1");
    gateway
        .send(event.signed_with(secret).at("/webhooks/added"))
        .await
        .assert(200, "delivered");
    gateway
        .metrics()
        .await
        .assert_value("config_last_reload_successful", &[], 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_reload_lists_each_problem() {
    let (upstream, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&upstream)).await;
    let secret = "literal_secret_of_a_reload_51c2";
    let bad = Route::to(&new)
        .with("secrets", &format!("[{{value: {secret}}}]"))
        .with("budget", "0s");
    gateway.rewrite_text(&Setup::from(bad).yaml().replace("upstream:", "upstraem:"));
    let (status, problem) = reload(&gateway).await;
    assert_eq!(
        (status, &problem["code"]),
        (422, &json!("invalid_configuration")),
        "{problem}"
    );
    let problems = problem["problems"].as_array().expect("a list");
    for expected in ["upstraem", "out of range"] {
        assert!(
            problem.to_string().contains(expected),
            "{expected} in {problem}"
        );
    }
    assert!(
        problems
            .iter()
            .all(|problem| problem["file"] == "hookstile.yaml" && problem["line"].is_u64()),
        "{problem}"
    );
    let with = |severity: &str| {
        let problems = problems.iter();
        problems.filter(|it| it["severity"] == severity).count()
    };
    assert!(with("error") >= 2 && with("warning") == 1, "{problem}");
    assert!(!problem.to_string().contains(secret), "{problem}");
    gateway
        .metrics()
        .await
        .assert_value("config_last_reload_successful", &[], 0.0);
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    assert_eq!((upstream.count(), new.connections()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_command_prints_problems() {
    let (old, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&old)).await;
    gateway.rewrite(setup(&new));
    let run = hookstile(&gateway, "reload").await;
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "reloaded: 1 route\n"),
        "{}",
        run.stderr
    );
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    assert_eq!((old.count(), new.count()), (0, 1));
    gateway.rewrite_text(&setup(&old).yaml().replace("upstream:", "upstraem:"));
    let run = hookstile(&gateway, "reload").await;
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(
        run.stderr.contains("hookstile.yaml:") && run.stderr.contains("upstraem"),
        "{}",
        run.stderr
    );
    let run = hookstile(&gateway, "reload --json").await;
    let document = run.json();
    assert_eq!(
        (run.code, &document["success"], &document["code"]),
        (Some(1), &json!(false), &json!("invalid_configuration"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_reload_tells_warnings_from_errors() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let warned = Route::to(&upstream).with("secrets", "[{value: literal_secret_of_a_reload}]");
    let text = Setup::from(warned).yaml();
    gateway.rewrite_text(&text.replace("upstream:", "upstraem:"));

    let (_, refused) = reload(&gateway).await;
    let problems = &refused["problems"];
    let check = hookstile(&gateway, "reload --json").await;
    assert_eq!(check.assert(1).json()["problems"], *problems);
    let folder = gateway.directory();
    let mut check = command();
    check.current_dir(folder).args(["check", "--json"]);
    assert_eq!(finish(check).await.assert(78).json()["problems"], *problems);
    let query = json!({"query": "mutation { reload { routes warnings { severity } } }"});
    let by_graphql = async || -> Value {
        let response = gateway.admin_post("/graphql", &query).await;
        serde_json::from_slice(&response.body).expect("JSON")
    };
    let graphql = by_graphql().await;
    let extensions = &graphql["errors"][0]["extensions"];
    assert_eq!(extensions["code"], "invalid_configuration", "{graphql}");
    assert_eq!(extensions["problems"], *problems, "{graphql}");

    let run = hookstile(&gateway, "reload").await;
    let lines = &run.assert(1).stderr;
    let is_warning = |line: &str| line.contains("written in the configuration");
    let mut seen = [0, 0];
    for line in lines.lines().filter(|line| line.contains(".yaml:")) {
        let severity = if is_warning(line) {
            "warning: "
        } else {
            "error: "
        };
        assert!(line.starts_with(severity), "{lines}");
        seen[usize::from(is_warning(line))] += 1;
    }
    assert!(seen[0] > 0 && seen[1] == 1, "{lines}");
    let of_reload = |line: &Value| line["message"].to_string().contains("hookstile.yaml:");
    for line in gateway.lines().into_iter().filter(of_reload) {
        let is_warning = is_warning(&line["message"].to_string());
        let level = if is_warning { "warn" } else { "error" };
        assert!(
            line["level"].to_string().to_lowercase().contains(level),
            "{line}"
        );
    }
    let found = gateway.api("/problems").await;
    let summary = found["problems"][0]["summary"].to_string();
    assert!(!summary.contains("literal"), "{summary}");

    gateway.rewrite_text(&text);
    let graphql = by_graphql().await;
    let expected = json!({"routes": 1, "warnings": [{"severity": "warning"}]});
    assert_eq!(graphql["data"]["reload"], expected, "{graphql}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_needs_token() {
    let upstream = Upstream::ok();
    let admin = r#"{address: "127.0.0.1:0", token: {value: admin_it_token_77aa}}"#;
    let gateway = Gateway::start(setup(&upstream).with("admin", admin)).await;
    assert_eq!(reload(&gateway).await.0, 401);
    assert_eq!(hookstile(&gateway, "reload").await.code, Some(77));
    let mut gone = gateway;
    gone.stop().await;
    assert_eq!(hookstile(&gone, "reload").await.code, Some(69));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_reloads_under_load_fail_nothing() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let stopping = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let (address, stopping) = (gateway.public_address(), Arc::clone(&stopping));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut sent = 0;
                while !stopping.load(Ordering::SeqCst) {
                    // The sender keeps one connection: `send` fails the test when the connection is
                    // closed.
                    client
                        .send(Event::new(&format!("evt_{sender}_{sent}")))
                        .await
                        .assert(200, "delivered");
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    for round in 0..100 {
        let budget = if round % 2 == 0 { "9s" } else { "10s" };
        gateway.rewrite(Route::to(&upstream).with("budget", budget));
        let (status, body) = reload(&gateway).await;
        assert_eq!(status, 200, "{body}");
    }
    stopping.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.expect("no request failed");
    }
    assert!(sent >= 100, "{sent} requests");
    assert_eq!(upstream.count(), sent, "each event arrives once");
}
