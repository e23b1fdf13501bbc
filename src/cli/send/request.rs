//! Builds the request: an event in the provider's format, its signature, and the tampering.

use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;

use super::Args;
use super::tamper::signature_header;
use crate::cli::admin::CommandError;
use crate::cli::input;
use crate::cli::signer::Signer;
use crate::config::STANDARD_INPUT;
use crate::event::{IdSource, Source};
use crate::providers::{Sample, sample_for_scheme};
use crate::signature::SignError;

/// A signed request. Its bytes are the same each time that it is sent.
pub(super) struct SignedRequest {
    /// The URL to send to.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// The body before a signature was put into it.
    pub(super) unsigned: Vec<u8>,
    /// The header that holds the signature; `None` if the body does.
    pub(super) signature: Option<HeaderName>,
}

impl SignedRequest {
    pub(super) fn new(args: &Args) -> Result<Self, CommandError> {
        if args.signer.secret.is_standard_input() && args.body.as_deref().is_some_and(is_stdin) {
            let problem = "standard input cannot be both the secret and the body";
            return Err(CommandError::Usage(problem.into()));
        }
        let mut signer = args.signer.signer()?;
        if let Some(tamper) = args.tamper {
            tamper.check(&signer).map_err(CommandError::Usage)?;
        }
        let (target, host) = match (&args.target, &signer.target) {
            (Some(target), _) => (target.clone(), None),
            (None, Ok((target, host))) => (target.clone(), host.clone()),
            (None, Err(problem)) => return Err(CommandError::Usage(problem.clone())),
        };
        signer.scheme.signed = signer
            .scheme
            .signed
            .with_url(args.url.as_deref().unwrap_or(&target));
        let at = args.at.unwrap_or_else(Timestamp::now);
        let at = args.tamper.map_or(at, |tamper| tamper.shift_time(at));
        let id = args.id.clone().unwrap_or_else(input::new_id);
        let event = event(args, &signer, &id, at)?;
        let mut request = sign(args, &signer, event, target, &id, at)?;
        if let Some(host) = host.and_then(|host| HeaderValue::try_from(&*host).ok()) {
            request.headers.insert(header::HOST, host);
        }
        if let Some(tamper) = args.tamper {
            tamper
                .apply(&mut request, &signer, at)
                .map_err(CommandError::Usage)?;
        }
        let extra: Vec<_> = args.headers.iter().collect();
        for (name, _) in &extra {
            request.headers.remove(name);
        }
        for (name, value) in extra {
            request.headers.append(name, value.clone());
        }
        request.signature = signature_header(&signer.scheme, &request).cloned();
        Ok(request)
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new(STANDARD_INPUT)
}

/// Returns a generated event, or the body from the file with the provider's other headers.
fn event(args: &Args, signer: &Signer, id: &str, at: Timestamp) -> Result<Sample, CommandError> {
    let (title, envelope) = (&signer.title, &signer.envelope);
    let event_type = args.event_type.as_deref().unwrap_or(&signer.example_type);
    let sample = sample_for_scheme(envelope, &signer.scheme, event_type, id, at);
    let Sample { headers, body } = sample.ok_or_else(|| {
        CommandError::Failed(format!("no event can be built for the `event` of {title}"))
    })?;
    let Some(path) = &args.body else {
        return Ok(Sample { headers, body });
    };
    if args.id.is_some() && !matches!(envelope.id, IdSource::Header(_)) {
        return Err(CommandError::Usage(format!(
            "--id: {title} has the ID in the body, and --body is sent unchanged"
        )));
    }
    if args.event_type.is_some() && !matches!(envelope.event_type, Source::Header(_)) {
        return Err(CommandError::Usage(format!(
            "--type: {title} has the type in the body, and --body is sent unchanged"
        )));
    }
    let body = input::read_body(Some(path)).map_err(CommandError::Failed)?;
    Ok(Sample { headers, body })
}

fn sign(
    args: &Args,
    signer: &Signer,
    event: Sample,
    target: String,
    id: &str,
    at: Timestamp,
) -> Result<SignedRequest, CommandError> {
    let Signer { scheme, secret, .. } = signer;
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
                .sign_in_body(secret, text)
                .map_err(failed)?
                .into_bytes(),
        )
    } else {
        (
            scheme
                .sign(secret, &unsigned, at, Some(id))
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
        target,
        headers,
        body,
        unsigned,
        signature: None,
    })
}
