//! What is sent: an event, signed as its provider signs, and spoiled when that was asked for.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;

use super::Args;
use super::tamper::signature_header;
use crate::cli::admin::Failure;
use crate::cli::input;
use crate::event::{IdSource, Source};
use crate::providers::{self, Preset, Sample, sample};
use crate::signature::{Scheme, SignError};

/// A request, the same each time that it is sent.
pub(super) struct Outgoing {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// The body without a signature in it.
    pub(super) unsigned: Vec<u8>,
    /// The header that is the signature, if one is.
    pub(super) signature: Option<HeaderName>,
}

impl Outgoing {
    pub(super) fn of(args: &Args) -> Result<Self, Failure> {
        let preset = providers::find(&args.provider)
            .ok_or_else(|| Failure::Usage("no such provider".into()))?;
        let mut scheme = (preset.scheme)();
        if let Some(tamper) = args.tamper {
            tamper.check(preset, &scheme).map_err(Failure::Usage)?;
        }
        scheme.signed = scheme
            .signed
            .with_url(args.url.as_deref().unwrap_or(&args.target));
        let at = args.at.unwrap_or_else(Timestamp::now);
        let at = args.tamper.map_or(at, |tamper| tamper.time_of(at));
        let id = args.id.clone().unwrap_or_else(input::new_id);
        let event = event(args, preset, &id, at)?;
        let mut request = sign(args, &scheme, event, &id, at)?;
        if let Some(tamper) = args.tamper {
            tamper
                .spoil(&mut request, preset, &scheme, at)
                .map_err(Failure::Usage)?;
        }
        let given: Vec<_> = args.headers.iter().collect();
        for (name, _) in &given {
            request.headers.remove(name);
        }
        for (name, value) in given {
            request.headers.append(name, value.clone());
        }
        request.signature = signature_header(&scheme, &request).cloned();
        Ok(request)
    }
}

/// The made-up event, or the one in the file with what stands beside it.
fn event(args: &Args, preset: &Preset, id: &str, at: Timestamp) -> Result<Sample, Failure> {
    let kind = args.kind.as_deref().unwrap_or(preset.example_type);
    let Sample { headers, body } = sample(preset, kind, id, at);
    let Some(path) = &args.body else {
        return Ok(Sample { headers, body });
    };
    let envelope = (preset.defaults.envelope)();
    if args.id.is_some() && !matches!(envelope.id, IdSource::Header(_)) {
        return Err(Failure::Usage(format!(
            "--id: {} has the ID in the body, which is sent as it is",
            preset.title
        )));
    }
    if args.kind.is_some() && !matches!(envelope.event_type, Source::Header(_)) {
        return Err(Failure::Usage(format!(
            "--type: {} has the type in the body, which is sent as it is",
            preset.title
        )));
    }
    let body = input::body(Some(path)).map_err(Failure::Failed)?;
    Ok(Sample { headers, body })
}

fn sign(
    args: &Args,
    scheme: &Scheme,
    event: Sample,
    id: &str,
    at: Timestamp,
) -> Result<Outgoing, Failure> {
    let secret = args.secret.read().map_err(Failure::Failed)?;
    let failed = |error: SignError| match error {
        SignError::NotInBody | SignError::BadId | SignError::NoUrl => {
            Failure::Usage(error.to_string())
        }
        _ => Failure::Failed(error.to_string()),
    };
    let Sample {
        headers: beside,
        body: unsigned,
    } = event;
    let (mut headers, body) = if args.in_body {
        let text = std::str::from_utf8(&unsigned);
        let text =
            text.map_err(|_| Failure::Failed("the body is not UTF-8, so it is no JSON".into()))?;
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
    for (name, value) in beside {
        let unfit = |_| {
            Failure::Usage(format!(
                "{name} can't hold {value:?}: a header takes visible ASCII"
            ))
        };
        headers.insert(name.clone(), HeaderValue::from_str(&value).map_err(unfit)?);
    }
    Ok(Outgoing {
        headers,
        body,
        unsigned,
        signature: None,
    })
}
