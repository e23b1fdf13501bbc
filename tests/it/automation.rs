//! The admin API for automation: idempotency keys, entity tags, patches, pages, and changes that need
//! no content type.

use serde_json::{Value, json};

use crate::harness::*;
use crate::replicas::{replicas, shared_store_setup};

const TOKEN: &str = "admin_it_token_77aa";
const READ_TOKEN: &str = "read_it_token_77bb";

async fn send(gateway: &Gateway, request: Request) -> Response {
    let request = request.set("Host", &gateway.admin_address().to_string());
    Client::connect(gateway.admin_address())
        .await
        .send(request)
        .await
}

fn request(method: &str, path: &str, document: &Value) -> Request {
    Request::post(document.to_string().as_bytes())
        .method(method)
        .at(path)
}

fn parsed(response: &Response) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

#[track_caller]
fn assert_problem(response: &Response, status: u16, code: &str) {
    assert_eq!(
        (response.status, parsed(response)["code"].as_str()),
        (status, Some(code)),
        "{}",
        response.text()
    );
}

#[track_caller]
fn tag(response: &Response) -> String {
    let tag = response.header("ETag");
    tag.unwrap_or_else(|| panic!("{}", response.text()))
        .to_owned()
}

/// Creates a webhook and returns its path and its entity tag.
async fn create(gateway: &Gateway, document: &Value) -> (String, String) {
    let made = send(gateway, request("POST", "/webhooks", document)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let location = made.header("Location").unwrap().to_owned();
    assert_eq!(
        location,
        format!(
            "/webhooks/{}",
            parsed(&made)["webhook"]["id"].as_str().unwrap()
        )
    );
    (location, tag(&made))
}

async fn create_with_key(gateway: &Gateway, key: &str, body: &str) -> Response {
    let request = Request::post(body.as_bytes()).at("/webhooks");
    send(gateway, request.header("Idempotency-Key", key)).await
}

/// Asserts that `repeated` is the answer `first` again.
#[track_caller]
fn assert_repeated(first: &Response, repeated: &Response) {
    assert_eq!(
        (repeated.status, repeated.text()),
        (first.status, first.text())
    );
    for name in ["Location", "ETag", "Content-Type"] {
        assert_eq!(repeated.header(name), first.header(name), "{name}");
    }
    repeated.assert_header("Idempotent-Replayed", "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_creates_one_webhook() {
    let upstream = Upstream::ok();
    let admin = r#"{address: "127.0.0.1:0", max_webhooks: 2}"#;
    let mut gateway = Gateway::start(Setup::from(Route::to(&upstream)).with("admin", admin)).await;
    let body = json!({"url": upstream.url(), "expect_every": "1h"}).to_string();
    let first = create_with_key(&gateway, "key-1", &body).await;
    assert_eq!(first.status, 201, "{}", first.text());
    assert_eq!(first.header("Idempotent-Replayed"), None);
    let webhook = parsed(&first)["webhook"].clone();
    let secret = webhook["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && !secret.contains('*'));
    let spaced = format!(
        "{{ \"expect_every\": \"1h\",\n \"url\": {} }}",
        json!(upstream.url())
    );
    for (key, body) in [("key-1", &body), ("\"key-1\"", &body), ("key-1", &spaced)] {
        assert_repeated(&first, &create_with_key(&gateway, key, body).await);
    }
    let path = first.header("Location").unwrap();
    let shown = gateway.admin_get(path).await;
    assert_eq!(tag(&shown), tag(&first));
    // A repetition creates nothing, so the limit does not refuse it.
    create(&gateway, &json!({"url": upstream.url()})).await;
    assert_repeated(&first, &create_with_key(&gateway, "key-1", &body).await);
    let other = create_with_key(&gateway, "key-2", &body).await;
    assert_problem(&other, 409, "too_many_webhooks");
    gateway.kill().await;
    gateway.restart().await;
    let changed = send(&gateway, request("PUT", path, &json!({"secret": "s2"}))).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_repeated(&first, &create_with_key(&gateway, "key-1", &body).await);
    let removed = send(&gateway, Request::new("DELETE", path)).await;
    assert_eq!(removed.status, 200, "{}", removed.text());
    assert_repeated(&first, &create_with_key(&gateway, "key-1", &body).await);
    assert_eq!(gateway.admin_get(path).await.status, 404);
    assert_eq!(gateway.api("/webhooks").await["total"], 2);
    assert!(!gateway.output().contains(secret), "the log has the secret");
    wait::eventually("repetitions are in the audit log", async || {
        let lines = gateway.lines().into_iter();
        let made: Vec<_> = lines
            .filter(|line| line["operation"] == "make_webhook")
            .map(|line| line["outcome"].clone())
            .collect();
        // Of this process, which has created nothing.
        made == ["repeated", "repeated"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_is_that_of_one_request() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let invalid = json!({"url": upstream.url(), "budget": "0s"}).to_string();
    let refused = create_with_key(&gateway, "key-1", &invalid).await;
    assert_problem(&refused, 422, "invalid_webhook");
    // Nothing was created, so the key is free.
    let body = json!({"url": upstream.url()}).to_string();
    let made = create_with_key(&gateway, "key-1", &body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    for other in [
        invalid,
        json!({"url": upstream.url(), "active": true}).to_string(),
    ] {
        let refused = create_with_key(&gateway, "key-1", &other).await;
        assert_problem(&refused, 422, "idempotency_key_reused");
    }
    for malformed in ["", "\"\"", "\"open", "a b", "a,b", &"k".repeat(256)] {
        let refused = create_with_key(&gateway, malformed, &body).await;
        assert_problem(&refused, 400, "invalid_header");
    }
    let twice = Request::post(body.as_bytes())
        .at("/webhooks")
        .header("Idempotency-Key", "a")
        .header("Idempotency-Key", "b");
    assert_problem(&send(&gateway, twice).await, 400, "invalid_header");
    assert_eq!(gateway.api("/webhooks").await["total"], 2);
    let longest = create_with_key(&gateway, &"k".repeat(255), &body).await;
    assert_eq!(longest.status, 201, "{}", longest.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_creates_once_among_replicas() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [one, two] = replicas(&Route::to(&upstream), &postgres).await;
    let body = json!({"url": upstream.url()}).to_string();
    let (first, second) = tokio::join!(
        create_with_key(&one, "key-1", &body),
        create_with_key(&two, "key-1", &body)
    );
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.text(), second.text());
    let path = first.header("Location").unwrap();
    for gateway in [&one, &two] {
        // Also at the gateway that has not polled yet.
        assert_eq!(tag(&gateway.admin_get(path).await), tag(&first));
        assert_eq!(gateway.api("/webhooks").await["total"], 2);
    }
    drop(one);
    let third = create_with_key(&two, "key-1", &body).await;
    assert_repeated(&first, &third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_in_flight_is_conflict() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let gateway = Gateway::start(shared_store_setup(Route::to(&upstream), &postgres.url())).await;
    let body = json!({"url": upstream.url()}).to_string();
    // Nothing is created before the database is back.
    postgres.freeze().await;
    let create = || create_with_key(&gateway, "key-1", &body);
    let (one, other) = (create(), create());
    tokio::pin!(one, other);
    let (refused, made) = tokio::select! {
        refused = &mut one => {
            postgres.resume();
            (refused, other.await)
        }
        refused = &mut other => {
            postgres.resume();
            (refused, one.await)
        }
    };
    assert_problem(&refused, 409, "idempotency_key_in_flight");
    assert_eq!(made.status, 201, "{}", made.text());
    assert_repeated(&made, &create().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_webhook_is_not_sent_again() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    let (path, first) = create(&gateway, &json!({"url": upstream.url()})).await;
    assert!(first.starts_with('"') && first.ends_with('"'), "{first}");
    let shown = gateway.admin_get(&path).await;
    assert_eq!(
        (tag(&shown), parsed(&shown)["webhook"]["version"].as_str()),
        (first.clone(), Some(first.trim_matches('"')))
    );
    let tested = send(&gateway, Request::new("POST", &format!("{path}/test"))).await;
    assert_eq!(parsed(&tested)["outcome"], "delivered", "{}", tested.text());
    let get = async |gateway: &Gateway, method: &str, name: &str, value: &str| {
        let request = Request::new(method, &path).header(name, value);
        send(gateway, request).await
    };
    for matching in [
        first.clone(),
        format!("W/{first}"),
        "*".into(),
        format!("\"x\", {first}"),
    ] {
        for method in ["GET", "HEAD"] {
            let response = get(&gateway, method, "If-None-Match", &matching).await;
            assert_eq!(
                (response.status, response.body.len()),
                (304, 0),
                "{matching}"
            );
            assert_eq!(tag(&response), first);
        }
    }
    let other = get(&gateway, "GET", "If-None-Match", "\"x\"").await;
    assert_eq!((other.status, tag(&other)), (200, first.clone()));
    assert_eq!(get(&gateway, "GET", "If-Match", &first).await.status, 200);
    let failed = get(&gateway, "GET", "If-Match", "\"x\"").await;
    assert_problem(&failed, 412, "precondition_failed");
    gateway.kill().await;
    gateway.restart().await;
    let after = get(&gateway, "GET", "If-None-Match", &first).await;
    assert_eq!(after.status, 304);
    let file = gateway.admin_get("/webhooks/wh_hooks").await;
    assert_eq!((file.status, file.header("ETag")), (200, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_needs_the_version_it_names() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let (path, first) = create(&gateway, &json!({"url": upstream.url()})).await;
    let change = async |method: &str, path: &str, name: &str, value: &str| {
        let request = request(method, path, &json!({"description": "d"}));
        send(&gateway, request.header(name, value)).await
    };
    let mut tags = vec![first];
    for method in ["PUT", "PATCH", "PUT"] {
        let current = tags.last().unwrap();
        let changed = change(method, &path, "If-Match", &format!("\"x\",{current}")).await;
        assert_eq!(changed.status, 200, "{}", changed.text());
        let new = tag(&changed);
        // Also if the definition is what it was.
        assert!(!tags.contains(&new), "{method}");
        assert_eq!(tag(&gateway.admin_get(&path).await), new);
        tags.push(new);
    }
    let current = tags.pop().unwrap();
    let weak = format!("W/{current}");
    for method in ["PUT", "PATCH", "DELETE"] {
        for stale in tags.iter().chain([&weak, &"\"\"".to_owned()]) {
            let refused = change(method, &path, "If-Match", stale).await;
            assert_problem(&refused, 412, "precondition_failed");
        }
        for excluded in [&*current, &weak, "*"] {
            let refused = change(method, &path, "If-None-Match", excluded).await;
            assert_problem(&refused, 412, "precondition_failed");
        }
        for malformed in ["", "x", "\"x", "*, *"] {
            let refused = change(method, &path, "If-Match", malformed).await;
            assert_problem(&refused, 400, "invalid_header");
        }
        // A request that fails anyway fails as it does without a condition (RFC 9110 §13.2.1).
        for (path, status, code) in [
            ("/webhooks/wh_none", 404, "unknown_webhook"),
            ("/webhooks/wh_hooks", 409, "in_file"),
        ] {
            assert_problem(
                &change(method, path, "If-Match", "\"x\"").await,
                status,
                code,
            );
            assert_problem(&change(method, path, "If-Match", "*").await, status, code);
        }
    }
    assert_eq!(tag(&gateway.admin_get(&path).await), current);
    let any = change("PUT", &path, "If-Match", "*").await;
    assert_eq!(any.status, 200, "{}", any.text());
    let removed = change("DELETE", &path, "If-Match", &tag(&any)).await;
    assert_eq!(removed.status, 200, "{}", removed.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphql_changes_the_version_it_names() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let (path, first) = create(&gateway, &json!({"url": upstream.url()})).await;
    let id = path.strip_prefix("/webhooks/").unwrap();
    let run = async |query: &str, variables: Value| {
        let document = json!({"query": query, "variables": variables});
        parsed(&gateway.admin_post("/graphql", &document).await)
    };
    let configure = async |id: Option<&str>, version: &str| {
        let query = "mutation ($webhook: WebhookInput!) { configureWebhook(webhook: $webhook) { version } }";
        let webhook = json!({"id": id, "url": upstream.url(), "events": [], "version": version});
        run(query, json!({"webhook": webhook})).await
    };
    let version = |tag: &str| tag.trim_matches('"').to_owned();
    let code = |response: &Value| response["errors"][0]["extensions"]["code"].clone();
    let query = "query ($id: ID!) { webhook(id: $id) { version } }";
    let shown = run(query, json!({"id": id})).await;
    assert_eq!(shown["data"]["webhook"]["version"], version(&first));
    let changed = configure(Some(id), &version(&first)).await;
    let second = tag(&gateway.admin_get(&path).await);
    assert_ne!(second, first);
    assert_eq!(
        changed["data"]["configureWebhook"]["version"],
        version(&second),
        "{changed}"
    );
    assert_eq!(
        code(&configure(Some(id), &version(&first)).await),
        "precondition_failed"
    );
    assert_eq!(
        code(&configure(None, &version(&first)).await),
        "invalid_body"
    );
    let delete =
        "mutation ($id: ID!, $version: String) { deleteWebhook(id: $id, version: $version) }";
    let refused = run(delete, json!({"id": id, "version": version(&first)})).await;
    assert_eq!(code(&refused), "precondition_failed");
    let removed = run(delete, json!({"id": id, "version": version(&second)})).await;
    assert_eq!(removed["data"]["deleteWebhook"], true, "{removed}");
}

/// Sends a change with the same `If-Match` from eight clients at once; each gateway answers some.
async fn assert_one_writer_wins(gateways: &[&Gateway], upstream: &Upstream) {
    let (path, mut current) = create(gateways[0], &json!({"url": upstream.url()})).await;
    for method in ["PUT", "PATCH", "DELETE"] {
        let change = async |number: usize| {
            let document = json!({"description": number.to_string()});
            let request = request(method, &path, &document).header("If-Match", &current);
            send(gateways[number % gateways.len()], request).await
        };
        let responses: [Response; 8] = tokio::join!(
            change(0),
            change(1),
            change(2),
            change(3),
            change(4),
            change(5),
            change(6),
            change(7)
        )
        .into();
        let (won, lost): (Vec<_>, Vec<_>) = responses
            .iter()
            .partition(|response| response.status == 200);
        assert_eq!(won.len(), 1, "{method}");
        for response in lost {
            if method == "DELETE" && response.status == 404 {
                continue;
            }
            assert_problem(response, 412, "precondition_failed");
        }
        if method != "DELETE" {
            current = tag(won[0]);
            for gateway in gateways {
                assert_eq!(tag(&gateway.admin_get(&path).await), current);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_writers_wins() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    assert_one_writer_wins(&[&gateway], &upstream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_writer_wins_among_replicas() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [one, two] = replicas(&Route::to(&upstream), &postgres).await;
    assert_one_writer_wins(&[&one, &two], &upstream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_shows_what_other_one_wrote() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [one, two] = replicas(&Route::to(&upstream), &postgres).await;
    for number in 0..5 {
        let (path, mut current) = create(&one, &json!({"url": upstream.url()})).await;
        assert_eq!(tag(&two.admin_get(&path).await), current);
        for gateway in [&two, &one, &two] {
            let change = request("PATCH", &path, &json!({"description": number.to_string()}));
            let changed = send(gateway, change.header("If-Match", &current)).await;
            assert_eq!(changed.status, 200, "{}", changed.text());
            current = tag(&changed);
        }
        let paused = send(&one, Request::new("POST", &format!("{path}/pause"))).await;
        assert_eq!(paused.status, 200, "{}", paused.text());
        let removed = send(
            &one,
            Request::new("DELETE", &path).header("If-Match", &current),
        )
        .await;
        assert_eq!(removed.status, 200, "{}", removed.text());
        assert_eq!(two.admin_get(&path).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patch_is_a_merge_patch() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let made = json!({
        "url": upstream.url(), "provider": "orbvpn", "secret": "mine", "path": "/made",
        "description": "old", "events": ["a.*"], "headers": {"X-A": "1", "X-B": "2"},
        "max_body": "2KiB", "retry": {"initial": "1s", "horizon": "1h"}
    });
    let (path, _) = create(&gateway, &made).await;
    let send_patch = async |content_type: &str, document: &Value| {
        let request = request("PATCH", &path, document).set("Content-Type", content_type);
        send(&gateway, request).await
    };
    let document = json!({
        "description": null, "events": null, "headers": {"X-A": null, "X-C": "3"},
        "max_body": null, "retry": {"initial": null}
    });
    let patched = send_patch("application/merge-patch+json", &document).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    let webhook = &parsed(&patched)["webhook"];
    assert_eq!(
        (
            &webhook["description"],
            &webhook["events"],
            &webhook["path"]
        ),
        (&json!(""), &json!(["*"]), &json!("/made"))
    );
    assert_eq!(webhook["secret"], "whsec_***masked***");
    // The secret is still the same, and a larger body is allowed again.
    let body = Event::sized("evt_1", 4_096).body;
    let event = Request::post(&body)
        .at("/made")
        .header("X-Signature", &sign("mine", &body));
    gateway.send(event).await.assert(200, "delivered");
    let delivered = upstream.last();
    delivered.assert_no_header("X-A");
    delivered.assert_header("X-B", "2");
    delivered.assert_header("X-C", "3");
    let id = path.strip_prefix("/webhooks/").unwrap();
    let reset = send_patch("application/json", &json!({"path": null, "provider": null})).await;
    let webhook = &parsed(&reset)["webhook"];
    assert_eq!(
        (&webhook["path"], &webhook["provider"]),
        (&json!(format!("/webhooks/{id}")), &json!("vpn-enterprise"))
    );
    let before = tag(&reset);
    for (document, status, code) in [
        (json!({"url": null}), 422, "invalid_webhook"),
        (json!({"secret": null}), 422, "invalid_webhook"),
        (json!({"secret": ""}), 422, "invalid_webhook"),
        (json!({"nonsense": null}), 422, "invalid_webhook"),
        (json!({"enforce": false}), 422, "invalid_webhook"),
        (
            json!({"secrets": [{"file": "/etc/passwd"}]}),
            422,
            "invalid_webhook",
        ),
        (
            json!({"url": "http://169.254.169.254/"}),
            422,
            "invalid_webhook",
        ),
        (json!({"path": PATH}), 409, "taken"),
        // What is left of `retry` decides, not the patch alone.
        (json!({"retry": {"initial": "2h"}}), 422, "invalid_webhook"),
        (json!({"url": 7}), 400, "invalid_body"),
        (json!([]), 400, "invalid_body"),
        (json!(null), 400, "invalid_body"),
    ] {
        let refused = send_patch("application/merge-patch+json", &document).await;
        assert_problem(&refused, status, code);
    }
    assert_eq!(tag(&gateway.admin_get(&path).await), before);
    for content_type in ["application/json-patch+json", "text/plain", ""] {
        let refused = send_patch(content_type, &json!({"active": false})).await;
        assert_problem(&refused, 415, "unsupported_media_type");
        refused.assert_header(
            "Accept-Patch",
            "application/merge-patch+json, application/json",
        );
    }
    let refused = request("PATCH", "/webhooks/wh_hooks", &json!({"active": false}));
    assert_problem(&send(&gateway, refused).await, 409, "in_file");
    for method in ["OPTIONS", "POST"] {
        let refused = send(&gateway, Request::new(method, &path)).await;
        assert_problem(&refused, 405, "method_not_allowed");
        let allowed = refused.header("Allow").unwrap();
        for method in ["GET", "PUT", "PATCH", "DELETE"] {
            assert!(allowed.split(',').any(|one| one == method), "{allowed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patch_needs_the_admin_token() {
    let upstream = Upstream::ok();
    let admin = r#"{address: "127.0.0.1:0", token: {env: ADMIN}, read_token: {env: READ}}"#;
    let setup = Setup::from(Route::to(&upstream)).with("admin", admin);
    let gateway = Gateway::start(setup.env("ADMIN", TOKEN).env("READ", READ_TOKEN)).await;
    let with =
        |request: Request, token: &str| request.header("Authorization", &format!("Bearer {token}"));
    let create = request("POST", "/webhooks", &json!({"url": upstream.url()}));
    let made = send(&gateway, with(create, TOKEN)).await;
    let path = made.header("Location").unwrap();
    let change = || request("PATCH", path, &json!({"active": false}));
    assert_problem(&send(&gateway, change()).await, 401, "unauthorized");
    let refused = send(&gateway, with(change(), READ_TOKEN)).await;
    assert_problem(&refused, 403, "read_only");
    let stale = with(change(), TOKEN).header("If-Match", "\"x\"");
    assert_problem(&send(&gateway, stale).await, 412, "precondition_failed");
    let patched = send(&gateway, with(change(), TOKEN)).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    let foreign = with(change(), TOKEN).header("Origin", "https://evil.example");
    assert_problem(&send(&gateway, foreign).await, 403, "cross_origin");
    let name = path.strip_prefix("/webhooks/wh_").unwrap();
    let outcomes = || {
        let lines = gateway.lines().into_iter();
        let audited = lines.filter(|line| {
            line["message"] == "audit"
                && line["subject"]
                    .as_str()
                    .is_some_and(|subject| subject.ends_with(name))
        });
        let pairs = audited.map(|line| format!("{} {}", line["operation"], line["outcome"]));
        pairs.collect::<Vec<_>>()
    };
    let expected = [
        "\"make_webhook\" \"done\"",
        "\"change\" \"read_only\"",
        "\"change_webhook\" \"precondition_failed\"",
        "\"change_webhook\" \"done\"",
    ];
    wait::eventually("every change is in the audit log", async || {
        outcomes() == expected
    })
    .await;
}

/// Reads all pages and returns the names on them, each with the page's size.
async fn paged_names(gateway: &Gateway, limit: usize) -> Vec<String> {
    let (mut names, mut path) = (Vec::new(), format!("/webhooks?limit={limit}"));
    loop {
        let page = gateway.api(&path).await;
        let webhooks = page["webhooks"].as_array().unwrap();
        names.extend(
            webhooks
                .iter()
                .map(|webhook| webhook["name"].as_str().unwrap().to_owned()),
        );
        let cursor = page["next_cursor"].as_str();
        assert_eq!(page["has_more"], cursor.is_some());
        let Some(cursor) = cursor else { break };
        assert_eq!(webhooks.len(), limit);
        path = format!("/webhooks?limit={limit}&cursor={cursor}");
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_listed_in_pages() {
    let upstream = Upstream::ok();
    let names = ["b", "d", "a", "c"];
    let routes = names.map(|name| {
        Route::to(&upstream)
            .named(name)
            .with("path", &format!("/{name}"))
    });
    let gateway = Gateway::start(Setup::new(routes)).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(create(&gateway, &json!({"url": upstream.url()})).await.0);
    }
    let all = gateway.api("/webhooks").await;
    assert_eq!(
        (&all["total"], &all["has_more"], &all["next_cursor"]),
        (&json!(7), &json!(false), &Value::Null)
    );
    // Without parameters, those of the file come first, in its order.
    for (webhook, name) in all["webhooks"].as_array().unwrap().iter().zip(names) {
        assert_eq!(webhook["name"], name);
    }
    let mut expected: Vec<_> = all["webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|webhook| webhook["name"].as_str().unwrap().to_owned())
        .collect();
    expected.sort();
    for limit in [1, 2, 3, 7, 100] {
        assert_eq!(paged_names(&gateway, limit).await, expected, "{limit}");
    }
    // The page behind a webhook that is gone begins where it was.
    let second = format!("/webhooks/wh_{}", expected[1]);
    let cursor = if made.contains(&second) {
        send(&gateway, Request::new("DELETE", &second)).await;
        expected.remove(1)
    } else {
        expected[0].clone()
    };
    let rest = gateway
        .api(&format!("/webhooks?limit=100&cursor=wh_{cursor}"))
        .await;
    assert_eq!(rest["webhooks"][0]["name"], expected[1]);
    assert_eq!(rest["total"], expected.len());
    let behind = gateway.api("/webhooks?cursor=wh_zz").await;
    assert_eq!(
        (&behind["webhooks"], &behind["has_more"]),
        (&json!([]), &json!(false))
    );
    for wrong in [
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=a",
        "cursor=",
        "page=2",
        "limit=1&limit=1",
    ] {
        let refused = gateway.admin_get(&format!("/webhooks?{wrong}")).await;
        assert_problem(&refused, 400, "invalid_parameter");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn post_without_body_needs_no_content_type() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("retain", "{payloads: all}")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let listed = gateway.api("/deliveries").await;
    let delivery = listed["deliveries"][0]["id"].as_str().unwrap();
    let paths = [
        "/webhooks/wh_hooks/pause".to_owned(),
        "/webhooks/wh_hooks/resume".to_owned(),
        "/reload".to_owned(),
        "/webhooks/wh_hooks/test".to_owned(),
        format!("/deliveries/{delivery}/redeliver"),
    ];
    let own = format!("http://{}", gateway.admin_address());
    for path in &paths {
        let post = || Request::new("POST", path);
        // A browser says who it is, and then needs the content type as before.
        for (name, value) in [
            ("Origin", &*own),
            ("Sec-Fetch-Site", "same-origin"),
            ("Sec-Fetch-Mode", "cors"),
            ("Sec-Fetch-Dest", "empty"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Type", "text/plain"),
        ] {
            let refused = send(&gateway, post().header(name, value)).await;
            assert_problem(&refused, 415, "unsupported_media_type");
        }
        for origin in ["https://evil.example", "null"] {
            let foreign = send(&gateway, post().header("Origin", origin)).await;
            assert_problem(&foreign, 403, "cross_origin");
        }
        let with_body = Request::post(b"{}").at(path).without("Content-Type");
        for refused in [with_body.clone(), with_body.chunked(2)] {
            let refused = send(&gateway, refused).await;
            assert_problem(&refused, 415, "unsupported_media_type");
        }
        let empty = Request::post(b"").at(path).without("Content-Type");
        for request in [post(), empty] {
            let done = send(&gateway, request).await;
            let again = path.ends_with("redeliver") && done.status == 409;
            assert!(
                matches!(done.status, 200 | 202) || again,
                "{path}: {}",
                done.text()
            );
        }
    }
    let empty = send(&gateway, Request::new("POST", "/webhooks")).await;
    assert_problem(&empty, 400, "invalid_body");
}
