//! The database's URL, and the connection pool made from it.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool_postgres::{
    BuildError, ConfigConnectImpl, Connect, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime,
};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls;

/// The number of connections in the pool of one gateway.
const POOL_SIZE: usize = 10;
/// The timeout for a free connection of the pool, and for the check of a connection that is reused.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout for a new connection, over all hosts.
const CREATE_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout for one address of one host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The idle time after which TCP keepalives start.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// The time for which sent data may stay unacknowledged (`TCP_USER_TIMEOUT`).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Session settings. Times are in milliseconds, the keepalives in seconds. A statement ends before
/// the gateway stops waiting for it. The server keeps prepared plans, so sequential scans are off:
/// a plan made while the tables were empty must still use their indexes. The server sends
/// keepalives too: otherwise it would keep the sessions of an unreachable gateway, and their locks,
/// for two hours.
const SESSION_OPTIONS: &str = "-c statement_timeout=3500 -c lock_timeout=2000 \
    -c idle_in_transaction_session_timeout=5000 -c client_min_messages=warning \
    -c jit=off -c enable_seqscan=off \
    -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4 \
    -c tcp_user_timeout=30000";

/// The URL parameters that name files.
const FILE_PARAMETERS: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];

/// The address of the database and how to connect to it, parsed from a libpq URL. Its `Debug`
/// output contains no password.
#[derive(Clone)]
pub struct Database {
    config: Config,
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
        Ok(Self { config, tls })
    }

    /// Returns the address for logs: `host:port[,host:port]/dbname`.
    pub fn log_name(&self) -> String {
        let ports = self.config.get_ports();
        let host = |(index, host): (usize, &Host)| {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        };
        let hosts: Vec<_> = self
            .config
            .get_hosts()
            .iter()
            .enumerate()
            .map(host)
            .collect();
        // The server uses the user's name if the URL names no database.
        let database = self
            .config
            .get_dbname()
            .or(self.config.get_user())
            .unwrap_or_default();
        format!("{}/{database}", hosts.join(","))
    }

    /// Creates the pool, without connecting yet. With `relaxed`, a commit does not wait for the
    /// database's disk.
    pub(super) fn pool(&self, relaxed: bool) -> Result<Pool, BuildError> {
        CurrentDatabase::new(self.clone()).pool(relaxed)
    }

    fn session_config(&self, relaxed: bool) -> Config {
        let mut options = vec![SESSION_OPTIONS];
        if relaxed {
            options.push("-c synchronous_commit=off");
        }
        // The URL's own options come last, because the last setting wins.
        options.extend(self.config.get_options());
        let mut config = self.config.clone();
        config.options(options.join(" "));
        config
    }
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

    /// Creates a pool, as [`Database::pool`] does.
    pub(super) fn pool(&self, relaxed: bool) -> Result<Pool, BuildError> {
        let manager_config = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let connector = Connector {
            database: self.clone(),
            relaxed,
        };
        // The configuration here is not used: the connector has the current one.
        let manager = Manager::from_connect(Config::new(), connector, manager_config);
        Pool::builder(manager)
            .max_size(POOL_SIZE)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(ACQUIRE_TIMEOUT))
            .create_timeout(Some(CREATE_TIMEOUT))
            .recycle_timeout(Some(ACQUIRE_TIMEOUT))
            .build()
    }
}

/// Connects the pool to the current database.
struct Connector {
    database: CurrentDatabase,
    relaxed: bool,
}

type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + 'a>>;

impl Connect for Connector {
    fn connect(&self, _: &Config) -> Connecting<'_> {
        let database = self.database.0.load_full();
        let config = database.session_config(self.relaxed);
        Box::pin(async move {
            match &database.tls {
                Some(tls) => {
                    let connector = ConfigConnectImpl { tls: tls.clone() };
                    connector.connect(&config).await
                }
                None => ConfigConnectImpl { tls: NoTls }.connect(&config).await,
            }
        })
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
        let attrs = |url| parsed(url).config.get_target_session_attrs();
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
            assert_eq!(database.config.get_ssl_mode(), SslMode::Disable, "{url}");
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
            assert_eq!(database.config.get_ssl_mode(), SslMode::Require, "{start}");
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
        let config = parsed("postgres://u@localhost/d").config;
        assert_eq!(config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
        assert_eq!(config.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
        assert_eq!(config.get_keepalives_idle(), KEEPALIVE_IDLE);
        assert!(config.get_keepalives());
        assert_eq!(config.get_application_name(), Some("hookstile"));

        let query = "connect_timeout=7&tcp_user_timeout=1500&keepalives_idle=60&keepalives=0\
            &application_name=a+b";
        let config = parsed(&format!("postgres://u@localhost/d?{query}")).config;
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
    fn url_options_override_the_defaults() {
        let database = parsed("postgres://u@localhost/d?options=-c%20lock_timeout%3D1");
        let options = |relaxed| {
            database
                .session_config(relaxed)
                .get_options()
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            options(false),
            format!("{SESSION_OPTIONS} -c lock_timeout=1")
        );
        assert_eq!(
            options(true),
            format!("{SESSION_OPTIONS} -c synchronous_commit=off -c lock_timeout=1")
        );
    }

    #[test]
    fn password_is_never_shown() {
        let database = parsed("postgres://u:hunter2@localhost/d");
        assert_eq!(database.config.get_password(), Some(&b"hunter2"[..]));
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
        let password = || current.0.load().config.get_password().map(<[u8]>::to_vec);
        assert!(current.replace(parsed("postgres://v:new@localhost/d")));
        assert_eq!(password().as_deref(), Some(&b"new"[..]));
        for other in ["postgres://u:x@localhost/e", "postgres://u:x@127.0.0.1/d"] {
            assert!(!current.replace(parsed(other)));
        }
        assert_eq!(password().as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn pool_is_created_without_connecting() {
        let pool = parsed("postgres://u@localhost/d").pool(true).unwrap();
        assert_eq!(pool.status().max_size, POOL_SIZE);
        assert_eq!(pool.status().size, 0);
    }
}
