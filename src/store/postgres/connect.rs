//! The database's URL, and the connections made from it.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool_postgres::{ConfigConnectImpl, Connect as _};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls;

/// The timeout for one address of one host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The idle time after which TCP keepalives start.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// The time for which sent data may stay unacknowledged (`TCP_USER_TIMEOUT`).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// The URL parameters that name files.
const FILE_PARAMETERS: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];

/// The address of the database and how to connect to it, parsed from a libpq URL. Its `Debug`
/// output contains no password.
#[derive(Clone)]
pub struct Database {
    /// The configuration of each host.
    hosts: Vec<Config>,
    /// The settings that the URL's `options` make.
    settings: Vec<(String, String)>,
    tls: Option<MakeRustlsConnect>,
}

impl Database {
    /// Parses a URL, more strictly than libpq: every `sslmode` that asks for TLS verifies the
    /// certificate and the host name, and without `sslmode` only a database on this machine is
    /// reached without TLS. Reads the files that the URL names.
    ///
    /// # Errors
    /// Returns a sentence on the problem, which never contains the URL or its password.
    pub fn parse(url: &str) -> Result<Self, String> {
        check_syntax(url)?;
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let parameters = Parameters::parse(query)?;
        let mut config = format!("{address}?{}", parameters.for_driver())
            .parse::<Config>()
            .map_err(|error| {
                let reason = error
                    .into_source()
                    .map_or_else(String::new, |source| format!(": {source}"));
                format!("the database URL is not valid{reason}")
            })?;
        check_hosts(&config)?;
        set_defaults(&mut config, &parameters)?;
        let tls = tls_connector(&config, &parameters)?;
        config.ssl_mode(if tls.is_some() {
            SslMode::Require
        } else {
            SslMode::Disable
        });
        let options = config.get_options().unwrap_or_default().to_owned();
        Ok(Self {
            hosts: (0..config.get_hosts().len())
                .map(|host| with_host(&config, host))
                .collect(),
            settings: parse_options(&options)?,
            tls,
        })
    }

    /// Returns the address for logs: `host:port[,host:port]/dbname`.
    pub fn log_name(&self) -> String {
        let hosts: Vec<_> = (0..self.hosts.len())
            .map(|host| self.host_name(host))
            .collect();
        let config = self.hosts.first();
        // The server uses the user's name if the URL names no database.
        let database = config.and_then(|config| config.get_dbname().or_else(|| config.get_user()));
        format!("{}/{}", hosts.join(","), database.unwrap_or_default())
    }

    /// Returns the name of one host for logs: `host:port`.
    pub(super) fn host_name(&self, host: usize) -> String {
        let Some(config) = self.hosts.get(host) else {
            return String::new();
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        match config.get_hosts().first() {
            Some(Host::Tcp(name)) if name.contains(':') => format!("[{name}]:{port}"),
            Some(Host::Tcp(name)) => format!("{name}:{port}"),
            Some(Host::Unix(path)) => format!("{}:{port}", path.display()),
            None => String::new(),
        }
    }

    pub(super) fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// Returns whether the hosts are tried in a random order.
    pub(super) fn has_random_hosts(&self) -> bool {
        let is_random =
            |config: &Config| config.get_load_balance_hosts() == LoadBalanceHosts::Random;
        self.hosts.first().is_some_and(is_random)
    }

    /// Returns the settings that the URL's `options` make.
    pub(super) fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// Connects to one host. The task drives the connection.
    pub(super) async fn connect_to(&self, host: usize) -> Result<(Client, JoinHandle<()>), Error> {
        // The parser has found a host.
        let config = self.hosts.get(host).cloned().unwrap_or_default();
        match &self.tls {
            Some(tls) => {
                let connector = ConfigConnectImpl { tls: tls.clone() };
                connector.connect(&config).await
            }
            None => ConfigConnectImpl { tls: NoTls }.connect(&config).await,
        }
    }
}

/// Returns a configuration with one of its hosts, and without `options`.
fn with_host(all: &Config, host: usize) -> Config {
    let mut one = Config::new();
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(database) = all.get_dbname() {
        one.dbname(database);
    }
    if let Some(name) = all.get_application_name() {
        one.application_name(name);
    }
    match all.get_hosts().get(host) {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        Some(Host::Unix(path)) => drop(one.host_path(path)),
        None => {}
    }
    if let Some(address) = all.get_hostaddrs().get(host) {
        one.hostaddr(*address);
    }
    let ports = all.get_ports();
    if let Some(port) = ports.get(host).or(ports.first()) {
        one.port(*port);
    }
    if let Some(time) = all.get_connect_timeout() {
        one.connect_timeout(*time);
    }
    if let Some(time) = all.get_tcp_user_timeout() {
        one.tcp_user_timeout(*time);
    }
    if let Some(interval) = all.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = all.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle())
        .ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .target_session_attrs(all.get_target_session_attrs())
        .channel_binding(all.get_channel_binding())
        .load_balance_hosts(all.get_load_balance_hosts());
    one
}

