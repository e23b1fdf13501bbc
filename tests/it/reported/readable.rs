//! Reports about odd but readable bodies.

use crate::harness::*;

/// Returns an event with another member, and its ID.
fn with_member(id: &str, member: &str) -> (Vec<u8>, String) {
    let body = format!(r#"{{"id":"{id}","type":"a.b",{member}}}"#);
    (body.into_bytes(), id.into())
}

fn nested(depth: usize, open: &str, close: &str) -> String {
    format!(r#""v":{}0{}"#, open.repeat(depth), close.repeat(depth))
}

/// Bodies that real senders write and some receivers read, each with the event's ID.
fn odd_events() -> Vec<(Vec<u8>, String)> {
    let with_mark = |id: &str| {
        let body = format!("\u{feff}{{\"id\":\"{id}\",\"type\":\"a.b\"}}");
        (body.into_bytes(), id.to_owned())
    };
    vec![
        with_mark("bom"),
        with_member("high", r#""preview":"see you \ud83d""#),
        with_member("low", r#""preview":"\ude00 see you""#),
        with_member("key", r#""\ud83d":1"#),
        with_member("nan", r#""ratio":NaN"#),
        with_member("infinity", r#""ratio":[Infinity,-Infinity]"#),
        with_member("huge", r#""ratio":1e400"#),
        with_member("digits", &format!(r#""n":{}"#, "9".repeat(400))),
        with_member("arrays", &nested(127, "[", "]")),
        with_member("objects", &nested(300, r#"{"id":"#, "}")),
        with_member("deep", &nested(50_000, "[", "]")),
        with_member("twins", r#""data":{"id":1,"ID":2,"id":3},"x":1,"x":2"#),
        with_member("nul", r#""x":"\u0000""#),
    ]
}

/// A .NET sender's byte order mark, a text cut in the middle of an emoji, `NaN` from Python, and
/// deep nesting were refused with 400, and every retry, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_with_odd_members_is_delivered_unchanged() {
    let upstream = Upstream::ok();
    let queued = Route::to(&upstream)
        .named("queued")
        .with("delivery", "queue");
    let gateway = Gateway::start(Setup::new([Route::to(&upstream), queued])).await;
    let mut client = gateway.connect().await;
    for (body, id) in odd_events() {
        let event = Event::raw(body);
        client
            .send(event.post())
            .await
            .assert(200, "delivered")
            .assert_event_id(&id);
        client.send(event.post()).await.assert(409, "duplicate");
        client
            .send(event.post().at("/webhooks/queued"))
            .await
            .assert(202, "queued");
        eventually("both were delivered", async || {
            upstream.requests_for(&id).len() == 2
        })
        .await;
        for received in upstream.requests_for(&id) {
            assert_eq!(received.body, event.body, "{id}");
        }
    }
}

/// An operator's client must read the list, whatever bodies it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_of_odd_events_is_plain_json() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("retain", "{payloads: all}");
    let gateway = Gateway::start(route).await;
    let mut client = gateway.connect().await;
    for (body, _) in odd_events() {
        client.send(Event::raw(body)).await.assert(200, "delivered");
    }
    let list = gateway.api("/deliveries?limit=100").await;
    let shown = |id: &str| {
        let deliveries = list["deliveries"].as_array().expect("a list");
        let delivery = deliveries.iter().find(|one| one["event_id"] == id);
        delivery.expect(id)["event_data"].clone()
    };
    assert_eq!(shown("bom")["type"], "a.b");
    assert_eq!(shown("nul")["x"], "\0");
    for id in ["high", "nan", "huge", "deep"] {
        assert!(shown(id).is_null(), "{id}");
    }
}

/// What is ambiguous on the way to the ID, the type or the time is still refused: receivers would
/// read two events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oddity_in_what_is_read_is_refused() {
    let upstream = Upstream::ok();
    let envelope = "{id: /event/id, type: /type, timestamp: /at}";
    let gateway = Gateway::start(Route::to(&upstream).with("event", envelope)).await;
    let mut client = gateway.connect().await;
    let (event, rest) = (r#""event":{"id":"a"}"#, r#""type":"t","at":1787393730"#);
    let plain = format!("{{{event},{rest}}}");
    let bodies = [
        format!("{{\"event\":{{\"id\":\"a\",\"\u{130}d\":\"b\"}},{rest}}}"),
        format!("{{\"event\":{{\"\u{131}d\":\"b\",\"id\":\"a\"}},{rest}}}"),
        format!(r#"{{"event":{{"id":"a","\u0130D":"b"}},{rest}}}"#),
        format!(r#"{{"event":{{"id":"a","id":"a"}},{rest}}}"#),
        format!(r#"{{"event":{{"id":"a\ud83d"}},{rest}}}"#),
        format!(r#"{{"event":{{"id":NaN}},{rest}}}"#),
        format!(r#"{{{event},"EVENT":{{"id":"b"}},{rest}}}"#),
        format!(r#"{{{event},{rest},"Type":"u"}}"#),
        format!(r#"{{{event},{rest},"AT":1}}"#),
        format!(r#"{{{event},"type":"t\udc00","at":1787393730}}"#),
        format!(r#"{{{event},"type":"t","at":Infinity}}"#),
        format!("\u{feff}\u{feff}{plain}"),
        format!("{plain}\u{feff}"),
    ];
    for body in bodies {
        let response = client.send(Event::raw(body.as_bytes())).await;
        assert_eq!(
            (response.status, response.outcome()),
            (400, "invalid_event"),
            "{body}"
        );
    }
    upstream.assert_untouched();
    client
        .send(Event::raw(plain))
        .await
        .assert(200, "delivered");
}
