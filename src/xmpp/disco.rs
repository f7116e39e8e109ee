//! What is told about ourselves.
