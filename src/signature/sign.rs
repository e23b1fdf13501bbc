//! Signing as a provider does, for `sign`, `send`, test events and tests.

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;

use super::content::Part;
use super::key::{KeyError, Signer};
use super::scheme::{BodySignature, HeaderFields, Scheme, SignatureLocation, TimestampLocation};
use crate::json::{MemberError, compact, member};
use crate::secret::Secret;

/// The headers to send, in the provider's spelling. Empty if the signature is in the body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signed(Vec<(Box<str>, String)>);

impl Signed {
    /// Iterates over names and values, the signature last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, value.as_str()))
    }

    /// Converts to the headers of a request.
    pub fn to_headers(&self) -> HeaderMap {
        let parsed = self
            .iter()
            .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()), value.try_into()));
        parsed
            .filter_map(|(name, value)| Some((name.ok()?, value.ok()?)))
            .collect()
    }
}

/// A reason why a body cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the scheme signs the event ID, and none is given")]
    NoId,
    #[error("an event ID in a header has 1 to 255 visible ASCII characters without a comma")]
    BadId,
    #[error("the scheme signs the endpoint's URL, and none is given")]
    NoUrl,
    #[error("the scheme has no signature in a header")]
    NotInHeader,
    #[error("the scheme has no signature in the body, or not at its top level")]
    NotInBody,
    #[error("the body is not a JSON object, or already has the signature's member in some case")]
    NotAnObject,
}

impl Scheme {
    /// Signs `body` at `now` and returns the headers to send with it.
    ///
    /// # Errors
    /// [`SignError`] if a signed part is missing, or `secret` is no key for the scheme.
    pub fn sign(
        &self,
        secret: &Secret,
        body: &[u8],
        now: Timestamp,
        id: Option<&str>,
    ) -> Result<Signed, SignError> {
        self.sign_with(&self.signer(secret)?, body, now, id)
    }

    pub(super) fn sign_with(
        &self,
        signer: &Signer,
        body: &[u8],
        now: Timestamp,
        id: Option<&str>,
    ) -> Result<Signed, SignError> {
        let format = &self.formats[signer.format];
        let time = self.time.as_ref().map(|time| (time, time.unit.write(now)));
        let time_text = time.as_ref().map_or("", |(_, text)| text.as_str());
        let signature = format!(
            "{}{}",
            format.prefix,
            self.signature_text(signer, body, time_text, id)?
        );
        let mut headers = Vec::new();
        if let Some((header, id)) = self.signed.id_header().zip(id) {
            let fit = (1..=255).contains(&id.len())
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b',');
            if !fit {
                return Err(SignError::BadId);
            }
            headers.push((header.spelling.clone(), id.into()));
        }
        if let Some((TimestampLocation::Header(header), text)) =
            time.as_ref().map(|(time, text)| (&time.location, text))
        {
            headers.push((header.spelling.clone(), text.clone()));
        }
        headers.push(
            match self
                .locations
                .iter()
                .find(|place| !matches!(place, SignatureLocation::Body(_)))
            {
                Some(SignatureLocation::Header(header)) => (header.spelling.clone(), signature),
                Some(SignatureLocation::Fields(HeaderFields {
                    header,
                    separator,
                    assign,
                })) => {
                    let time = match time.as_ref().map(|(time, _)| &time.location) {
                        Some(TimestampLocation::Field(name)) => {
                            format!("{name}{assign}{time_text}{separator}")
                        }
                        Some(TimestampLocation::Header(_)) | None => String::new(),
                    };
                    (
                        header.spelling.clone(),
                        format!("{time}{}{assign}{signature}", format.field),
                    )
                }
                Some(SignatureLocation::Body(_)) | None => return Err(SignError::NotInHeader),
            },
        );
        Ok(Signed(headers))
    }

    /// Signs `body`, a JSON object, and adds the signature as its last member.
    ///
    /// # Errors
    /// [`SignError`] if the scheme has no signature in the body, or `secret` is no key for it.
    pub fn sign_in_body(&self, secret: &Secret, body: &str) -> Result<String, SignError> {
        self.sign_in_body_with(&self.signer(secret)?, body)
    }

    pub(super) fn sign_in_body_with(
        &self,
        signer: &Signer,
        body: &str,
    ) -> Result<String, SignError> {
        let in_body = |place: &_| {
            if let SignatureLocation::Body(in_body) = place {
                Some(BodySignature::clone(in_body))
            } else {
                None
            }
        };
        let BodySignature {
            pointer,
            compact: signs_compact,
        } = self
            .locations
            .iter()
            .find_map(in_body)
            .ok_or(SignError::NotInBody)?;
        let name = pointer
            .name()
            .filter(|name| pointer.to_string() == format!("/{name}"));
        let name = name.ok_or(SignError::NotInBody)?;
        if !body.trim_start().starts_with('{')
            || member(body, &pointer) != Err(MemberError::Missing)
        {
            return Err(SignError::NotAnObject);
        }
        let content = if signs_compact {
            compact(body)
        } else {
            body.to_owned()
        };
        let tag = self.signature_text(signer, content.as_bytes(), "", None)?;
        let members = body
            .trim_end()
            .strip_suffix('}')
            .ok_or(SignError::NotAnObject)?
            .trim_end();
        let comma = if members.ends_with('{') { "" } else { "," };
        let prefix = &self.formats[signer.format].prefix;
        let whole = format!(
            "{members}{comma}\"{name}\":\"{prefix}{tag}\"{}",
            &body[members.len()..]
        );
        // A member whose name differs in case only would make the new one ambiguous.
        member(&whole, &pointer).map_err(|_| SignError::NotAnObject)?;
        Ok(whole)
    }

    fn signature_text(
        &self,
        signer: &Signer,
        body: &[u8],
        time: &str,
        id: Option<&str>,
    ) -> Result<String, SignError> {
        let bytes_of = |part: &Part| match part {
            Part::Literal(text) => Ok(text.to_string()),
            Part::Timestamp => Ok(time.to_owned()),
            Part::Id(_) => id.map(str::to_owned).ok_or(SignError::NoId),
            Part::Url => Err(SignError::NoUrl),
        };
        let joined = |parts: &[Part]| parts.iter().map(bytes_of).collect::<Result<String, _>>();
        let (before, behind) = (joined(&self.signed.before)?, joined(&self.signed.after)?);
        let tag = signer.sign(&[before.as_bytes(), body, behind.as_bytes()]);
        Ok(self.formats[signer.format].write(&tag))
    }
}
