//! Reports about the providers' documents, field by field.
