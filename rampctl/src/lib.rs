//! rampctl.
