//! What several tests share: hex, and the vector file.
#![allow(dead_code)]

pub(crate) mod device;
pub(crate) mod messages;
pub(crate) mod tdi;
pub(crate) mod window;

/// The vectors of an independent responder; the file says where they are from.
pub(crate) const VECTORS: &str = include_str!("../vectors/tdisp_vectors.txt");

/// One exchange of the vector file.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// Line number of the request.
    pub(crate) line: usize,
    /// The comment above the request.
    pub(crate) what: String,
    /// A section starts here: the device was reset.
    pub(crate) reset: bool,
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
    /// TDI state of the peer after the exchange.
    pub(crate) state: u8,
}

impl Exchange {
    /// The peer's answer is not the one that the specification asks for.
    pub(crate) fn deviates(&self) -> bool {
        self.what.contains("DEVIATES")
    }
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.trim().bytes().collect();
    assert!(digits.len() % 2 == 0, "odd number of digits in {text:?}");
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Every request and response pair, in order.
pub(crate) fn exchanges() -> Vec<Exchange> {
    let (mut all, mut what, mut reset, mut request) = (Vec::new(), String::new(), false, None);
    for (number, line) in VECTORS.lines().enumerate() {
        if line.starts_with("## ") {
            reset = true;
        } else if let Some(comment) = line.strip_prefix("# ") {
            what = comment.into();
        } else if let Some(bytes) = line.strip_prefix("REQ ") {
            request = Some((number + 1, hex(bytes)));
        } else if let Some(rest) = line.strip_prefix("RSP ") {
            let (bytes, state) = rest.split_once("# state=").expect("every RSP names the state");
            let (line, request) = request.take().expect("a RSP follows its REQ");
            let what = std::mem::take(&mut what);
            let state = state.trim().parse().unwrap();
            all.push(Exchange { line, what, reset, request, response: hex(bytes), state });
            reset = false;
        }
    }
    assert!(request.is_none(), "a REQ without RSP");
    all
}

/// The interface report that the file gives in one piece.
pub(crate) fn reassembled_report() -> Vec<u8> {
    let line = VECTORS.lines().find_map(|line| line.strip_prefix("REPORT ")).expect("a REPORT line");
    hex(line)
}
