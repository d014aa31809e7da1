//! TDISP messages: the fields of each, named once for both directions.

use super::field::Versions;
use super::layer::{Form, Problem, Stored, written};
use serde_json::Value;
use tidegate::tdisp::wire::*;

static NO_NONCE: [u8; NONCE_SIZE] = [0; NONCE_SIZE];
const NO_VENDOR: VendorData<'static> = VendorData { registry: Registry::PciSig, vendor: &[], data: &[] };

/// A message of a type that has a name, or the bytes after the header of one that has none.
enum Body<'a> {
    Request(Request<'a>),
    Response(Response<'a>),
    Unknown(u8, &'a [u8]),
}

/// An empty one of each type.
fn empty() -> impl Iterator<Item = Body<'static>> {
    let nonce = NonceRef::new(&NO_NONCE);
    let requests = [
        Request::GetVersion(GetVersion),
        Request::GetCapabilities(GetCapabilities::default()),
        Request::Lock(LockRequest::default()),
        Request::GetReport(GetReport::default()),
        Request::GetState(GetState),
        Request::Start(StartRequest { nonce }),
        Request::Stop(StopRequest),
        Request::BindP2p(BindP2pRequest::default()),
        Request::UnbindP2p(UnbindP2pRequest::default()),
        Request::SetMmioAttribute(SetMmioAttribute::default()),
        Request::Vdm(VdmRequest { vendor_data: NO_VENDOR }),
        #[cfg(feature = "set-config")]
        Request::SetConfig(SetConfig::default()),
    ];
    let capabilities = Capabilities {
        dsm_caps: 0,
        messages: MessageSet::default(),
        lock_flags: LockFlags::empty(),
        address_width: 0,
        requests_this: 0,
        requests_all: 0,
    };
    let responses = [
        Response::Version(VersionResponse { entries: &[] }),
        Response::Capabilities(capabilities),
        Response::Lock(LockResponse { nonce }),
        Response::Report(ReportResponse { portion: &[], remainder: 0 }),
        Response::State(StateResponse { state: TdiState::ConfigUnlocked }),
        Response::Start(StartResponse),
        Response::Stop(StopResponse),
        Response::BindP2p(BindP2pResponse),
        Response::UnbindP2p(UnbindP2pResponse),
        Response::SetMmioAttribute(SetMmioAttributeResponse),
        Response::Vdm(VdmResponse { vendor_data: NO_VENDOR }),
        #[cfg(feature = "set-config")]
        Response::SetConfig(SetConfigResponse),
        Response::Error(ErrorResponse::new(ErrorCode::Unspecified, 0)),
    ];
    requests.into_iter().map(Body::Request).chain(responses.into_iter().map(Body::Response))
}

impl<'a> Body<'a> {
    fn parse(message: &'a [u8]) -> Result<(Head, Self), Problem> {
        let header = HeaderView::new(message)?;
        let parsed = if header.code() >= 0x80 {
            Request::parse(message).map(|(head, body)| (head, Body::Request(body)))
        } else {
            Response::parse(message).map(|(head, body)| (head, Body::Response(body)))
        };
        match parsed {
            Err(WireError::UnknownCode { code }) => {
                Ok((header.head(), Body::Unknown(code, header.payload())))
            }
            parsed => Ok(parsed?),
        }
    }

    fn name(&self) -> String {
        let (code, name) = match self {
            Body::Request(body) => (u8::from(body.code()), body.code().name()),
            Body::Response(body) => (u8::from(body.code()), body.code().name()),
            Body::Unknown(code, _) => (*code, None),
        };
        name.map_or_else(|| format!("{code:#04x}"), str::to_owned)
    }

    fn emit(&self, head: Head) -> Result<Vec<u8>, Problem> {
        match self {
            Body::Request(body) => written(body.size(), |out| body.emit(head, out)),
            Body::Response(body) => written(body.size(), |out| body.emit(head, out)),
            Body::Unknown(code, payload) => {
                // The header of any message, with another type.
                let mut bytes = written(HEADER_SIZE, |out| GetState.emit(head, out))?;
                bytes[1] = *code;
                bytes.extend_from_slice(payload);
                Ok(bytes)
            }
        }
    }

    fn fields(&mut self, form: &mut Form<'a>) -> Result<(), Problem> {
        match self {
            Body::Request(request) => request_fields(request, form),
            Body::Response(response) => response_fields(response, form),
            Body::Unknown(_, payload) => form.field("payload", payload),
        }
    }
}

fn request_fields<'a>(request: &mut Request<'a>, form: &mut Form<'a>) -> Result<(), Problem> {
    match request {
        Request::GetVersion(_) | Request::GetState(_) | Request::Stop(_) => Ok(()),
        Request::GetCapabilities(body) => form.field("tsm_caps", &mut body.tsm_caps),
        Request::Lock(body) => {
            form.field("flags", &mut body.flags)?;
            form.field("stream_id", &mut body.stream)?;
            form.field("mmio_reporting_offset", &mut body.reporting_offset)?;
            form.field("bind_p2p_address_mask", &mut body.p2p_address_mask)
        }
        Request::GetReport(body) => {
            form.field("offset", &mut body.offset)?;
            form.field("length", &mut body.length)
        }
        Request::Start(body) => form.field("start_interface_nonce", &mut body.nonce),
        Request::BindP2p(body) => form.field("p2p_stream_id", &mut body.stream),
        Request::UnbindP2p(body) => form.field("p2p_stream_id", &mut body.stream),
        Request::SetMmioAttribute(body) => {
            form.field("first_page", &mut body.range.first_page)?;
            form.field("pages", &mut body.range.pages)?;
            form.field("attributes", &mut body.range.flags)?;
            form.field("range_id", &mut body.range.id)
        }
        Request::Vdm(body) => vendor_fields(&mut body.vendor_data, form),
        #[cfg(feature = "set-config")]
        Request::SetConfig(body) => form.field("config", &mut body.config),
        other => Err(Problem(format!("the fields of {:?} are not known to this command", other.code()))),
    }
}

