//! Hypotheses about the signed content: what stands around the body, and where it is taken from.

use http::HeaderMap;

use super::readings::{place, values};
use super::{Case, Change, What};
use crate::signature::{Content, Header, Scheme, SignatureLocation, TimestampLocation};

/// Bytes before and behind the body, and what it takes for them to be signed.
pub(super) struct Framing {
    pub before: Vec<u8>,
    pub behind: Vec<u8>,
    pub changes: Vec<Change>,
}

/// What other senders sign.
const TEMPLATES: &[&str] = &[
    "{body}",
    "{timestamp}.{body}",
    "{timestamp}{body}",
    "{timestamp}:{body}",
    "{timestamp}_{body}",
    "{timestamp}\n{body}",
    "v0:{timestamp}:{body}",
    "{body}{timestamp}",
    "{body}.{timestamp}",
    "{id}.{timestamp}.{body}",
    "{id}.{body}",
    "{url}{body}",
    "{url}.{body}",
    "{body}{url}",
];

/// Times, IDs and URLs that are looked at, each. A request has one or two.
const SOURCES_MAX: usize = 6;

/// The longest text that is taken for a time or an ID.
const SOURCE_BYTES_MAX: usize = 64;

/// A text that a template's part may stand for.
#[derive(Clone)]
struct Source {
    text: String,
    /// Where it stands, if the scheme says otherwise or nothing.
    elsewhere: Option<String>,
}

/// All framings, each once, with at most two changes.
pub(super) fn framings(case: &Case<'_>, scheme: &Scheme) -> Vec<Framing> {
    let headers = &case.request.headers;
    let any_id = Header {
        name: http::header::ETAG,
        spelling: "id".into(),
    };
    let own = scheme.signed.clone();
    let others = TEMPLATES
        .iter()
        .filter_map(|text| Content::parse(text, Some(&any_id)).ok());
    let templates = std::iter::once(own)
        .chain(others.filter(|other| other.to_string() != scheme.signed.to_string()));
    let (times, ids, urls) = (times(scheme, headers), ids(scheme, headers), urls(case));
    let mut framings: Vec<Framing> = Vec::new();
    for (number, template) in templates.enumerate() {
        let text = template.to_string();
        let wanted = |part, sources| {
            if text.contains(part) {
                some_of(sources)
            } else {
                vec![None]
            }
        };
        for time in wanted("{timestamp}", &times) {
            for id in wanted("{id}", &ids) {
                for url in wanted("{url}", &urls) {
                    let bytes = |source: Option<&Source>| {
                        source.map(|source| source.text.clone().into_bytes())
                    };
                    let (time_text, id_text, url_text) = (bytes(time), bytes(id), bytes(url));
                    let around = template.around(
                        time_text.as_deref(),
                        id_text.as_deref(),
                        url_text.as_deref(),
                    );
                    let Some((before, behind)) = around else {
                        continue;
                    };
                    let known = |other: &Framing| other.before == before && other.behind == behind;
                    if framings.iter().any(known) {
                        continue;
                    }
                    let changes = changes((number > 0).then_some(&text), &[time, id, url]);
                    if changes.len() <= 2 {
                        framings.push(Framing {
                            before,
                            behind,
                            changes,
                        });
                    }
                }
            }
        }
    }
    framings.sort_by_key(|framing| framing.changes.len());
    framings
}

fn some_of(sources: &[Source]) -> Vec<Option<&Source>> {
    sources.iter().map(Some).collect()
}

/// `template` is another than the scheme's. A source that goes with it is no change of its own where the scheme has none.
fn changes(template: Option<&String>, sources: &[Option<&Source>]) -> Vec<Change> {
    let places: Vec<_> = sources
        .iter()
        .flatten()
        .filter_map(|source| source.elsewhere.as_deref())
        .collect();
    match template {
        Some(template) => {
            let shown = template.replace('\n', "\\n");
            let with = if places.is_empty() {
                String::new()
            } else {
                format!(" with {}", places.join(" and "))
            };
            vec![Change::new(
                What::Content,
                format!("if `{shown}` were what is signed{with}"),
                format!(
                    "Take the provider that signs so, or say `signed: \"{shown}\"` in a `signature:` of your own."
                ),
            )]
        }
        None => {
            let change = |place: &&str| {
                Change::new(
                    What::Content,
                    format!("with {place}"),
                    "Something is not taken from where the sender takes it: say in a `signature:` of your own, or with \
                     `public_url`, where it stands.",
                )
            };
            places.iter().map(change).collect()
        }
    }
}

