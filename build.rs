//! Compiles `proto/` to Rust without an installed `protoc`, and keeps the
//! descriptor set for reflection. Nothing else.

use std::{env, error::Error, fs, path::Path};

use prost::Message;

const FILES: [&str; 6] = [
    "rampmeter/v1/types.proto",
    "rampmeter/v1/decision.proto",
    "rampmeter/v1/agent_service.proto",
    "rampmeter/v1/fleet_service.proto",
    "rampmeter/v1/operator_service.proto",
    "rampmeter/store/v1/store.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = env::var("OUT_DIR")?;
    fs::write(
        Path::new(&out).join("rampmeter.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