fn response_fields<'a>(response: &mut Response<'a>, form: &mut Form<'a>) -> Result<(), Problem> {
    match response {
        Response::Version(body) => {
            let mut versions = Versions(body.entries);
            form.field("versions", &mut versions)?;
            body.entries = versions.0;
            Ok(())
        }
        Response::Capabilities(body) => {
            form.field("dsm_caps", &mut body.dsm_caps)?;
            form.field("req_msgs_supported", &mut body.messages)?;
            form.field("lock_interface_flags_supported", &mut body.lock_flags)?;
            form.field("dev_addr_width", &mut body.address_width)?;
            form.field("num_req_this", &mut body.requests_this)?;
            form.field("num_req_all", &mut body.requests_all)
        }
        Response::Lock(body) => form.field("start_interface_nonce", &mut body.nonce),
        Response::Report(body) => {
            form.field("remainder_length", &mut body.remainder)?;
            form.field("report_bytes", &mut body.portion)
        }
        Response::State(body) => form.field("tdi_state", &mut body.state),
        Response::Start(_)
        | Response::Stop(_)
        | Response::BindP2p(_)
        | Response::UnbindP2p(_)
        | Response::SetMmioAttribute(_) => Ok(()),
        #[cfg(feature = "set-config")]
        Response::SetConfig(_) => Ok(()),
        Response::Vdm(body) => vendor_fields(&mut body.vendor_data, form),
        Response::Error(body) => {
            form.field("error_code", &mut body.code)?;
            form.field("error_data", &mut body.data)?;
            form.field("extended_error_data", &mut body.extended)
        }
        other => Err(Problem(format!("the fields of {:?} are not known to this command", other.code()))),
    }
}

fn vendor_fields<'a>(vendor: &mut VendorData<'a>, form: &mut Form<'a>) -> Result<(), Problem> {
    form.field("registry_id", &mut vendor.registry)?;
    form.field("vendor_id", &mut vendor.vendor)?;
    form.field("vendor_data", &mut vendor.data)
}

fn head_fields<'a>(head: &mut Head, form: &mut Form<'a>) -> Result<(), Problem> {
    form.field("version", &mut head.version)?;
    form.field("function_id", &mut head.interface.function)
}

/// The JSON of a message without its protocol id.
pub(super) fn decode(message: &[u8]) -> Result<Value, Problem> {
    let (mut head, mut body) = Body::parse(message)?;
    let mut form = Form::print();
    head_fields(&mut head, &mut form)?;
    body.fields(&mut form)?;
    let mut printed = form.printed(&body.emit(head)?, message);
    printed["type"] = body.name().into();
    Ok(printed)
}

/// The bytes of a message without its protocol id.
pub(super) fn encode(from: &Stored<'_>) -> Result<Vec<u8>, Problem> {
    let name: String = from.field("type")?;
    let mut body = match empty().find(|body| body.name() == name) {
        Some(body) => body,
        None => Body::Unknown(from.field("type")?, &[]),
    };
    let mut head = Head::v1_0(FunctionId::new(0));
    let mut form = Form::read(from);
    head_fields(&mut head, &mut form)?;
    body.fields(&mut form)?;
    form.finish()?;
    let mut bytes = body.emit(head)?;
    from.restore(&mut bytes)?;
    Ok(bytes)
}
