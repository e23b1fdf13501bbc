//! `docs/providers.md`, written from the presets.

/// The reference as Markdown.
pub fn reference() -> String {
    String::new()
}
