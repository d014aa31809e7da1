//! The words of the tables.

use tidegate_tdisp::state::event::Happening;
use tidegate_tdisp::state::{Need, Trigger};
use tidegate_tdisp::wire::RequestCode;

pub(crate) fn trigger(on: Trigger) -> &'static str {
    match on {
        Trigger::Lock => "LOCK",
        Trigger::Start => "START",
        Trigger::BindP2p => "BIND_P2P",
        Trigger::UnbindP2p => "UNBIND_P2P",
        Trigger::SetMmioAttribute => "SET_MMIO_ATTRIBUTE",
        Trigger::Stop => "STOP",
        Trigger::Fault => "fault",
        Trigger::Reset => "conventional reset",
        other => panic!("{other:?} has no word"),
    }
}

pub(crate) fn needs(all: &[Need]) -> Vec<&'static str> {
    all.iter().map(|need| need_words(*need)).collect()
}

fn need_words(need: Need) -> &'static str {
    match need {
        Need::Flags => "every flag is supported",
        Need::Keyed => "the stream has keys of the locking session",
        Need::Configuration => "the configuration allows it",
        Need::FreshNonce => "a fresh nonce",
        Need::Nonce => "the nonce of this lock",
        Need::P2pAllowed => "the lock allows P2P, another stream than the default",
        Need::P2pBound => "the stream is bound",
        Need::Updatable => "pages of one updatable range",
        Need::Idle => "nothing is under way",
        Need::Scrubbed => "the trust domain's data are wiped",
        other => panic!("{other:?} has no word"),
    }
}

/// As the specification calls the request.
pub(crate) fn request(code: RequestCode) -> String {
    match code {
        RequestCode::GetVersion => "GET_TDISP_VERSION".into(),
        RequestCode::GetCapabilities => "GET_TDISP_CAPABILITIES".into(),
        RequestCode::GetReport => "GET_DEVICE_INTERFACE_REPORT".into(),
        RequestCode::GetState => "GET_DEVICE_INTERFACE_STATE".into(),
        RequestCode::Stop => "STOP_INTERFACE_REQUEST".into(),
        RequestCode::Vdm => "VDM".into(),
        other => format!("{other:?}"),
    }
}

/// The name of a happening as words: `KeysLost` of a stream is `stream: keys lost`.
pub(crate) fn spaced(happening: Happening) -> String {
    let (what, name) = match happening {
        Happening::Function(event) => ("function: ", format!("{event:?}")),
        Happening::Stream(event) => ("stream: ", format!("{event:?}")),
        Happening::SessionEnded => ("", "SpdmSessionEnded".into()),
        Happening::Device(event) => ("device: ", format!("{event:?}")),
        other => panic!("{other:?} has no word"),
    };
    let mut out = String::from(what);
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 {
            out.push(' ');
        }
        out.push(letter.to_ascii_lowercase());
    }
    let names =
        [("bar ", "BAR "), ("rom ", "ROM "), ("bist ", "BIST "), ("sriov ", "SR-IOV "), ("ari ", "ARI ")];
    let more =
        [("pasid ", "PASID "), ("msix ", "MSI-X "), ("vf ", "VF "), ("spdm ", "SPDM "), ("dsm ", "DSM ")];
    for (word, name) in names.into_iter().chain(more) {
        if out.starts_with(word) {
            out = out.replacen(word, name, 1);
        }
        out = out.replace(&format!(" {word}"), &format!(" {name}"));
    }
    out
}
