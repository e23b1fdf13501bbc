//! Reports about names and addresses that fail.