/// Times as the request writes them: the scheme's own first.
fn times(scheme: &Scheme, headers: &HeaderMap) -> Vec<Source> {
    let mut sources = Vec::new();
    match (
        scheme.time.as_ref().map(|time| &time.place),
        place(scheme, headers),
    ) {
        (Some(TimestampLocation::Header(header)), _) => {
            sources.extend(own(&values(headers, &header.name), "time", &header.name));
        }
        (Some(TimestampLocation::Field(field)), Some(SignatureLocation::Fields(fields))) => {
            let values = values(headers, &fields.header.name);
            let all = values
                .into_iter()
                .flatten()
                .flat_map(|value| fields.parse(value));
            let times: Vec<_> = all
                .filter(|(name, _)| **name == **field)
                .map(|(_, text)| Some(text))
                .collect();
            sources.extend(own(&times, "time", field));
        }
        _ => {}
    }
    for (name, value) in headers {
        let Ok(text) = value.to_str() else { continue };
        let named_so = name.as_str().contains("timestamp") && text.len() <= SOURCE_BYTES_MAX;
        if named_so || is_unix_time(text) {
            sources.push(Source {
                text: text.into(),
                elsewhere: Some(format!("the time from `{name}`")),
            });
        }
        for (field, text) in text
            .split([',', ';', ' '])
            .filter_map(|field| field.trim().split_once('='))
        {
            if is_unix_time(text) {
                let elsewhere = format!("the time from the field `{field}` of `{name}`");
                sources.push(Source {
                    text: text.into(),
                    elsewhere: Some(elsewhere),
                });
            }
        }
    }
    each_once(sources)
}

/// Seconds of this century, or milliseconds.
fn is_unix_time(text: &str) -> bool {
    matches!(text.len(), 10 | 13) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Event IDs: the scheme's own first, then those of headers that are named so.
fn ids(scheme: &Scheme, headers: &HeaderMap) -> Vec<Source> {
    let mut sources = Vec::new();
    if let Some(header) = scheme.signed.id_header() {
        sources.extend(own(
            &values(headers, &header.name),
            "event ID",
            &header.name,
        ));
    }
    for (name, value) in headers
        .iter()
        .filter(|(name, _)| name.as_str().ends_with("id"))
    {
        if let Ok(text) = value.to_str()
            && text.len() <= SOURCE_BYTES_MAX
        {
            sources.push(Source {
                text: text.into(),
                elsewhere: Some(format!("the event ID from `{name}`")),
            });
        }
    }
    each_once(sources)
}

/// What stands where the scheme says. If that is more than one, none of them is right as it is.
fn own(texts: &[Option<&str>], what: &str, place: impl std::fmt::Display) -> Vec<Source> {
    let twice = texts.len() > 1;
    let numbered = texts
        .iter()
        .enumerate()
        .filter_map(|(number, text)| Some((number, (*text)?)));
    let source = |(number, text): (usize, &str)| Source {
        text: text.into(),
        elsewhere: twice
            .then(|| format!("the {what} from value number {} of `{place}`", number + 1)),
    };
    numbered.map(source).collect()
}

/// The URL that was given, then what the request says of it.
fn urls(case: &Case<'_>) -> Vec<Source> {
    let mut sources = Vec::new();
    let other = |text: String| Source {
        elsewhere: Some(format!("the URL `{text}`")),
        text,
    };
    if let Some(url) = case.url {
        sources.push(Source {
            text: url.into(),
            elsewhere: None,
        });
        sources.push(other(match url.strip_suffix('/') {
            Some(bare) => bare.into(),
            None => format!("{url}/"),
        }));
    }
    let host = case
        .request
        .headers
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    let targets = case.request.target.iter().flat_map(|target| {
        let path = target.split('?').next().unwrap_or_default();
        [target.as_str(), path]
    });
    for target in targets {
        match host {
            _ if target.contains("://") => sources.push(other(target.into())),
            Some(host) => sources.extend(
                ["https", "http"].map(|scheme| other(format!("{scheme}://{host}{target}"))),
            ),
            None => {}
        }
    }
    each_once(sources)
}

fn each_once(sources: Vec<Source>) -> Vec<Source> {
    let mut kept: Vec<Source> = Vec::new();
    for source in sources {
        if kept.len() < SOURCES_MAX && !kept.iter().any(|other| other.text == source.text) {
            kept.push(source);
        }
    }
    kept
}
