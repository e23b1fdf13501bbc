//! The resolver against a fake name server.

use std::net::Ipv4Addr;

use tokio::time::timeout;

use super::*;
use name_server::{Answer, NameServer};

#[allow(dead_code, unreachable_pub, reason = "shared with the black-box tests")]
#[path = "../../../tests/it/harness/dns.rs"]
mod name_server;

/// A name that no search domain is appended to.
const APP: &str = "app.test.";
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

async fn resolver() -> (NameServer, Resolver) {
    let server = NameServer::start().await;
    let resolver = Resolver::new(Some(server.address()));
    (server, resolver)
}

async fn resolve(name: &Arc<Name>) -> Result<Vec<IpAddr>, ResolveError> {
    Ok(name.addresses().await?.to_vec())
}

/// Awaits a condition that time alone brings about.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), met)
        .await
        .expect("the condition is met in time");
}

#[tokio::test]
async fn one_lookup_answers_all_who_wait() {
    let (server, resolver) = resolver().await;
    server.set(APP, Answer::address(FIRST, 60));
    let name = resolver.name(APP);
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let name = Arc::clone(&name);
            tokio::spawn(async move { resolve(&name).await })
        })
        .collect();
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap(), Ok(vec![FIRST.into()]));
    }
    assert_eq!(server.questions(APP), 1);
    assert!(name.fresh().is_some());
    assert!(Arc::ptr_eq(&name, &resolver.name("APP.test.")));
}

#[tokio::test]
async fn changed_address_counts_when_its_lifetime_is_over() {
    let (server, resolver) = resolver().await;
    server.set(APP, Answer::address(FIRST, 1));
    let name = resolver.name(APP);
    assert_eq!(resolve(&name).await, Ok(vec![FIRST.into()]));
    server.set(APP, Answer::address(SECOND, 1));
    until(async || resolve(&name).await == Ok(vec![SECOND.into()])).await;
}

#[tokio::test]
async fn absent_name_is_not_asked_for_again_at_once() {
    let (server, resolver) = resolver().await;
    server.set(APP, Answer::Absent { ttl: 2 });
    let name = resolver.name(APP);
    for _ in 0..5 {
        assert_eq!(resolve(&name).await, Err(ResolveError::NoSuchHost));
    }
    assert_eq!(server.questions(APP), 1);
    server.set(APP, Answer::address(FIRST, 60));
    until(async || resolve(&name).await == Ok(vec![FIRST.into()])).await;
}

#[tokio::test]
async fn failing_name_servers_leave_the_last_known_address() {
    let (server, resolver) = resolver().await;
    server.set(APP, Answer::address(FIRST, 1));
    let name = resolver.name(APP);
    assert_eq!(resolve(&name).await, Ok(vec![FIRST.into()]));
    server.set(APP, Answer::Failure);
    until(async || {
        assert_eq!(resolve(&name).await, Ok(vec![FIRST.into()]));
        server.questions(APP) > 2
    })
    .await;
    server.set(APP, Answer::address(SECOND, 1));
    until(async || resolve(&name).await == Ok(vec![SECOND.into()])).await;
}

#[tokio::test]
async fn silent_name_servers_cost_one_short_wait() {
    let (server, resolver) = resolver().await;
    server.set(APP, Answer::address(FIRST, 1));
    let name = resolver.name(APP);
    assert_eq!(resolve(&name).await, Ok(vec![FIRST.into()]));
    server.set_silent(true);
    until(async || {
        let started = Instant::now();
        assert_eq!(resolve(&name).await, Ok(vec![FIRST.into()]));
        // The look-up itself takes longer.
        assert!(started.elapsed() < Duration::from_secs(5));
        server.questions(APP) > 1
    })
    .await;
}

#[tokio::test]
async fn name_that_hangs_holds_up_no_other() {
    let (server, resolver) = resolver().await;
    server.set("slow.test.", Answer::Silence);
    server.set(APP, Answer::address(FIRST, 60));
    let slow = resolver.name("slow.test.");
    let hanging = tokio::spawn(async move { resolve(&slow).await });
    until(async || server.questions("slow.test.") > 0).await;
    assert_eq!(resolve(&resolver.name(APP)).await, Ok(vec![FIRST.into()]));
    assert!(!hanging.is_finished());
}

#[tokio::test]
async fn lookup_goes_on_when_its_first_waiter_leaves() {
    let (server, resolver) = resolver().await;
    server.set(APP, Answer::Silence);
    let name = resolver.name(APP);
    let left = timeout(Duration::from_millis(50), resolve(&name)).await;
    assert!(left.is_err());
    server.set(APP, Answer::address(FIRST, 60));
    until(async || name.fresh().is_some()).await;
    assert_eq!(resolve(&name).await, Ok(vec![FIRST.into()]));
}

#[tokio::test]
async fn missing_answer_for_ipv6_does_not_hold_up_ipv4() {
    let (server, resolver) = resolver().await;
    let addresses = vec![FIRST.into()];
    server.set(APP, Answer::OnlyIpv4 { addresses, ttl: 60 });
    let name = resolver.name(APP);
    let found = timeout(Duration::from_secs(5), resolve(&name)).await;
    assert_eq!(found.unwrap(), Ok(vec![FIRST.into()]));
}

#[tokio::test]
async fn names_that_no_route_has_are_forgotten() {
    let (server, resolver) = resolver().await;
    server.set(APP, Answer::address(FIRST, 60));
    assert!(resolve(&resolver.name(APP)).await.is_ok());
    let held = resolver.name("held.test.");
    for number in 0..NAMES_KEPT {
        resolver.name(&format!("{number}.test."));
    }
    assert!(resolver.names.len() <= 4, "{}", resolver.names.len());
    assert!(resolver.name(APP).fresh().is_some());
    assert!(Arc::ptr_eq(&held, &resolver.name("held.test.")));
}

#[tokio::test]
async fn name_server_that_is_down_leaves_those_behind_it() {
    let (down, server) = (NameServer::start().await, NameServer::start().await);
    down.set_silent(true);
    server.set(APP, Answer::address(FIRST, 60));
    let resolver = Resolver {
        name_servers: Arc::new(NameServers::new([down.address(), server.address()])),
        names: DashMap::new(),
    };
    let name = resolver.name(APP);
    let found = timeout(Duration::from_secs(5), resolve(&name)).await;
    assert_eq!(found.unwrap(), Ok(vec![FIRST.into()]));
}
