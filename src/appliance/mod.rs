//! (appliance)