/// Parses the URL's `options`, which libpq passes to the server's command line: `-c name=value` and
/// `--name=value`, where a backslash keeps the character after it.
fn parse_options(options: &str) -> Result<Vec<(String, String)>, String> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        let word = words.last_mut();
        match (character, word) {
            ('\\', Some(word)) => word.extend(characters.next()),
            (character, Some(word)) if !character.is_whitespace() => word.push(character),
            _ => words.push(String::new()),
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(long), _) => Some(long.to_owned()),
            (None, Some("")) => words.next(),
            (None, short) => short.map(str::to_owned),
        };
        let pair = setting
            .as_deref()
            .and_then(|setting| setting.split_once('='));
        let Some((name, value)) = pair else {
            return Err("`options` in the database URL may only have `-c name=value`".to_owned());
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// The database as the last reload names it. New connections are made with its user, password and
/// certificates.
#[derive(Clone)]
pub(super) struct CurrentDatabase(Arc<ArcSwap<Database>>);

impl CurrentDatabase {
    pub(super) fn new(database: Database) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(database)))
    }

    /// Replaces the database by the same one with other credentials. Returns `false`, and changes
    /// nothing, if it is another one.
    pub(super) fn replace(&self, database: Database) -> bool {
        let is_same = self.0.load().log_name() == database.log_name();
        if is_same {
            self.0.store(Arc::new(database));
        }
        is_same
    }

    pub(super) fn load(&self) -> Arc<Database> {
        self.0.load_full()
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.log_name()).finish()
    }
}

/// Checks the URL's syntax. The driver would take an unencoded part of a password for a host, and
/// hosts are logged.
fn check_syntax(url: &str) -> Result<(), String> {
    let Some(rest) = ["postgres://", "postgresql://"]
        .into_iter()
        .find_map(|scheme| url.strip_prefix(scheme))
    else {
        return Err("the database URL does not start with postgres:// or postgresql://".to_owned());
    };
    let (authority, others) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.matches('@').count() > 1 || others.contains('@') {
        return Err(
            "`@`, `/` and `?` within a part of the database URL must be written %40, %2F and %3F"
                .to_owned(),
        );
    }
    Ok(())
}

fn check_hosts(config: &Config) -> Result<(), String> {
    let hosts = config.get_hosts();
    if hosts.is_empty() {
        return Err(
            "the database URL names no host; for a Unix socket, write `?host=/its/folder`"
                .to_owned(),
        );
    }
    if hosts
        .iter()
        .any(|host| matches!(host, Host::Tcp(name) if name.is_empty() || name.contains(',')))
    {
        return Err(
            "a host in the database URL has no name; write several as `//first:5432,second:5432/`"
                .to_owned(),
        );
    }
    let addresses = config.get_hostaddrs().len();
    if addresses != 0 && addresses != hosts.len() {
        return Err(format!(
            "the database URL has {addresses} `hostaddr` for {} hosts",
            hosts.len()
        ));
    }
    let ports = config.get_ports().len();
    if ports > 1 && ports != hosts.len() {
        return Err(format!(
            "the database URL has {ports} ports for {} hosts; write `host:port`",
            hosts.len()
        ));
    }
    Ok(())
}

