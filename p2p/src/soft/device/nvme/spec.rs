//! Numbers of the specification, as the model needs them. Written out a second time on purpose: what the engine has wrong it
//! must not find here.

/// Register offsets.
pub(super) mod reg {
    pub(crate) const CAP: u64 = 0x0;
    pub(crate) const VS: u64 = 0x8;
    pub(crate) const CC: u64 = 0x14;
    pub(crate) const CSTS: u64 = 0x1c;
    pub(crate) const AQA: u64 = 0x24;
    pub(crate) const ASQ: u64 = 0x28;
    pub(crate) const ACQ: u64 = 0x30;
    pub(crate) const CMBLOC: u64 = 0x38;
    pub(crate) const CMBSZ: u64 = 0x3c;
    pub(crate) const CMBMSC: u64 = 0x50;
    pub(crate) const CMBSTS: u64 = 0x58;
    pub(crate) const BELLS: u64 = 0x1000;
}

/// Memory page.
pub(super) const PAGE: u64 = 0x1000;
/// Largest I/O queue, and how many there are of each kind.
pub(super) const MOST_ENTRIES: u32 = 1024;
pub(super) const QUEUES: u16 = 8;
/// Doorbells are 8 bytes apart (DSTRD 1), unlike QEMU's.
pub(super) const STRIDE_CODE: u64 = 1;
pub(super) const STRIDE: u64 = 8;

/// Status field without the phase: code type in bits 10:8.
pub(super) mod sc {
    pub(crate) const OK: u16 = 0;
    pub(crate) const INVALID_OPCODE: u16 = 0x01;
    pub(crate) const INVALID_FIELD: u16 = 0x02;
    pub(crate) const TRANSFER_ERROR: u16 = 0x04;
    pub(crate) const ABORTED_BY_DELETION: u16 = 0x08;
    pub(crate) const INVALID_NAMESPACE: u16 = 0x0b;
    pub(crate) const INVALID_SGL_COUNT: u16 = 0x0e;
    pub(crate) const SGL_LENGTH: u16 = 0x0f;
    pub(crate) const SGL_TYPE: u16 = 0x11;
    pub(crate) const BUFFER_USE: u16 = 0x12;
    pub(crate) const PRP_OFFSET: u16 = 0x13;
    pub(crate) const SGL_GRANULARITY: u16 = 0x1e;
    pub(crate) const OUT_OF_RANGE: u16 = 0x80;
    pub(crate) const CQ_INVALID: u16 = 0x100;
    pub(crate) const QUEUE_ID: u16 = 0x101;
    pub(crate) const QUEUE_SIZE: u16 = 0x102;
    pub(crate) const QUEUE_IN_USE: u16 = 0x10c;
    pub(crate) const WRITE_FAULT: u16 = 0x280;
    pub(crate) const READ_ERROR: u16 = 0x281;
    pub(crate) const COMPARE: u16 = 0x285;
}

/// A command as it lies in a submission queue: 16 dwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(pub(super) [u32; 16]);

impl Entry {
    pub(super) fn decode(raw: &[u8]) -> Entry {
        let mut dwords = [0; 16];
        for (dword, bytes) in dwords.iter_mut().zip(raw.chunks_exact(4)) {
            *dword = bytes.iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte));
        }
        Entry(dwords)
    }

    pub(super) fn dword(&self, n: usize) -> u32 {
        self.0.get(n).copied().unwrap_or(0)
    }

    pub(super) fn qword(&self, n: usize) -> u64 {
        u64::from(self.dword(n)) | u64::from(self.dword(n + 1)) << 32
    }

    pub(super) fn opcode(&self) -> u8 {
        self.dword(0) as u8
    }

    pub(super) fn id(&self) -> u16 {
        (self.dword(0) >> 16) as u16
    }

    /// PSDT.
    pub(super) fn has_sgl(&self) -> bool {
        self.dword(0) >> 14 & 3 != 0
    }
}

/// A completion as it lies in a completion queue.
pub(super) fn completion(result: u32, head: u16, queue: u16, id: u16, status: u16, phase: bool) -> Vec<u8> {
    let last = u32::from(id) | u32::from(phase) << 16 | u32::from(status) << 17;
    let dwords = [result, 0, u32::from(head) | u32::from(queue) << 16, last];
    dwords.iter().flat_map(|dword| dword.to_le_bytes()).collect()
}
