//! The command line as people type it: names, aliases and hints, the configuration that is found,
//! and the output on terminals, on pipes and as JSON.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::command::{Run, command, finish, run_cli as hookstile};
use crate::harness::*;

/// Runs `hookstile` in a folder.
async fn run_in(folder: &Path, arguments: &[&str]) -> Run {
    let mut command = command();
    command.current_dir(folder).args(arguments);
    finish(command).await
}

/// Runs a shell's command line in a folder, in which `$H` is `hookstile`.
async fn shell(folder: &Path, line: &str) -> Run {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", line])
        .current_dir(folder)
        .env("H", command().get_program())
        .env("WEBHOOK_SECRET", SECRET)
        .stdin(Stdio::null());
    finish(shell).await
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("a file");
}

fn valid() -> String {
    Setup::from(Route::to_url("http://127.0.0.1:9/")).yaml()
}

/// A setup whose admin listener has a port that the test knows, and that address.
fn with_known_admin(route: Route, admin: &str) -> (Setup, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let admin = format!("{{address: \"{address}\"{admin}}}");
    let setup = Setup::from(route).with("admin", &admin).with_socket(socket);
    (setup, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_is_named_or_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let missing = run_in(folder, &["check"]).await;
    for text in [
        "hookstile init",
        "/etc/hookstile/hookstile.yaml",
        "HOOKSTILE_CONFIG",
    ] {
        assert!(
            missing.assert(78).stderr.contains(text),
            "{}",
            missing.stderr
        );
    }
    for name in ["hookstile.yaml", "variable.yaml", "option.yaml"] {
        write(folder, name, &valid());
    }
    for (line, shown) in [
        ("$H check", "hookstile.yaml: valid"),
        ("HOOKSTILE_CONFIG= $H check", "hookstile.yaml: valid"),
        (
            "HOOKSTILE_CONFIG=variable.yaml $H check",
            "variable.yaml: valid",
        ),
        (
            "HOOKSTILE_CONFIG=variable.yaml $H check -c option.yaml",
            "option.yaml: valid",
        ),
        ("$H validate --config option.yaml", "option.yaml: valid"),
        ("$H check option.yaml", "option.yaml: valid"),
        ("$H check - < option.yaml", "standard input: valid"),
        ("$H check -c - < option.yaml", "standard input: valid"),
    ] {
        let run = shell(folder, line).await;
        assert!(
            run.assert(0).stderr.starts_with(shown),
            "{line}: {}",
            run.stderr
        );
    }
    for line in ["$H run none.yaml", "$H run -c none.yaml"] {
        let run = shell(folder, line).await;
        assert!(
            run.assert(78).stderr.contains("none.yaml"),
            "{}",
            run.stderr
        );
    }
    shell(folder, "$H run -c - < option.yaml").await.assert(2);
    shell(folder, "$H check -c a b").await.assert(2);
}

/// The commands whose help mentions the configuration, each with its words.
async fn all_commands(folder: &Path) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut unread = vec![Vec::<String>::new()];
    while let Some(words) = unread.pop() {
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = run_in(folder, &arguments).await.assert(0).stdout.clone();
        let nested: Vec<_> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .map(|name| [&words[..], &[name.to_owned()]].concat())
            .collect();
        if nested.is_empty() {
            found.push(words);
        }
        unread.extend(nested);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_config_option_has_a_short_form() {
    let folder = tempfile::tempdir().expect("a folder");
    let commands = all_commands(folder.path()).await;
    let mut with_config = 0;
    for words in &commands {
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = run_in(folder.path(), &arguments).await.stdout;
        if help.contains("--config") {
            assert!(help.contains("-c, --config <FILE>"), "{words:?}: {help}");
            with_config += 1;
        }
    }
    assert!(with_config >= 14, "{with_config} of {commands:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alias_runs_its_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let help = async |words: &str| {
        let arguments: Vec<&str> = words.split(' ').chain(["--help"]).collect();
        let run = run_in(folder.path(), &arguments).await;
        let options = run.assert(0).stdout.split_once("\nUsage: ");
        let (_, options) = options.unwrap_or_else(|| panic!("{words}: {}", run.stdout));
        options.split_once('\n').expect("lines").1.to_owned()
    };
    for (alias, command) in [
        ("serve", "run"),
        ("start", "run"),
        ("validate", "check"),
        ("replay", "events redeliver"),
        ("retry", "events redeliver"),
        ("events ls", "events list"),
        ("events get", "events show"),
        ("events describe", "events show"),
        ("events inspect", "events show"),
        ("events watch", "events tail"),
        ("rejections ls", "rejections list"),
        ("rejections follow", "rejections tail"),
        ("routes ls", "routes list"),
        ("route list", "routes list"),
        ("event show", "events show"),
        ("rejection tail", "rejections tail"),
        ("events replay", "events redeliver"),
        ("events retry", "events redeliver"),
        ("events resend", "events redeliver"),
        ("logs", "events tail"),
        ("listen", "catch"),
        ("trigger", "send"),
    ] {
        assert_eq!(help(alias).await, help(command).await, "{alias}");
    }
    let versions = [&["version"][..], &["--version"], &["-V"]];
    for arguments in versions {
        let run = run_in(folder.path(), arguments).await;
        assert!(
            run.assert(0).stdout.starts_with("hookstile 0."),
            "{arguments:?}"
        );
    }
}

/// The command lines that other programs rely on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promised_commands_exist() {
    let folder = tempfile::tempdir().expect("a folder");
    for line in [
        "run -c FILE",
        "check --without-secrets -c FILE",
        "demo --once",
        "init",
        "schema",
        "sign --route NAME -c FILE",
        "verify -c FILE",
        "send --route NAME -c FILE",
        "catch",
        "events list -c FILE",
        "events show ID -c FILE",
        "events tail -c FILE",
        "events redeliver ID -c FILE",
        "events forget ID -c FILE",
        "rejections list -c FILE",
        "rejections tail -c FILE",
        "routes list -c FILE",
        "routes pause ROUTE -c FILE",
        "routes resume ROUTE -c FILE",
        "routes test ROUTE -c FILE",
        "problems -c FILE",
        "capture -c FILE",
        "status --watch -c FILE",
        "reload -c FILE",
        "store check -c FILE",
        "store backup FILE -c FILE",
        "store restore FILE -c FILE",
        "move-store --from FOLDER -c FILE",
        "completions bash",
        "man",
        "version",
    ] {
        let words: Vec<_> = line.split(' ').chain(["--help"]).collect();
        let run = run_in(folder.path(), &words).await;
        assert!(run.assert(0).stdout.contains("Usage: "), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_command_gets_a_hint() {
    let folder = tempfile::tempdir().expect("a folder");
    for (line, hint) in [
        ("deliveries", "hookstile events list"),
        ("deliveries tail", "hookstile events list"),
        ("tail", "hookstile events tail"),
        ("snapshot", "hookstile store backup FILE"),
        ("store import x", "hookstile store restore FILE"),
        (
            "backup store",
            "the noun is first: 'hookstile store backup'",
        ),
        ("dlq", "hookstile events list --status dead"),
        ("events pending", "hookstile events list --status pending"),
        ("events rm x", "hookstile events forget ID"),
        ("events qwertz", ""),
        ("get events", "hookstile events list"),
        ("describe route billing", "hookstile routes list"),
        ("routes show billing", "hookstile routes list"),
        ("routes stop billing", "hookstile routes pause ROUTE"),
        ("routes delete billing", "hookstile reload"),
        ("rejections show x", "hookstile capture ID"),
        ("pause billing", "'routes pause'"),
        ("http 8080", "hookstile catch"),
        ("events list -o json", "'--json'"),
        ("events list --output json", "'--json'"),
        ("events list -n 5", "'--limit N'"),
        ("events list --follow", "'tail'"),
        ("events list billing", "'--route billing'"),
        ("events redeliver --webhook x", "'--route NAME'"),
        ("run -f gateway.yaml", "'--config FILE'"),
        ("status gateway.yaml", "'--config gateway.yaml'"),
        ("status --token x", "HOOKSTILE_ADMIN_TOKEN"),
        ("problems ls", "leave 'ls' out"),
        ("logs tail", "leave 'tail' out"),
        ("verify a.http", "'--request a.http'"),
        ("events redeliver --all", "'--dead'"),
        ("events redeliver --id x", "give ID alone"),
        ("routes pause --route billing", "give ROUTE alone"),
        ("catch --port 3000", "'--listen ADDRESS'"),
        ("run --port 3000", "`listen`"),
        ("listen --forward-to localhost:3000", "'hookstile run'"),
        ("-v", "'--version'"),
        ("status --qwertz", ""),
        ("health", "hookstile status"),
        ("ui", "dashboard"),
        ("test", "hookstile send"),
        ("lint", "hookstile check"),
        ("stop", "SIGTERM"),
        ("restart", "hookstile reload"),
        ("evnts", "'events'"),
        ("Check", "'check'"),
        ("redelivr", "'events redeliver'"),
        ("qwertz", ""),
    ] {
        let run = run_in(folder.path(), &line.split(' ').collect::<Vec<_>>()).await;
        let tip = run
            .assert(2)
            .stderr
            .split("tip: ")
            .nth(1)
            .unwrap_or_default();
        assert!(tip.contains(hint), "{line}: {}", run.stderr);
        assert!(!hint.is_empty() || tip.is_empty(), "{line}: {}", run.stderr);
    }
    let provider = run_in(folder.path(), &["init", "--provider", "strpie"]).await;
    assert!(
        provider.assert(2).stderr.contains("'stripe'"),
        "{}",
        provider.stderr
    );
    let run = run_in(folder.path(), &["events", "redeliver"]).await;
    for option in ["--dead", "--route", "--since", "--dry-run"] {
        assert!(run.assert(2).stderr.contains(option), "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variable_names_the_gateway() {
    let gateway = Gateway::start(Route::to_url("http://127.0.0.1:9/")).await;
    let folder = tempfile::tempdir().expect("a folder");
    let status = async |variable: &str, arguments: &[&str]| {
        let mut command = command();
        command
            .current_dir(folder.path())
            .env("HOOKSTILE_ADMIN", variable)
            .arg("status")
            .args(arguments);
        finish(command).await
    };
    let address = gateway.admin_address().to_string();
    for variable in [&address, &format!("http://{address}/")] {
        status(variable, &[]).await.assert(0);
    }
    let closed = upstream::ClosedPort::new();
    let refused = status(&closed.address().to_string(), &[]).await;
    assert!(
        refused
            .assert(69)
            .stderr
            .contains("Is the gateway running?"),
        "{}",
        refused.stderr
    );
    status(&closed.address().to_string(), &["--admin", &address])
        .await
        .assert(0);
    let wrong = status("ftp://x", &[]).await;
    assert!(
        wrong.assert(2).stderr.contains("HOOKSTILE_ADMIN"),
        "{}",
        wrong.stderr
    );
    // What stands in this folder has to do with another gateway.
    write(folder.path(), "hookstile.yaml", "admin: nonsense");
    status(&address, &[]).await.assert(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_file_still_reaches_its_gateway() {
    let route = Route::to_url("http://127.0.0.1:9/");
    let (setup, address) = with_known_admin(route, "");
    let mut gateway = Gateway::start(setup.clone()).await;
    for text in [
        format!("admin: {{address: \"{address}\"}}\nroutes: [{{pth: /a}}]\nlimts: 1\n"),
        format!("routes:\n  - path: [\nadmin:\n  address: {address}\nstore: {{}}\n"),
        format!("admin: {{address: \"{address}\", tken: x}}\nroutes: 7\n"),
    ] {
        gateway.rewrite_text(&text);
        run_in(gateway.directory(), &["check"]).await.assert(78);
        for arguments in [
            &["status"][..],
            &["events", "list", "-c", "hookstile.yaml"],
            &["rejections", "list"],
        ] {
            run_in(gateway.directory(), arguments).await.assert(0);
        }
        let reload = run_in(gateway.directory(), &["reload", "--json"]).await;
        assert_eq!(reload.assert(1).json()["code"], "invalid_configuration");
    }
    gateway.stop().await;
    run_in(gateway.directory(), &["events", "list", "--offline"])
        .await
        .assert(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_token_says_where_to_set_it() {
    let route = Route::to_url("http://127.0.0.1:9/");
    let (setup, _) = with_known_admin(route, ", token: {env: GATEWAY_TOKEN}");
    let gateway = Gateway::start(setup.env("GATEWAY_TOKEN", "token_0123456789abcdef")).await;
    let folder = gateway.directory();
    let status = run_in(folder, &["status"]).await;
    assert!(
        status
            .assert(77)
            .stderr
            .contains("`GATEWAY_TOKEN` is not set; set HOOKSTILE_ADMIN_TOKEN for this command"),
        "{}",
        status.stderr
    );
    let lines = [
        ("HOOKSTILE_ADMIN_TOKEN=token_0123456789abcdef $H status", 0),
        ("GATEWAY_TOKEN=token_0123456789abcdef $H status", 0),
        ("HOOKSTILE_ADMIN_TOKEN=another $H status", 77),
    ];
    for (line, code) in lines {
        shell(folder, line).await.assert(code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_named_by_either_id() {
    let upstream = Upstream::ok();
    let queue = || Route::to(&upstream).with("retain", "{payloads: all, for: 7d}");
    let gateway = Gateway::start(Setup::new([queue(), queue().named("other")])).await;
    for event in ["evt_1", "17"] {
        gateway
            .send(Event::new(event))
            .await
            .assert(200, "delivered");
    }
    let shown = hookstile(&gateway, "events show evt_1").await;
    assert!(
        shown.assert(0).stdout.contains("\n  \"id\": \"evt_1\""),
        "{}",
        shown.stdout
    );
    // A number alone is an event's ID, not a delivery's number.
    let number = hookstile(&gateway, "events show 17 --json")
        .await
        .assert(0)
        .json();
    assert_eq!(number["delivery"]["event_id"], "17");
    hookstile(&gateway, "events show 1").await.assert(1);

    hookstile(&gateway, "events redeliver evt_1")
        .await
        .assert(0);
    upstream.wait_for_requests(3).await;
    let forgotten = hookstile(&gateway, "events forget del_2").await;
    assert!(
        forgotten.assert(0).stdout.starts_with("17 is forgotten"),
        "{}",
        forgotten.stdout
    );
    let forgotten = hookstile(&gateway, "events forget 17").await;
    assert!(
        forgotten.assert(1).stderr.contains("unknown_event"),
        "{}",
        forgotten.stderr
    );
    hookstile(&gateway, "events forget evt_1").await.assert(0);

    let other = Event::new("evt_1").post().at("/webhooks/other");
    gateway.send(other).await.assert(200, "delivered");
    for command in ["show", "redeliver", "forget"] {
        let run = hookstile(&gateway, &format!("events {command} evt_1")).await;
        let told = &run.assert(1).stderr;
        assert!(
            told.contains("del_3 (other), del_1 (hooks)"),
            "{command}: {told}"
        );
    }
    let other = hookstile(&gateway, "events show evt_1 --route other --json").await;
    assert_eq!(other.assert(0).json()["delivery"]["id"], "del_3");
    hookstile(&gateway, "events redeliver --route other evt_1")
        .await
        .assert(0);
    let unknown = hookstile(&gateway, "events list --route nope").await;
    assert!(
        unknown.assert(1).stderr.contains("hooks, other"),
        "{}",
        unknown.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_documents_with_json() {
    let gateway = Gateway::start(Route::to_url("http://127.0.0.1:9/")).await;
    for (line, code) in [
        ("events show nope --json", "unknown_delivery"),
        ("events list --route nope --json", "unknown_webhook"),
        ("events tail --route nope --json", "unknown_webhook"),
        ("events forget nope --json", "unknown_delivery"),
        ("events forget nope --route hooks --json", "unknown_event"),
        ("rejections list --outcome nope --json", "invalid_parameter"),
        ("rejections tail --route nope --json", "unknown_webhook"),
        ("rejections list --route nope --json", "unknown_webhook"),
        ("routes pause nope --json", "unknown_webhook"),
        ("routes resume nope --json", "unknown_webhook"),
        ("routes test nope --json", "unknown_webhook"),
        ("routes move nope hooks --json", "unknown_webhook"),
        ("routes move hooks nope --json", "still_configured"),
        ("capture x --json", "unknown_capture"),
        (
            "events redeliver --route nope --dead --json",
            "unknown_webhook",
        ),
    ] {
        let run = hookstile(&gateway, line).await;
        let document = run.assert(1).json();
        assert_eq!(
            (&document["success"], &document["code"]),
            (&json!(false), &json!(code)),
            "{line}: {document}"
        );
        assert!(
            document["detail"]
                .as_str()
                .is_some_and(|text| text.len() > 20),
            "{document}"
        );
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let closed = upstream::ClosedPort::new();
    let admin = format!("--admin={}", closed.address());
    for words in [
        "events list",
        "events show a",
        "events redeliver a",
        "reload",
        "status",
    ] {
        let arguments: Vec<&str> = words.split(' ').chain(["--json", &admin]).collect();
        let document = run_in(folder, &arguments).await.assert(69).json();
        assert_eq!(document["code"], "unreachable", "{words}: {document}");
    }
    write(
        folder,
        "hookstile.yaml",
        "admin: nonsense\nstore: nonsense\n",
    );
    for words in [
        "events list",
        "reload",
        "status",
        "sign --route a",
        "send --route a",
        "store check",
        "store backup a",
        "store restore a",
    ] {
        let arguments: Vec<&str> = words.split(' ').chain(["--json"]).collect();
        let document = run_in(folder, &arguments).await.assert(78).json();
        assert_eq!(document["code"], "invalid_configuration", "{words}");
        assert_eq!(document["problems"][0]["severity"], "error", "{words}");
    }
    let send = [
        "send",
        "http://127.0.0.1:9/",
        "--provider",
        "stripe",
        "--json",
    ];
    assert_eq!(
        run_in(folder, &send).await.assert(2).json()["code"],
        "usage"
    );
}

/// The commands that have something else to print: a configuration, pages or shell code.
const WITHOUT_JSON: [&str; 4] = ["completions", "man", "run", "schema"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_fails_with_a_document() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(folder, "hookstile.yaml", "admin: nonsense\n");
    for words in all_commands(folder).await {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // An ID may begin with a hyphen, so the first may be one.
        let wrong = ["--json", "--nope", "--nope"];
        let run = run_in(folder, &[&words[..], &wrong].concat()).await;
        let document = run.assert(2).json();
        let detail = document["detail"].as_str().expect("a text");
        assert_eq!(document["code"], "usage", "{words:?}");
        assert!(detail.starts_with("unexpected argument '--"), "{detail}");
        assert_eq!(
            detail.contains("--json"),
            WITHOUT_JSON.contains(&words[0]),
            "{words:?}: {detail}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_a_document() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("delivery", "queue")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway.send(Event::new("evt_2").forged()).await;
    for line in [
        "events list --dead",
        "events list --state success",
        "events show evt_1",
        "events redeliver --dead",
        "events forget evt_1",
        "rejections list",
        "routes list",
        "routes pause hooks",
        "routes resume hooks",
        "routes test hooks",
        "status",
        "problems",
        "reload",
    ] {
        let run = hookstile(&gateway, &format!("{line} --json")).await;
        let document = run.assert(0).json();
        assert_eq!(document["success"], true, "{line}: {document}");
    }
    let rejections = hookstile(&gateway, "rejections list --json").await.json();
    assert_eq!(rejections["rejections"][0]["path"], PATH);
    let rejections = hookstile(&gateway, "rejections list").await;
    let path = format!("POST {PATH}");
    assert!(rejections.stdout.contains(&path), "{}", rejections.stdout);

    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let version = run_in(folder, &["version", "--json"]).await;
    assert!(version.assert(0).json()["version"].is_string());
    let init = run_in(folder, &["init", "--json"]).await.assert(0).json();
    assert_eq!(
        (&init["file"], &init["next"]),
        (&json!("hookstile.yaml"), &json!("hookstile check"))
    );
    let again = run_in(folder, &["init", "--json"]).await.assert(1).json();
    assert!(again["detail"].to_string().contains("exists"), "{again}");
    run_in(folder, &["init", "--json", "--output", "-"])
        .await
        .assert(2)
        .json();
    let moved = "$H move-store --from x --json";
    let refused = shell(folder, moved).await.assert(78).json();
    assert_eq!(refused["code"], "invalid_configuration", "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watched_status_is_a_document_a_line() {
    let mut gateway = Gateway::start(Route::to_url("http://127.0.0.1:9/")).await;
    let mut watch = command();
    watch
        .args(["status", "--watch", "--json", "--admin"])
        .arg(gateway.admin_address().to_string());
    let watch = process::Process::spawn(&mut watch);
    watch.wait_for_output("\"ready\":true").await;
    gateway.stop().await;
    watch.wait_for_output("\"code\":\"unreachable\"").await;
    let documents = command::documents(&watch.stdout());
    let reachable: Vec<_> = documents.iter().map(|it| &it["reachable"]).collect();
    assert_eq!(*reachable[0], json!(true), "{documents:?}");
    assert_eq!(reachable.last(), Some(&&json!(false)), "{documents:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_prints_one_document() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(folder, "valid.yaml", &valid());
    let route = Route::to_url("http://127.0.0.1:9/").with("events", "[\"user.*\"]");
    write(folder, "acknowledged.yaml", &Setup::from(route).yaml());
    write(
        folder,
        "wrong.yaml",
        &valid().replace("provider", "provder"),
    );
    let check =
        async |line: &str, code: i32| -> Value { shell(folder, line).await.assert(code).json() };
    let valid = check("$H check --json valid.yaml", 0).await;
    assert_eq!(
        (
            &valid["success"],
            &valid["routes"],
            &valid["errors"],
            &valid["problems"]
        ),
        (&json!(true), &json!(1), &json!(0), &json!([]))
    );
    let acknowledged = check("$H check --json acknowledged.yaml", 0).await;
    let expected =
        json!([{"route": "hooks", "events": ["events of other types than `events` has"]}]);
    assert_eq!(acknowledged["acknowledged"], expected);
    assert_eq!(valid["acknowledged"], json!([]));
    let wrong = check("$H check --json - < wrong.yaml", 78).await;
    assert_eq!(wrong["file"], "standard input");
    let problems = wrong["problems"].as_array().expect("a list");
    assert_eq!(wrong["errors"], json!(problems.len()));
    assert!(
        problems[0]["message"].to_string().contains("provder"),
        "{wrong}"
    );
    assert_eq!(check("$H check --json none.yaml", 78).await["errors"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_without_secrets_checks_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let route = Route::to_url("http://127.0.0.1:9/").with(
        "secrets",
        "[{env: NOT_SET}, {file: /run/credentials/x/secret}]",
    );
    let setup = Setup::from(route)
        .with("admin", "{address: 0.0.0.0:9180, token: {env: NO_TOKEN}}")
        .with(
            "listen",
            "[{address: 0.0.0.0:443, tls: {certificate: a.crt, key: a.key}}]",
        );
    write(folder, "hookstile.yaml", &setup.yaml());
    run_in(folder, &["check"]).await.assert(78);
    let run = run_in(folder, &["check", "--without-secrets"]).await;
    for name in ["NOT_SET", "/run/credentials/x/secret", "NO_TOKEN", "a.key"] {
        assert!(
            run.assert(0).stderr.contains(name),
            "{name}: {}",
            run.stderr
        );
    }
    let run = run_in(folder, &["check", "--without-secrets", "--json"]).await;
    assert_eq!(
        run.assert(0).json()["unchecked"].as_array().map(Vec::len),
        Some(4)
    );
    write(
        folder,
        "hookstile.yaml",
        &setup.yaml().replacen("127.0.0.1:9", "${UPSTREAM}:9", 1),
    );
    shell(folder, "$H check --without-secrets").await.assert(78);
    let line = "UPSTREAM=app.test $H check --without-secrets";
    shell(folder, line).await.assert(0);
    for (from, to) in [
        ("{env: NOT_SET}", "{env: }"),
        ("NOT_SET", "whsec_0123456789"),
        ("a.key", "a.key, kye: b"),
        ("provider", "provder"),
        (", token: {env: NO_TOKEN}", ""),
    ] {
        write(
            folder,
            "hookstile.yaml",
            &setup.yaml().replacen(from, to, 1),
        );
        let run = run_in(folder, &["check", "--without-secrets"]).await;
        assert_eq!(run.code, Some(78), "{to}: {}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dash_is_standard_input_or_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(folder, "body", r#"{"id":"evt_1","type":"a"}"#);
    write(folder, "key", "whsec_0123456789abcdef\n");
    let sign = "$H sign --provider vpn-enterprise --secret-file";
    let expected = shell(folder, &format!("{sign} key --body body")).await;
    for line in [
        format!("{sign} key < body"),
        format!("{sign} key --body - < body"),
        format!("{sign} - --body body < key"),
    ] {
        assert_eq!(
            shell(folder, &line).await.assert(0).stdout,
            expected.stdout,
            "{line}"
        );
    }
    shell(folder, &format!("{sign} - < key")).await.assert(2);
    let init = shell(folder, "$H init --provider github --output -").await;
    assert!(
        init.assert(0).stdout.contains("provider: github"),
        "{}",
        init.stdout
    );
    let verify = "$H verify --provider vpn-enterprise --secret-file key";
    let signed = "($H sign --provider vpn-enterprise --secret-file key < body) ";
    let line = format!("{signed} > head; {verify} --headers head --body - < body");
    shell(folder, &line).await.assert(0);
    assert!(!folder.join("-").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_pipe_ends_quietly() {
    let gateway = Gateway::start(Route::to_url("http://127.0.0.1:9/")).await;
    let folder = gateway.directory();
    let admin = format!("--admin {}", gateway.admin_address());
    write(folder, "body", "{}");
    let commands = [
        "--help".to_owned(),
        "help events".to_owned(),
        "version".to_owned(),
        "nonsense".to_owned(),
        "check".to_owned(),
        "check --json".to_owned(),
        "schema".to_owned(),
        "man".to_owned(),
        "completions bash".to_owned(),
        "init --output -".to_owned(),
        "demo --once".to_owned(),
        "demo --json".to_owned(),
        "sign --route hooks --body body".to_owned(),
        "run -c none.yaml".to_owned(),
        format!("status {admin}"),
        format!("status --json {admin}"),
        format!("reload {admin}"),
        format!("events list {admin}"),
        format!("events list --json {admin}"),
        format!("events show nope --json {admin}"),
        format!("rejections list {admin}"),
    ];
    for command in commands {
        // A descriptor that is closed already, as of `head` that has ended.
        let line = format!("($H {command} 2>err; echo $? >code) | true; cat err code");
        let output = shell(folder, &line).await.stdout;
        assert!(!output.contains("panicked"), "{command}: {output}");
        let line = format!(
            "$H {command} 2>&1 >/dev/null | true; ($H {command} 2>&1; echo $? >code) | true; cat code"
        );
        let output = shell(folder, &line).await.stdout;
        assert!(!output.contains("101"), "{command}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_takes_all_from_the_route() {
    let upstream = Upstream::ok();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let custom = Route::to(&upstream)
        .named("custom")
        .signature("{header: X-Sig, algorithm: hmac-sha512, encoding: base64, signed: \"{body}\"}")
        .with("event", "{id: /event/id, type: /event/kind}")
        .with("host", "hooks.test")
        .with("events", "[\"user.*\"]");
    let square = Route::to(&upstream)
        .named("square")
        .with("provider", "square")
        .with("public_url", "https://hooks.test/as-entered");
    let discord = Route::to(&upstream)
        .named("discord")
        .with("provider", "discord")
        .with("secrets", "[{env: PUBLIC_KEY}]");
    let routes = [Route::to(&upstream), custom, square, discord];
    let public_key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let setup = Setup::new(routes)
        .with("listen", &format!("[{{address: \"{address}\"}}]"))
        .with_socket(socket)
        .env("PUBLIC_KEY", public_key);
    let gateway = Gateway::start(setup).await;
    let folder = gateway.directory();
    for route in ["hooks", "custom", "square"] {
        let run = shell(folder, &format!("$H send --route {route} --json")).await;
        assert_eq!(run.assert(0).json()["outcome"], "delivered", "{route}");
    }
    let tampered = shell(folder, "$H trigger --route custom --tamper id --json").await;
    assert_eq!(tampered.assert(0).json()["outcome"], "invalid_signature");
    write(folder, "body", r#"{"id":"evt_9","type":"a"}"#);
    let signed = shell(folder, "$H sign --route hooks --body body").await;
    let expected = format!(
        "sha256={}",
        hmac_hex(SECRET, br#"{"id":"evt_9","type":"a"}"#)
    );
    assert!(
        signed.assert(0).stdout.contains(&expected),
        "{}",
        signed.stdout
    );

    let url = format!("http://{address}{PATH}");
    shell(folder, &format!("$H send {url} --route hooks"))
        .await
        .assert(0);
    let unknown = shell(folder, "$H send --route nope").await;
    assert!(
        unknown.assert(78).stderr.contains("hooks, custom"),
        "{}",
        unknown.stderr
    );
    for wrong in [
        "$H send",
        "$H send --route hooks --provider stripe",
        "$H sign",
    ] {
        shell(folder, wrong).await.assert(2);
    }
    // A public key signs nothing; the private key is given besides.
    let line = format!("PUBLIC_KEY={public_key} $H send --route discord");
    shell(folder, &line).await.assert(1);
}

/// Runs a shell's command line on a terminal of this width, and returns all that it shows.
async fn on_terminal(folder: &Path, columns: u32, line: &str) -> String {
    let inner = format!("stty cols {columns}; {line}");
    let mut script = Command::new("script");
    script
        .args(["-qec", &inner, "/dev/null"])
        .current_dir(folder)
        .env("H", command().get_program())
        .env("WEBHOOK_SECRET", SECRET)
        .stdin(Stdio::null());
    finish(script).await.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_fits_the_terminal() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let id = format!("evt_{}", "0123456789".repeat(5));
    gateway.send(Event::new(&id)).await.assert(200, "delivered");
    let list = format!("$H events list --admin {}", gateway.admin_address());
    let shown = on_terminal(gateway.directory(), 90, &list).await;
    let widths = shown.lines().map(|line| line.trim_end().chars().count());
    assert!(
        widths.max().is_some_and(|width| (60..=90).contains(&width)),
        "{shown}"
    );
    assert!(shown.contains("del_1") && shown.contains('…'), "{shown}");
    let piped = shell(gateway.directory(), &list).await;
    assert!(piped.stdout.contains(&id), "{}", piped.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_on_a_terminal_is_for_people() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let setup = Setup::from(Route::to_url("http://127.0.0.1:9/")).stopping_at_once();
    write(folder, "plain.yaml", &setup.yaml());
    write(
        folder,
        "json.yaml",
        &setup.clone().with("log", "{format: json}").yaml(),
    );
    let run = |file: &str| format!("timeout -s INT 2 $H run -c {file}");
    let shown = on_terminal(folder, 200, &run("plain.yaml")).await;
    assert!(
        shown.contains("the dashboard is at http://127.0.0.1:"),
        "{shown}"
    );
    assert!(!shown.contains('{'), "{shown}");
    let shown = on_terminal(folder, 200, &run("json.yaml")).await;
    assert!(shown.lines().all(|line| line.starts_with('{')), "{shown}");
    let piped = shell(folder, &run("plain.yaml")).await;
    assert!(
        piped.stderr.lines().all(|line| line.starts_with('{')),
        "{}",
        piped.stderr
    );
    assert!(
        piped.stderr.contains("the dashboard is at http://"),
        "{}",
        piped.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejections_are_followed() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway.send(Event::new("evt_0").forged()).await;
    let mut tail = command();
    tail.args(["rejections", "tail", "--json", "--admin"])
        .arg(gateway.admin_address().to_string());
    let tail = process::Process::spawn(&mut tail);
    tail.wait_for_output("following").await;
    gateway
        .send(Event::new("evt_1").post().at("/nowhere"))
        .await;
    tail.wait_for_output("/nowhere").await;
    gateway.send(Event::new("evt_2").forged()).await;
    tail.wait_for_output("invalid_signature").await;
    let lines = command::documents(&tail.stdout());
    let outcomes: Vec<_> = lines.iter().map(|line| &line["outcome"]).collect();
    assert_eq!(outcomes, ["unknown_route", "invalid_signature"]);
}
