//! The GraphQL API: the call that `OrbVPN` documents, parity with REST, and the limits on a query.

use serde_json::{Value, json};

use crate::harness::wait::eventually;
use crate::harness::*;

const CONFIGURE: &str = "mutation ConfigureWebhook($webhook: WebhookInput!) { \
                         configureWebhook(webhook: $webhook) { id url events active createdAt } }";
const TOKEN: &str = "admin_it_token_9c21";

async fn post(gateway: &Gateway, document: &Value) -> Response {
    gateway.admin_post("/graphql", document).await
}

/// Sends a query and returns the whole response, errors included.
async fn run_query(gateway: &Gateway, query: &str, variables: Value) -> Value {
    let response = post(gateway, &json!({"query": query, "variables": variables})).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.assert_header("Content-Type", "application/json");
    response.assert_header("Cache-Control", "no-store");
    serde_json::from_slice(&response.body).expect("JSON")
}

/// Sends a query that must succeed and returns its data.
async fn query_data(gateway: &Gateway, query: &str, variables: Value) -> Value {
    let response = run_query(gateway, query, variables).await;
    assert!(response.get("errors").is_none(), "{query}: {response}");
    response["data"].clone()
}

/// Sends a query that must fail with this code and returns the error message.
async fn query_error(gateway: &Gateway, query: &str, variables: Value, code: &str) -> String {
    let response = run_query(gateway, query, variables).await;
    assert_eq!(
        response["errors"][0]["extensions"]["code"], code,
        "{query}: {response}"
    );
    response["errors"][0]["message"]
        .as_str()
        .expect("a sentence")
        .to_owned()
}

fn input(upstream: &Upstream) -> Value {
    json!({
        "url": upstream.url(), "events": ["subscription.created", "user.*"], "secret": "orb-secret-1", "active": true,
        "headers": {"X-Custom-Header": "value"},
    })
}

fn path_of(webhook: &Value) -> String {
    format!("/webhooks/{}", webhook["id"].as_str().expect("an ID"))
}

fn in_header(id: &str) -> Request {
    let event = Event::new(id);
    Request::post(&event.body).header("X-Signature", &sign("orb-secret-1", &event.body))
}

