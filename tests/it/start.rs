//! The start: a configuration that is wrong, or needs a feature that this version lacks, does not
//! start.

use crate::harness::*;

/// One file for many stages: the address of the application and the budget are variables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_choose_the_stage() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream)
        .with("upstream", "\"http://${APP}/hooks\"")
        .with("budget", "\"${BUDGET:-5s}\"");
    let setup = Setup::from(route).env("APP", &upstream.address().to_string());
    let gateway = Gateway::start(setup).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    // An operator's shell has other variables.
    let status = crate::harness::command::run_cli(&gateway, "status").await;
    status.assert(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_configuration_exits_78() {
    let upstream = Upstream::ok();
    let route = || Route::to(&upstream);
    let cases = [
        (
            "algorithm",
            route().signature("{header: X-Signature, algorithm: md5}"),
        ),
        ("secret", route().with("secrets", "[]")),
        ("secret", route().without("secrets")),
        (
            "HOOKSTILE_IT_UNSET",
            route().with("secrets", "[{env: HOOKSTILE_IT_UNSET}]"),
        ),
        ("upstream", route().without("upstream")),
        ("budget", route().with("bugdet", "10s")),
        ("window", route().with("replay", "{window: 5m}")),
        ("vpn-enterprise", route().with("provider", "vpn-enterprize")),
    ];
    for (named, route) in cases {
        let (code, output) = Gateway::refuses(route).await;
        assert_eq!(code, Some(78), "{named}: {output}");
        assert!(
            output.contains(named),
            "the message must name {named}: {output}"
        );
        assert!(!output.contains("\"listening\""), "{output}");
    }
    upstream.assert_untouched();
}

/// Slim images and systemd units set these variables; the file may be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_roots_are_named() {
    let upstream = Upstream::ok();
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let setup = Setup::from(Route::to(&upstream)).env(variable, "/nowhere/at/all");
        let (code, output) = Gateway::refuses(setup).await;
        assert_eq!(code, Some(1), "{output}");
        assert!(
            output.contains(&format!("{variable}: cannot read")),
            "{output}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_secret_never_opens_route() {
    let upstream = Upstream::ok();
    let empty_file = Route::to(&upstream).with("secrets", "[{file: empty.key}]");
    for content in ["", "\n"] {
        let (code, output) =
            Gateway::refuses(Setup::from(empty_file.clone()).file("empty.key", content)).await;
        assert_eq!(code, Some(78), "{output}");
    }
    let empty_variable = Setup::from(Route::to(&upstream)).env("WEBHOOK_SECRET", "");
    assert_eq!(Gateway::refuses(empty_variable).await.0, Some(78));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_problems_are_reported_at_once() {
    let upstream = Upstream::ok();
    let wrong = Route::to(&upstream)
        .with("budget", "soon")
        .with("max_body", "-1")
        .with("delivery", "fax");
    let (code, output) = Gateway::refuses(wrong).await;
    assert_eq!(code, Some(78));
    for named in ["budget", "max_body", "fax"] {
        assert!(
            output.contains(named),
            "the output must name {named}: {output}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_lines_configure_a_route() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).without("name")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_start_lists_unreadable_secrets() {
    let upstream = Upstream::ok();
    let route = |name: &str| {
        let secrets = format!("[{{file: {name}.key}}]");
        Route::to(&upstream).named(name).with("secrets", &secrets)
    };
    let header = route("third").with("headers", "{X-Key: {file: app.key}}");
    let header = header.with("secrets", "[{env: WEBHOOK_SECRET}]");
    let setup = Setup::new([route("first"), route("second"), header]);
    let (code, output) = Gateway::refuses(setup.clone().with("strict_start", "true")).await;
    assert_eq!(code, Some(78), "{output}");
    for file in ["first.key", "second.key", "app.key"] {
        assert!(output.contains(file), "{file}: {output}");
    }
    assert!(output.contains("`strict_start`"), "{output}");
    Gateway::start(setup.with("strict_start", "false")).await;
}
