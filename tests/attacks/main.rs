//! Attacks and faults, class by class: what comes out is the defined refusal, a counter
//! says why, the next valid traffic is answered, and an honest partner notices nothing.
//! A test is named after its class.

mod floods;
mod house;
mod identity;
mod measure;
mod middle;
mod presence;
mod session;
mod sip;
mod sip_level;
mod world;
mod xml;
mod xml_level;
