//! Hypotheses about the signed content: the parts around the body, and the sources of these parts.

use super::quoted::Named;
use super::readings::{header_values, signature_location};
use super::{Case, Change, ChangeKind};
use crate::signature::{Content, Header, Scheme, SignatureLocation, TimestampLocation};

/// The bytes that are signed before and after the body, with the changes that this implies.
pub(super) struct Framing {
    pub before: Vec<u8>,
    pub after: Vec<u8>,
    pub changes: Vec<Change>,
}

/// The signed content of other providers.
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

/// The most times, IDs and URLs to try, each. A request usually has one or two.
const SOURCES_MAX: usize = 6;

/// The longest time or ID, in bytes.
const SOURCE_BYTES_MAX: usize = 64;

/// A text that may fill a part of a template.
#[derive(Clone)]
struct Source {
    text: String,
    /// The location of the text, if it differs from the scheme's.
    other_location: Option<String>,
}

/// The texts that may fill the parts of a template.
struct Sources {
    times: Vec<Source>,
    ids: Vec<Source>,
    urls: Vec<Source>,
}

/// Returns all framings with at most two changes, without duplicates.
pub(super) fn framings(case: &Case<'_>, scheme: &Scheme) -> Vec<Framing> {
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
    let sources = Sources {
        times: time_sources(case, scheme),
        ids: id_sources(case, scheme),
        urls: url_sources(case),
    };
    let mut framings: Vec<Framing> = Vec::new();
    for (number, template) in templates.enumerate() {
        push_framings(&template, number > 0, &sources, &mut framings);
    }
    framings.sort_by_key(|framing| framing.changes.len());
    framings
}

/// Adds the framings of a template, with every combination of its sources.
fn push_framings(
    template: &Content,
    is_other: bool,
    sources: &Sources,
    framings: &mut Vec<Framing>,
) {
    let text = template.to_string();
    let needed = |part, sources| {
        if text.contains(part) {
            as_options(sources)
        } else {
            vec![None]
        }
    };
    for time in needed("{timestamp}", &sources.times) {
        for id in needed("{id}", &sources.ids) {
            for url in needed("{url}", &sources.urls) {
                let [time_text, id_text, url_text] =
                    [time, id, url].map(|source| source.map(|source| source.text.as_bytes()));
                let Some((before, after)) = template.around(time_text, id_text, url_text) else {
                    continue;
                };
                if framings
                    .iter()
                    .any(|other| other.before == before && other.after == after)
                {
                    continue;
                }
                let changes = changes(is_other.then_some(&text), &[time, id, url]);
                if changes.len() <= 2 {
                    framings.push(Framing {
                        before,
                        after,
                        changes,
                    });
                }
            }
        }
    }
}

fn as_options(sources: &[Source]) -> Vec<Option<&Source>> {
    sources.iter().map(Some).collect()
}

/// Returns the changes for a template that differs from the scheme's, or for sources that do. With
/// another template, its sources are part of that one change.
fn changes(template: Option<&String>, sources: &[Option<&Source>]) -> Vec<Change> {
    let locations: Vec<_> = sources
        .iter()
        .flatten()
        .filter_map(|source| source.other_location.as_deref())
        .collect();
    match template {
        Some(template) => {
            let shown = template.replace('\n', "\\n");
            let with = if locations.is_empty() {
                String::new()
            } else {
                format!(" with {}", locations.join(" and "))
            };
            let change = Change::new(
                ChangeKind::Content,
                format!("if `{shown}` were the signed content{with}"),
                format!(
                    "Choose the provider that signs this content, or set `signed: \"{shown}\"` in \
                     your own `signature:`."
                ),
            );
            // The locations may hold the URL, whose query may be a token.
            vec![change.with_fact(format!("the sender signs `{shown}`"))]
        }
        None => {
            let change = |location: &&str| {
                Change::new(
                    ChangeKind::Content,
                    format!("with {location}"),
                    "The sender takes this part from another location: set it in your own \
                     `signature:`, or with `public_url`.",
                )
                .with_fact("the sender signs another URL, time or event ID than the scheme names")
            };
            locations.iter().map(change).collect()
        }
    }
}

