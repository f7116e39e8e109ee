//! The box, still without I/O: what the operator may say, what of it is valid, and
//! how it is kept so that a power cut at any octet leaves a whole configuration.
//!
//! [`commands`] is the door for the program's subcommands, [`console`] for what is asked
//! of the running gateway; [`config`] turns `set` lines into a [`config::Config`] and
//! back; [`slots`] lays it out in the file; [`table`] is the one list of all paths.

pub mod check;
pub mod commands;
pub mod config;
pub mod console;
pub mod grammar;
pub mod pem;
pub mod slots;
pub mod table;
pub mod value;
