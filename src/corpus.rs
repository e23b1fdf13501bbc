//! Loads the hostile inputs in `tests/corpus` for the tests that replay them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Returns the contents of the files in a folder of the corpus, by file name.
pub(crate) fn files(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    fs::read_dir(directory)
        .expect("the corpus")
        .map(|entry| {
            let entry = entry.expect("an entry");
            (
                entry.file_name().into_string().expect("a name"),
                fs::read(entry.path()).expect("a file"),
            )
        })
        .collect()
}
