//! SIP: S5 to S10 and S12.
