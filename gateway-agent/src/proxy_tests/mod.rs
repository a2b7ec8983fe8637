//! The data plane on real sockets: a server on a free port, scripted backends,
//! and clients that read every byte.

mod passing;
mod rig;