fn set_defaults(config: &mut Config, parameters: &Parameters<'_>) -> Result<(), String> {
    if !parameters.has("connect_timeout") {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if !parameters.has("application_name") {
        config.application_name("hookstile");
    }
    if !parameters.has("keepalives_idle") {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if !parameters.has("target_session_attrs") && config.get_hosts().len() > 1 {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    let user_timeout = match parameters.get("tcp_user_timeout").map(str::parse::<u64>) {
        None => TCP_USER_TIMEOUT,
        Some(Ok(milliseconds)) => Duration::from_millis(milliseconds),
        Some(Err(_)) => {
            return Err("`tcp_user_timeout` must be a number of milliseconds".to_owned());
        }
    };
    if !user_timeout.is_zero() {
        config.tcp_user_timeout(user_timeout);
    }
    Ok(())
}

fn tls_connector(
    config: &Config,
    parameters: &Parameters<'_>,
) -> Result<Option<MakeRustlsConnect>, String> {
    let wants_tls = match parameters.get("sslmode") {
        Some("disable") => false,
        Some("require" | "verify-ca" | "verify-full") => true,
        Some(mode @ ("allow" | "prefer")) => {
            return Err(format!(
                "`sslmode={mode}` may fall back to plain text; write `verify-full` or `disable`"
            ));
        }
        Some(_) => {
            return Err(
                "`sslmode` is `verify-full`, `verify-ca`, `require` or `disable`".to_owned(),
            );
        }
        None => !is_local(config),
    };
    if !wants_tls {
        return match FILE_PARAMETERS
            .into_iter()
            .find(|name| parameters.has(name))
        {
            Some(name) => Err(format!(
                "`{name}` has no effect without TLS; add `sslmode=verify-full`"
            )),
            None => Ok(None),
        };
    }
    if config
        .get_hosts()
        .iter()
        .any(|host| matches!(host, Host::Unix(_)))
    {
        return Err(
            "PostgreSQL does not support TLS over a Unix socket; write `sslmode=disable`"
                .to_owned(),
        );
    }
    let file = |name: &'static str| parameters.get(name).map(Path::new);
    let client_certificate = match (file("sslcert"), file("sslkey")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("`sslcert` and `sslkey` must be given together".to_owned()),
    };
    // `system` is libpq's word for the system's root certificates.
    let roots = file("sslrootcert").filter(|path| *path != Path::new("system"));
    tls::connector(roots, client_certificate).map(Some)
}

fn is_local(config: &Config) -> bool {
    let is_local = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
    };
    config.get_hosts().iter().all(is_local)
        && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// The parameters after the URL's `?`.
struct Parameters<'a>(Vec<Parameter<'a>>);

struct Parameter<'a> {
    name: String,
    value: String,
    as_written: &'a str,
}

impl<'a> Parameters<'a> {
    fn parse(query: &'a str) -> Result<Self, String> {
        let parameter = |as_written: &'a str| {
            if !as_written.contains('=') {
                return Err(
                    "a parameter of the database URL has no value; write `name=value`".to_owned(),
                );
            }
            // A plus sign does not mean a space in these URLs.
            let plain = as_written.replace('+', "%2B");
            let (name, value) = form_urlencoded::parse(plain.as_bytes())
                .into_owned()
                .next()
                .unwrap_or_default();
            Ok(Parameter {
                name,
                value,
                as_written,
            })
        };
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(parameter)
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
    }

    /// Returns a parameter's value. The last one of a name counts.
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rfind(|parameter| parameter.name == name)
            .map(|parameter| parameter.value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Returns the query string without the parameters that the driver does not know, or interprets
    /// unlike libpq: it reads `tcp_user_timeout` in seconds.
    fn for_driver(&self) -> String {
        let is_ours = |name: &str| {
            FILE_PARAMETERS.contains(&name) || ["sslmode", "tcp_user_timeout"].contains(&name)
        };
        let theirs = self.0.iter().filter(|parameter| !is_ours(&parameter.name));
        theirs
            .map(|parameter| parameter.as_written)
            .collect::<Vec<_>>()
            .join("&")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn parsed(url: &str) -> Database {
        Database::parse(url).unwrap()
    }

    fn refused(url: &str) -> String {
        Database::parse(url).unwrap_err()
    }

    /// Creates a folder with `ca.pem`, which is also a client certificate, and its `key.pem`.
    fn certificates() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["db.example".to_owned()]).unwrap();
        fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
        fs::write(
            folder.path().join("key.pem"),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
        folder
    }

    #[test]
    fn log_name_has_hosts_ports_and_database() {
        for (url, shown) in [
            ("postgres://u:p@localhost/hooks", "localhost:5432/hooks"),
            (
                "postgresql://u:p@127.0.0.1:6000/hooks",
                "127.0.0.1:6000/hooks",
            ),
            ("postgres://u@[::1]:6000/hooks", "[::1]:6000/hooks"),
            (
                "postgres://u@a:1,b/hooks?sslmode=disable",
                "a:1,b:5432/hooks",
            ),
            (
                "postgres:///hooks?user=u&host=/run/postgresql",
                "/run/postgresql:5432/hooks",
            ),
            ("postgres://u@localhost", "localhost:5432/u"),
        ] {
            assert_eq!(parsed(url).log_name(), shown, "{url}");
        }
    }

    #[test]
    fn several_hosts_prefer_the_writable_one() {
        let attrs = |url| parsed(url).hosts[0].get_target_session_attrs();
        assert_eq!(
            attrs("postgres://u@a,b/d?sslmode=disable"),
            TargetSessionAttrs::ReadWrite
        );
        assert_eq!(
            attrs("postgres://u@a,b/d?sslmode=disable&target_session_attrs=any"),
            TargetSessionAttrs::Any
        );
        assert_eq!(
            attrs("postgres://u@a/d?sslmode=disable"),
            TargetSessionAttrs::Any
        );
    }

    #[test]
    fn only_local_databases_default_to_no_tls() {
        for url in [
            "postgres://u@localhost/d",
            "postgres://u@127.0.0.2,[::1]/d",
            "postgres:///d?host=/run/postgresql",
            "postgres://u@db.example/d?sslmode=disable",
        ] {
            let database = parsed(url);
            assert!(database.tls.is_none(), "{url}");
            assert_eq!(database.hosts[0].get_ssl_mode(), SslMode::Disable, "{url}");
        }
        let folder = certificates();
        let ca = folder.path().join("ca.pem");
        for start in [
            "postgres://u@db.example/d?",
            "postgres://u@localhost,db.example/d?",
            "postgres://u@localhost/d?hostaddr=192.0.2.1&",
            "postgres://u@localhost/d?sslmode=require&",
            "postgres://u@db.example/d?sslmode=verify-ca&",
            "postgres://u@db.example/d?sslmode=disable&sslmode=verify-full&",
        ] {
            let database = parsed(&format!("{start}sslrootcert={}", ca.display()));
            assert!(database.tls.is_some(), "{start}");
            assert_eq!(
                database.hosts[0].get_ssl_mode(),
                SslMode::Require,
                "{start}"
            );
        }
    }

    #[test]
    fn sslmode_with_plain_text_fallback_is_refused() {
        for mode in ["allow", "prefer"] {
            let error = refused(&format!("postgres://u@localhost/d?sslmode={mode}"));
            assert!(
                error.contains(mode) && error.contains("plain text"),
                "{error}"
            );
        }
        assert!(refused("postgres://u@localhost/d?sslmode=yes").contains("`sslmode` is"));
    }

    #[test]
    fn tls_over_a_unix_socket_is_refused() {
        assert!(
            refused("postgres:///d?host=/run/postgresql&sslmode=require").contains("Unix socket")
        );
        assert!(refused("postgres://u@db.example/d?host=/run/postgresql").contains("Unix socket"));
    }

    #[test]
    fn client_certificate_requires_its_key() {
        let folder = certificates();
        let (ca, key) = (folder.path().join("ca.pem"), folder.path().join("key.pem"));
        let start = format!(
            "postgres://u@db.example/d?sslrootcert={0}&sslcert={0}",
            ca.display()
        );
        assert!(
            parsed(&format!("{start}&sslkey={}", key.display()))
                .tls
                .is_some()
        );
        assert!(refused(&start).contains("`sslkey`"));
    }

    #[test]
    fn error_names_the_unusable_file() {
        let folder = certificates();
        let refused = |name: &str| {
            let path = folder.path().join(name);
            refused(&format!(
                "postgres://u:hunter2@db.example/d?sslrootcert={}",
                path.display()
            ))
        };
        assert!(refused("missing.pem").contains("missing.pem"));
        assert!(refused("key.pem").contains("key.pem holds no PEM certificate"));
    }

    #[test]
    fn certificate_without_tls_is_refused() {
        assert!(
            refused("postgres://u@localhost/d?sslrootcert=/ca.pem")
                .contains("`sslrootcert` has no effect")
        );
    }

    #[test]
    fn hosts_need_a_name_and_one_port_each() {
        assert!(refused("postgres:///d").contains("no host"));
        assert!(refused("postgres://u@localhost,/d").contains("no name"));
        assert!(refused("postgres://u@localhost/d?port=1").contains("2 ports"));
    }

    #[test]
    fn url_overrides_the_default_timeouts() {
        let database = parsed("postgres://u@localhost/d");
        let config = &database.hosts[0];
        assert_eq!(config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
        assert_eq!(config.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
        assert_eq!(config.get_keepalives_idle(), KEEPALIVE_IDLE);
        assert!(config.get_keepalives());
        assert_eq!(config.get_application_name(), Some("hookstile"));

        let query = "connect_timeout=7&tcp_user_timeout=1500&keepalives_idle=60&keepalives=0\
            &application_name=a+b";
        let database = parsed(&format!("postgres://u@localhost/d?{query}"));
        let config = &database.hosts[0];
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
        assert_eq!(
            config.get_tcp_user_timeout(),
            Some(&Duration::from_millis(1500))
        );
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(60));
        assert!(!config.get_keepalives());
        assert_eq!(config.get_application_name(), Some("a+b"));
        assert!(refused("postgres://u@localhost/d?tcp_user_timeout=5s").contains("milliseconds"));
    }

    #[test]
    fn url_options_are_settings() {
        let settings = |options: &str| {
            let url = format!("postgres://u@localhost/d?options={options}");
            let settings = Database::parse(&url)?.settings;
            let settings = settings
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            Ok::<_, String>(settings.collect::<Vec<_>>().join(" "))
        };
        for (options, made) in [
            ("", ""),
            ("-c%20lock_timeout%3D1", "lock_timeout=1"),
            (
                "-clock_timeout%3D1%20--search-path%3Da%5C%20b",
                "lock_timeout=1 search_path=a b",
            ),
        ] {
            assert_eq!(settings(options).as_deref(), Ok(made), "{options}");
        }
        for refused in ["-B%20100", "-c", "-c%20lock_timeout"] {
            assert!(settings(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn each_host_has_its_own_port_and_address() {
        let database = parsed(
            "postgres://u:p@a:1,b:2/d?sslmode=disable&hostaddr=127.0.0.1,127.0.0.2&connect_timeout=7",
        );
        for (host, (name, port)) in [("a", 1), ("b", 2)].into_iter().enumerate() {
            let config = &database.hosts[host];
            assert_eq!(config.get_hosts(), [Host::Tcp(name.to_owned())]);
            assert_eq!(config.get_ports(), [port]);
            assert_eq!(config.get_hostaddrs().len(), 1);
            assert_eq!(config.get_password(), Some(&b"p"[..]));
            assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
        }
    }

    #[test]
    fn password_is_never_shown() {
        let database = parsed("postgres://u:hunter2@localhost/d");
        assert_eq!(database.hosts[0].get_password(), Some(&b"hunter2"[..]));
        assert_eq!(format!("{database:?}"), r#"Database("localhost:5432/d")"#);
        for url in [
            "mysql://u:hunter2@localhost/d",
            "host=localhost password=hunter2",
            "postgres://u:p@hunter2@localhost/d",
            "postgres://u:p/hunter2@localhost/d",
            "postgres://u:p?hunter2@localhost/d",
            "postgres://u:hunter2/d",
            "postgres://u:hunter2@/d",
            "postgres://u:hunter2@localhost:port/d",
            "postgres://u:hunter2@localhost/d?sslmode=prefer",
            "postgres://u@localhost/d?password=hunter2&nonsense=1",
            "postgres://u@localhost/d?hunter2",
        ] {
            let error = refused(url);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn error_names_the_unknown_parameter() {
        assert!(refused("postgres://u@localhost/d?sslcrl=x").contains("`sslcrl`"));
    }

    #[test]
    fn only_credentials_are_replaced() {
        let current = CurrentDatabase::new(parsed("postgres://u:old@localhost/d"));
        let password = || current.load().hosts[0].get_password().map(<[u8]>::to_vec);
        assert!(current.replace(parsed("postgres://v:new@localhost/d")));
        assert_eq!(password().as_deref(), Some(&b"new"[..]));
        for other in ["postgres://u:x@localhost/e", "postgres://u:x@127.0.0.1/d"] {
            assert!(!current.replace(parsed(other)));
        }
        assert_eq!(password().as_deref(), Some(&b"new"[..]));
    }
}
