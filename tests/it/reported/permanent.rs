//! Reports about failures that look permanent.
