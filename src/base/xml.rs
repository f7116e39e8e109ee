//! Placeholder until the xml owner lands.