/// Returns the times in the request, as written: the one the scheme names first.
fn time_sources(case: &Case<'_>, scheme: &Scheme) -> Vec<Source> {
    let headers = &case.request.headers;
    let mut sources = Vec::new();
    match (
        scheme.time.as_ref().map(|time| &time.location),
        signature_location(scheme, headers),
    ) {
        (Some(TimestampLocation::Header(header)), _) => {
            sources.extend(from_expected_location(
                &header_values(headers, &header.name),
                "time",
                &header.name,
            ));
        }
        (Some(TimestampLocation::Field(field)), Some(SignatureLocation::Fields(fields))) => {
            let values = header_values(headers, &fields.header.name);
            let all = values
                .into_iter()
                .flatten()
                .flat_map(|value| fields.parse(value));
            let times: Vec<_> = all
                .filter(|(name, _)| **name == **field)
                .map(|(_, text)| Some(text))
                .collect();
            sources.extend(from_expected_location(&times, "time", field));
        }
        _ => {}
    }
    for (name, value) in headers {
        let Ok(text) = value.to_str() else { continue };
        let header = Named::header(name, case).of_header();
        let named_so = name.as_str().contains("timestamp") && text.len() <= SOURCE_BYTES_MAX;
        if named_so || is_unix_time(text) {
            sources.push(Source {
                text: text.into(),
                other_location: Some(format!("the time from {header}")),
            });
        }
        for (field, text) in text
            .split([',', ';', ' '])
            .filter_map(|field| field.trim().split_once('='))
        {
            if is_unix_time(text) {
                let field = Named::field(field).of_field();
                let location = format!("the time from {field} of {header}");
                sources.push(Source {
                    text: text.into(),
                    other_location: Some(location),
                });
            }
        }
    }
    deduplicate(sources)
}

/// Returns whether a text may be Unix seconds or milliseconds of this century.
fn is_unix_time(text: &str) -> bool {
    matches!(text.len(), 10 | 13) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the event IDs in the request: the one the scheme names first, then those in headers
/// whose name ends with `id`.
fn id_sources(case: &Case<'_>, scheme: &Scheme) -> Vec<Source> {
    let headers = &case.request.headers;
    let mut sources = Vec::new();
    if let Some(header) = scheme.signed.id_header() {
        sources.extend(from_expected_location(
            &header_values(headers, &header.name),
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
                other_location: Some(format!(
                    "the event ID from {}",
                    Named::header(name, case).of_header()
                )),
            });
        }
    }
    deduplicate(sources)
}

/// Returns the texts at the location that the scheme names. If there are several, each is a change.
fn from_expected_location(
    texts: &[Option<&str>],
    what: &str,
    location: impl std::fmt::Display,
) -> Vec<Source> {
    let repeated = texts.len() > 1;
    let numbered = texts
        .iter()
        .enumerate()
        .filter_map(|(number, text)| Some((number, (*text)?)));
    let source = |(number, text): (usize, &str)| Source {
        text: text.into(),
        other_location: repeated.then(|| {
            format!(
                "the {what} from value number {} of `{location}`",
                number + 1
            )
        }),
    };
    numbered.map(source).collect()
}

/// Returns the given URL first, then those that the request suggests.
fn url_sources(case: &Case<'_>) -> Vec<Source> {
    let mut sources = Vec::new();
    let other = |text: String, location: String| Source {
        other_location: Some(location),
        text,
    };
    if let Some(url) = case.url {
        sources.push(Source {
            text: url.into(),
            other_location: None,
        });
        let slashed = match url.strip_suffix('/') {
            Some(bare) => bare.into(),
            None => format!("{url}/"),
        };
        let location = format!("the URL `{slashed}`");
        sources.push(other(slashed, location));
    }
    let host = case
        .request
        .headers
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    // The request's own URL is described, because its query may be a token.
    let targets = case.request.target.iter().flat_map(|target| {
        let path = target.split('?').next().unwrap_or_default();
        [
            (target.as_str(), "target"),
            (path, "target without its query"),
        ]
    });
    for (target, what) in targets {
        match host {
            _ if target.contains("://") => {
                sources.push(other(
                    target.into(),
                    format!("the request's {what} as the URL"),
                ));
            }
            Some(host) => sources.extend(["https", "http"].map(|scheme| {
                let location = format!("the URL `{scheme}://` and the request's host and {what}");
                other(format!("{scheme}://{host}{target}"), location)
            })),
            None => {}
        }
    }
    deduplicate(sources)
}

fn deduplicate(sources: Vec<Source>) -> Vec<Source> {
    let mut kept: Vec<Source> = Vec::new();
    for source in sources {
        if kept.len() < SOURCES_MAX && !kept.iter().any(|other| other.text == source.text) {
            kept.push(source);
        }
    }
    kept
}
