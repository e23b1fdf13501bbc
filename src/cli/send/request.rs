//! Builds the request: an event in the provider's format, its signature, and the tampering.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;

use super::Args;
use super::tamper::signature_header;
use crate::cli::admin::CommandError;
use crate::cli::input;
use crate::event::{IdSource, Source};
use crate::providers::{self, Preset, Sample, sample};
use crate::signature::{Scheme, SignError};

/// A signed request. Its bytes are the same each time that it is sent.
pub(super) struct SignedRequest {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// The body before a signature was put into it.
    pub(super) unsigned: Vec<u8>,
    /// The header that holds the signature; `None` if the body does.
    pub(super) signature: Option<HeaderName>,
}

impl SignedRequest {
    pub(super) fn new(args: &Args) -> Result<Self, CommandError> {
        let preset = providers::find(&args.provider)
            .ok_or_else(|| CommandError::Usage("unknown provider".into()))?;
        let mut scheme = (preset.scheme)();
        if let Some(tamper) = args.tamper {
            tamper.check(preset, &scheme).map_err(CommandError::Usage)?;
        }
        scheme.signed = scheme
            .signed
            .with_url(args.url.as_deref().unwrap_or(&args.target));
        let at = args.at.unwrap_or_else(Timestamp::now);
        let at = args.tamper.map_or(at, |tamper| tamper.shift_time(at));
        let id = args.id.clone().unwrap_or_else(input::new_id);
        let event = event(args, preset, &id, at)?;
        let mut request = sign(args, &scheme, event, &id, at)?;
        if let Some(tamper) = args.tamper {
            tamper
                .apply(&mut request, preset, &scheme, at)
                .map_err(CommandError::Usage)?;
        }
        let extra: Vec<_> = args.headers.iter().collect();
        for (name, _) in &extra {
            request.headers.remove(name);
        }
        for (name, value) in extra {
            request.headers.append(name, value.clone());
        }
        request.signature = signature_header(&scheme, &request).cloned();
        Ok(request)
    }
}

/// Returns a generated event, or the body from the file with the provider's other headers.
fn event(args: &Args, preset: &Preset, id: &str, at: Timestamp) -> Result<Sample, CommandError> {
    let event_type = args.event_type.as_deref().unwrap_or(preset.example_type);
    let Sample { headers, body } = sample(preset, event_type, id, at);
    let Some(path) = &args.body else {
        return Ok(Sample { headers, body });
    };
    let envelope = (preset.defaults.envelope)();
    if args.id.is_some() && !matches!(envelope.id, IdSource::Header(_)) {
        return Err(CommandError::Usage(format!(
            "--id: {} has the ID in the body, and --body is sent unchanged",
            preset.title
        )));
    }
    if args.event_type.is_some() && !matches!(envelope.event_type, Source::Header(_)) {
        return Err(CommandError::Usage(format!(
            "--type: {} has the type in the body, and --body is sent unchanged",
            preset.title
        )));
    }
    let body = input::read_body(Some(path)).map_err(CommandError::Failed)?;
    Ok(Sample { headers, body })
}

fn sign(
    args: &Args,
    scheme: &Scheme,
    event: Sample,
    id: &str,
    at: Timestamp,
) -> Result<SignedRequest, CommandError> {
    let secret = args.secret.read().map_err(CommandError::Failed)?;
    let failed = |error: SignError| match error {
        SignError::NotInBody | SignError::BadId | SignError::NoUrl => {
            CommandError::Usage(error.to_string())
        }
        _ => CommandError::Failed(error.to_string()),
    };
    let Sample {
        headers: provider_headers,
        body: unsigned,
    } = event;
    let (mut headers, body) = if args.in_body {
        let text = std::str::from_utf8(&unsigned);
        let text = text
            .map_err(|_| CommandError::Failed("the body is not UTF-8, so it is not JSON".into()))?;
        (
            HeaderMap::new(),
            scheme
                .sign_in_body(&secret, text)
                .map_err(failed)?
                .into_bytes(),
        )
    } else {
        (
            scheme
                .sign(&secret, &unsigned, at, Some(id))
                .map_err(failed)?
                .to_headers(),
            unsigned.clone(),
        )
    };
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    for (name, value) in provider_headers {
        let unfit = |_| {
            CommandError::Usage(format!(
                "{name} cannot hold {value:?}: a header value must be visible ASCII"
            ))
        };
        headers.insert(name.clone(), HeaderValue::from_str(&value).map_err(unfit)?);
    }
    Ok(SignedRequest {
        headers,
        body,
        unsigned,
        signature: None,
    })
}
