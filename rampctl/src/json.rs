//! The API's messages as canonical JSON, the way grpcurl prints them, but with
//! every field, so that a script finds `admission` also when it is 0.

use std::{io, sync::LazyLock};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Serializer;

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(rampmeter_api::DESCRIPTOR_SET).ok());

/// Messages that are printed, by their name in the API.
pub(crate) trait Named: Message {
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ident)*) => {$(
        impl Named for rampmeter_api::v1::$message {
            const NAME: &'static str = concat!("rampmeter.v1.", stringify!($message));
        }
    )*};
}

named! {
    ApplyConfigResponse ApprovePlanResponse ClearDrainResponse ClearOverrideResponse
    DrainRegionResponse DropCandidateResponse Event ExplainBackendResponse GetCandidateResponse
    GetConfigResponse GetDrillResponse GetFleetResponse GetServiceResponse ListAgentsResponse
    ListBackendsResponse ListDrillsResponse ListEventsResponse ListServicesResponse
    OverrideBackendResponse WatchBackendsResponse
}

/// As JSON on one line or, `pretty`, on many; fields in the API's order.
pub(crate) fn text<M: Named>(message: &M, pretty: bool) -> io::Result<String> {
    let unknown = || io::Error::other(format!("{} is not in the descriptor set", M::NAME));
    let pool = POOL.as_ref().ok_or_else(unknown)?;
    let descriptor = pool.get_message_by_name(M::NAME).ok_or_else(unknown)?;
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(io::Error::other)?;
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut json = Vec::new();
    match pretty {
        true => dynamic.serialize_with_options(&mut Serializer::pretty(&mut json), &options)?,
        false => dynamic.serialize_with_options(&mut Serializer::new(&mut json), &options)?,
    }
    json.push(b'\n');
    String::from_utf8(json).map_err(io::Error::other)
}