fn in_body(id: &str) -> Request {
    let unsigned = format!(r#"{{"id":"{id}","type":"user.created","data":{{"n":1}}}}"#);
    let signature = hmac_hex("orb-secret-1", unsigned.as_bytes());
    let signed = format!(
        r#"{},"signature":"{signature}"}}"#,
        &unsigned[..unsigned.len() - 1]
    );
    Request::post(signed.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orbvpn_call_creates_durable_webhook() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    let call = json!({"query": CONFIGURE, "variables": {"webhook": input(&upstream)}, "operationName": "ConfigureWebhook"});
    let response = post(&gateway, &call).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let response: Value = serde_json::from_slice(&response.body).unwrap();
    let made = &response["data"]["configureWebhook"];
    let expected = json!({
        "id": made["id"], "url": upstream.url(), "events": ["subscription.created", "user.*"], "active": true,
        "createdAt": made["createdAt"],
    });
    assert_eq!(*made, expected, "{response}");
    assert!(
        made["createdAt"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .is_ok(),
        "{made}"
    );
    let path = path_of(made);
    gateway
        .send(in_header("evt_1").at(&path))
        .await
        .assert(200, "delivered");
    upstream.last().assert_header("X-Custom-Header", "value");
    gateway.kill().await;
    gateway.restart().await;
    gateway
        .send(in_body("evt_2").at(&path))
        .await
        .assert(200, "delivered");
    gateway
        .send(in_header("evt_1").at(&path))
        .await
        .assert(409, "duplicate");
    let forged = Request::post(&Event::new("evt_3").body)
        .header("X-Signature", &sign("other", b"x"))
        .at(&path);
    gateway
        .send(forged)
        .await
        .assert_problem(401, "invalid_signature");
    let shown = query_data(
        &gateway,
        "query ($id: ID!) { webhook(id: $id) { provider path source secret } }",
        made.clone(),
    )
    .await;
    let expected = json!({"provider": "orbvpn", "path": path, "source": "api", "secret": null});
    assert_eq!(shown["webhook"], expected);
    assert!(
        !gateway.output().contains("orb-secret-1"),
        "the log contains the secret"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_secret_is_shown_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let configure = "mutation ($webhook: WebhookInput!) { \
                     configureWebhook(webhook: $webhook) { id secret active status description delivery } }";
    let webhook = json!({
        "url": upstream.url(), "events": ["*"], "description": "mine", "provider": "vpn-enterprise",
        "settings": {"delivery": "queue"},
    });
    let made =
        query_data(&gateway, configure, json!({"webhook": webhook})).await["configureWebhook"]
            .clone();
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    assert_eq!(
        (&made["description"], &made["delivery"]),
        (&json!("mine"), &json!("queue"))
    );
    let event = |id: &str| Event::new(id).signed_with(&secret).at(&path_of(&made));
    gateway.send(event("evt_1")).await.assert(202, "queued");
    let change = json!({"id": made["id"], "url": upstream.url(), "events": ["*"], "active": false});
    let changed =
        query_data(&gateway, configure, json!({"webhook": change})).await["configureWebhook"]
            .clone();
    let expected = json!({
        "id": made["id"], "secret": null, "active": false, "status": "inactive", "description": "mine",
        "delivery": "queue",
    });
    assert_eq!(changed, expected);
    gateway
        .send(event("evt_2"))
        .await
        .assert_problem(503, "inactive");
    let listed = query_data(&gateway, "{ webhooks { id secret } }", json!({})).await;
    assert_eq!(
        listed["webhooks"][1],
        json!({"id": made["id"], "secret": null})
    );
    let remove = "mutation ($id: ID!) { deleteWebhook(id: $id) }";
    assert_eq!(
        query_data(&gateway, remove, json!({"id": made["id"]})).await["deleteWebhook"],
        true
    );
    gateway
        .send(event("evt_3"))
        .await
        .assert(404, "unknown_route");
    query_error(
        &gateway,
        remove,
        json!({"id": made["id"]}),
        "unknown_webhook",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_operation_spares_the_others() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let two = "mutation ($webhook: WebhookInput!) { \
               a: configureWebhook(webhook: $webhook) { secret } b: deleteWebhook(id: \"wh_none\") }";
    let response = run_query(&gateway, two, json!({"webhook": input(&upstream)})).await;
    assert_eq!(
        response["data"],
        json!({"a": {"secret": "orb-secret-1"}, "b": null}),
        "{response}"
    );
    let error = &response["errors"][0];
    assert_eq!(
        (&error["path"], &error["extensions"]["code"]),
        (&json!(["b"]), &json!("unknown_webhook"))
    );
    assert_eq!(response["errors"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_match_rest_codes_and_messages() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let (url, events) = (upstream.url(), json!([]));
    for (webhook, code) in [
        (
            json!({"url": "ftp://x/", "events": events}),
            "invalid_webhook",
        ),
        (
            json!({"url": "http://169.254.169.254/latest/meta-data", "events": events}),
            "invalid_webhook",
        ),
        (
            json!({"url": url, "events": events, "secret": ""}),
            "invalid_webhook",
        ),
        (
            json!({"url": url, "events": events, "settings": {"enforce": false}}),
            "invalid_webhook",
        ),
        (
            json!({"url": url, "events": events, "settings": {"secrets": [{"file": "/etc/passwd"}]}}),
            "invalid_webhook",
        ),
        (json!({"url": url, "events": events, "path": PATH}), "taken"),
        (
            json!({"url": url, "events": events, "id": "wh_hooks"}),
            "in_file",
        ),
        (
            json!({"url": url, "events": events, "id": "wh_none"}),
            "unknown_webhook",
        ),
        (
            json!({"url": url, "events": events, "id": "none"}),
            "unknown_webhook",
        ),
        (json!({"events": events}), "invalid_query"),
        (
            json!({"url": url, "events": events, "headers": {"X-A": 7}}),
            "invalid_query",
        ),
        (
            json!({"url": url, "events": events, "upstream": url}),
            "invalid_query",
        ),
    ] {
        let message = query_error(&gateway, CONFIGURE, json!({"webhook": webhook}), code).await;
        let rest = match code {
            "invalid_webhook" | "taken" if webhook.get("settings").is_none() => {
                // The error location lies inside the definition, which includes the provider.
                let mut webhook = webhook;
                webhook["provider"] = json!("orbvpn");
                gateway.admin_post("/webhooks", &webhook).await
            }
            _ => continue,
        };
        let rest: Value = serde_json::from_slice(&rest.body).unwrap();
        assert_eq!(
            (rest["code"].as_str(), rest["detail"].as_str()),
            (Some(code), Some(&*message))
        );
    }
    for (query, code) in [
        ("{ webhook(id: \"wh_none\") { id } }", "unknown_webhook"),
        (
            "{ deliveries(webhookId: \"wh_none\") { total } }",
            "unknown_webhook",
        ),
        ("{ deliveries(limit: 101) { total } }", "invalid_parameter"),
        (
            "{ deliveries(cursor: \"x\") { total } }",
            "invalid_parameter",
        ),
        ("{ deliveries(status: lost) { total } }", "invalid_query"),
        ("{ delivery(id: \"del_9\") { id } }", "unknown_delivery"),
        (
            "mutation { redeliver(id: \"del_9\") { id } }",
            "unknown_delivery",
        ),
        (
            "mutation { testWebhook(id: \"wh_none\") { success } }",
            "unknown_webhook",
        ),
        ("{ nothing }", "invalid_query"),
        ("{", "invalid_query"),
        ("", "invalid_query"),
    ] {
        query_error(&gateway, query, json!({}), code).await;
    }
    assert_eq!(gateway.api("/webhooks").await["total"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_queries_are_rejected() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let aliases = |field: &str, count: usize| {
        let fields: Vec<_> = (0..count).map(|n| format!("a{n}: {field}")).collect();
        fields.join(" ")
    };
    let deep = format!(
        "{{ __type(name: \"Query\") {{ {} name {} }} }}",
        "ofType { ".repeat(20),
        "} ".repeat(20)
    );
    let cyclic = "{ ...f } fragment f on Query { ...f ...f }".to_owned();
    for query in [
        deep,
        cyclic,
        format!("{{ {} }}", aliases("webhook(id: \"wh_hooks\") { id }", 160)),
        format!("{{ {} }}", aliases("deliveries { total }", 10)),
        format!(
            "mutation {{ {} }}",
            aliases("testWebhook(id: \"wh_hooks\") { success }", 3)
        ),
        format!(
            "{{ webhook(id: {}1{}) {{ id }} }}",
            "[".repeat(20_000),
            "]".repeat(20_000)
        ),
    ] {
        let message = query_error(&gateway, &query, json!({}), "invalid_query").await;
        assert!(
            message.contains("complex") || message.contains("deep"),
            "{message}"
        );
    }
    upstream.assert_untouched();
    let known = query_data(&gateway, INTROSPECTION, json!({})).await;
    assert_eq!(known["__schema"]["mutationType"]["name"], "Mutation");
    query_data(
        &gateway,
        &format!("{{ {} }}", aliases("webhook(id: \"wh_hooks\") { id }", 100)),
        json!({}),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_authorized_json_is_answered() {
    let upstream = Upstream::ok();
    let admin = r#"{address: "127.0.0.1:0", token: {file: admin.token}}"#;
    let setup = Setup::from(Route::to(&upstream))
        .with("admin", admin)
        .file("admin.token", TOKEN);
    let gateway = Gateway::start(setup).await;
    let query = json!({"query": "{ webhooks { id } }"}).to_string();
    let to_graphql = |request: Request| {
        request
            .at("/graphql")
            .set("Host", &gateway.admin_address().to_string())
    };
    let authorized =
        |request: Request| to_graphql(request).header("Authorization", &format!("Bearer {TOKEN}"));
    let good = || Request::post(query.as_bytes());
    for (what, request, status) in [
        ("no token", to_graphql(good()), 401),
        (
            "another token",
            to_graphql(good()).header("Authorization", "Bearer other"),
            401,
        ),
        (
            "another host",
            authorized(good()).set("Host", "evil.example"),
            421,
        ),
        (
            "another origin",
            authorized(good()).header("Origin", "https://evil.example"),
            403,
        ),
        (
            "a form",
            authorized(good()).set("Content-Type", "application/x-www-form-urlencoded"),
            415,
        ),
        (
            "GraphQL that is no JSON",
            authorized(good()).set("Content-Type", "application/graphql"),
            415,
        ),
        ("GET", authorized(Request::new("GET", "/graphql")), 405),
        (
            "GET with a query",
            authorized(Request::new("GET", "/graphql")).at("/graphql?query=%7Bwebhooks%7Bid%7D%7D"),
            405,
        ),
        (
            "no JSON",
            authorized(Request::post(b"{ webhooks { id } }")),
            400,
        ),
        ("no query", authorized(Request::post(b"{}")), 400),
        (
            "several at once",
            authorized(Request::post(format!("[{query},{query}]").as_bytes())),
            400,
        ),
        (
            "too much",
            authorized(Request::post(
                json!({"query": "#".repeat(100_000)}).to_string().as_bytes(),
            )),
            413,
        ),
        ("as it should be", authorized(good()), 200),
    ] {
        let response = Client::connect(gateway.admin_address())
            .await
            .send(request)
            .await;
        assert_eq!(response.status, status, "{what}: {}", response.text());
        let kind = if status == 200 {
            "application/json"
        } else {
            "application/problem+json"
        };
        response.assert_header("Content-Type", kind);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_match_rest_and_redeliver() {
    let upstream = Upstream::replying([
        Reply::status(422),
        Reply::status(422),
        Reply::status(422),
        Reply::ok(),
    ]);
    let retry = "{initial: 1ms, max_interval: 10ms, horizon: 50ms}";
    let gateway = Gateway::start(
        Route::to(&upstream)
            .with("delivery", "queue")
            .with("retry", retry),
    )
    .await;
    // No number type of the gateway can hold these digits.
    let body = r#"{"id":"evt_1","type":"user.created","data":{"n":12345678901234567890.10}}"#;
    gateway
        .send(Event::raw(body).post())
        .await
        .assert(202, "queued");
    gateway
        .wait_for_metric(
            "queue_events",
            &[("route", "hooks"), ("state", "dead")],
            1.0,
        )
        .await;
    for id in ["evt_2", "evt_3"] {
        gateway
            .send(Event::typed(id, "vpn.connected").post())
            .await
            .assert(202, "queued");
    }
    eventually("all ended", async || {
        gateway.api("/deliveries?status=success").await["total"] == 2
    })
    .await;

    let query = "query ($status: DeliveryStatus, $eventType: String, $limit: Int, $cursor: String) { \
                 deliveries(webhookId: \"wh_hooks\", status: $status, eventType: $eventType, limit: $limit, \
                 cursor: $cursor) { total hasMore nextCursor deliveries { id webhookId eventType eventId receivedAt \
                 deliveredAt status responseStatus responseTimeMs error attemptCount reason possibleDuplicate \
                 payloadKept } } }";
    for (variables, parameters) in [
        (json!({}), ""),
        (json!({"limit": 2}), "limit=2"),
        (
            json!({"limit": 2, "cursor": "del_2"}),
            "limit=2&cursor=del_2",
        ),
        (json!({"status": "dead"}), "status=dead"),
        (
            json!({"eventType": "vpn.connected"}),
            "event_type=vpn.connected",
        ),
    ] {
        let graphql = query_data(&gateway, query, variables).await["deliveries"].clone();
        let rest = gateway
            .api(&format!("/webhooks/wh_hooks/deliveries?{parameters}"))
            .await;
        let pages = (&rest["total"], &rest["has_more"], &rest["next_cursor"]);
        assert_eq!(
            (
                &graphql["total"],
                &graphql["hasMore"],
                &graphql["nextCursor"]
            ),
            pages
        );
        let (graphql, rest) = (
            graphql["deliveries"].as_array().unwrap(),
            rest["deliveries"].as_array().unwrap(),
        );
        assert_eq!(graphql.len(), rest.len());
        for (graphql, rest) in graphql.iter().zip(rest) {
            for (name, value) in graphql.as_object().unwrap() {
                assert_eq!(*value, rest[snake(name)], "{name}: {graphql} {rest}");
            }
        }
    }

    let one = "{ delivery(id: \"del_1\") { attempts { number status error } eventData } }";
    let response = post(&gateway, &json!({"query": one})).await;
    assert!(
        response.text().contains(&format!("\"eventData\":{body}")),
        "{}",
        response.text()
    );
    let listed = post(
        &gateway,
        &json!({"query": "{ deliveries(eventId: \"evt_1\") { deliveries { eventData } } }"}),
    )
    .await;
    assert!(
        listed.text().contains(&format!("\"eventData\":{body}")),
        "{}",
        listed.text()
    );
    let again = query_data(
        &gateway,
        "mutation { redeliver(id: \"del_1\") { id eventId } }",
        json!({}),
    )
    .await;
    assert_eq!(
        again["redeliver"],
        json!({"id": "del_1", "eventId": "evt_1"})
    );
    eventually("the event is delivered", async || {
        query_data(
            &gateway,
            "{ delivery(id: \"del_1\") { status } }",
            json!({}),
        )
        .await["delivery"]["status"]
            == "success"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_event_uses_public_listener() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let made =
        query_data(&gateway, CONFIGURE, json!({"webhook": input(&upstream)})).await["configureWebhook"]
            .clone();
    let test = "mutation ($id: ID!, $eventType: String, $customData: JSON) { \
                testWebhook(id: $id, eventType: $eventType, customData: $customData) \
                { success status outcome eventType durationMs } }";
    let variables = json!({"id": made["id"], "eventType": "user.created", "customData": {"n": 7}});
    let tested = query_data(&gateway, test, variables).await["testWebhook"].clone();
    assert_eq!(
        (&tested["success"], &tested["outcome"]),
        (&json!(true), &json!("delivered")),
        "{tested}"
    );
    let body: Value = serde_json::from_slice(&upstream.last().body).unwrap();
    assert_eq!(
        (&body["type"], &body["data"]["n"]),
        (&json!("user.created"), &json!(7))
    );
    let usual = query_data(&gateway, test, json!({"id": "wh_hooks"})).await["testWebhook"].clone();
    assert_eq!(
        (&usual["eventType"], &usual["status"]),
        (&json!("webhook.test"), &json!(200))
    );
}

/// Returns the names and values of a GraphQL document as REST has them.
fn as_rest(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (snake(name), as_rest(value)))
            .collect(),
        Value::Array(items) => items.iter().map(as_rest).collect(),
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captures_match_rest() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("capture", "{}")).await;
    for id in ["evt_1", "evt_2"] {
        let forged = Event::new(id).forged();
        gateway.send(forged).await.assert(401, "invalid_signature");
    }
    let query = "query ($outcome: String, $limit: Int) { captures(webhookId: \"wh_hooks\", \
                 outcome: $outcome, limit: $limit) { total hasMore captures { id webhookId route \
                 receivedAt outcome reason letPass status method path peer bodyBytes } webhooks { \
                 webhookId route requests bytes forSeconds tooLarge } } }";
    for (variables, parameters) in [
        (json!({}), ""),
        (json!({"limit": 1}), "?limit=1"),
        (
            json!({"outcome": "invalid_event"}),
            "?outcome=invalid_event",
        ),
    ] {
        let mut listed = as_rest(&query_data(&gateway, query, variables).await["captures"]);
        listed["success"] = json!(true);
        let path = format!("/webhooks/wh_hooks/captures{parameters}");
        assert_eq!(listed, gateway.api(&path).await);
    }
    let listed = gateway.api("/captures").await;
    let id = listed["captures"][0]["id"].clone();
    let query = "query ($id: ID!) { capture(id: $id) { id webhookId route receivedAt outcome reason \
                 letPass status peer traceId method target headers { name value } body bodyBase64 } }";
    let whole = query_data(&gateway, query, json!({"id": id})).await;
    let path = format!("/captures/{}", id.as_str().expect("an ID"));
    assert_eq!(
        as_rest(&whole["capture"]),
        gateway.api(&path).await["capture"]
    );
    query_error(&gateway, query, json!({"id": "cap_0"}), "unknown_capture").await;
    let outcome = "{ captures(outcome: \"fine\") { total } }";
    query_error(&gateway, outcome, json!({}), "invalid_parameter").await;
    let many = "{ a: capture(id: 1) { id } b: capture(id: 2) { id } c: capture(id: 3) { id } }";
    query_error(&gateway, many, json!({}), "invalid_query").await;
}

fn snake(camel: &str) -> String {
    let mut snake = String::new();
    for character in camel.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

/// The introspection query that graphql-js 16 sends.
const INTROSPECTION: &str = "
query IntrospectionQuery { __schema {
  queryType { name } mutationType { name } subscriptionType { name }
  types { ...FullType }
  directives { name description locations args { ...InputValue } }
} }
fragment FullType on __Type {
  kind name description
  fields(includeDeprecated: true) {
    name description args { ...InputValue } type { ...TypeRef } isDeprecated deprecationReason
  }
  inputFields { ...InputValue }
  interfaces { ...TypeRef }
  enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason }
  possibleTypes { ...TypeRef }
}
fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue }
fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name
  ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name
  } } } } } } } } } }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_pauses_and_resumes() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("delivery", "queue")).await;
    let id = json!({"id": "wh_hooks"});
    let paused = query_data(
        &gateway,
        "mutation ($id: ID!) { pauseWebhook(id: $id) { id queue { paused } } }",
        id.clone(),
    )
    .await;
    assert_eq!(paused["pauseWebhook"]["queue"]["paused"], true);
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    let resumed = query_data(
        &gateway,
        "mutation ($id: ID!) { resumeWebhook(id: $id) { queue { paused } } }",
        id,
    )
    .await;
    assert_eq!(resumed["resumeWebhook"]["queue"]["paused"], false);
    upstream.wait_for_requests(1).await;
}
