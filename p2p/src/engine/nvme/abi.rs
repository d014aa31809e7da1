//! Registers, queue entries and codes of NVM Express, from the NVMe Base Specification 2.0 and the NVM Command Set
//! Specification 1.0. Little-endian. Offsets are those of BAR 0.

/// Class code of a controller that speaks NVMe (PCI code and ID assignment: 01h, 08h, 02h).
pub const CLASS: u32 = 0x01_0802;

/// 64 bits: what the controller can do.
pub const CAP: u64 = 0x00;
/// Controller configuration.
pub const CC: u64 = 0x14;
/// Controller status.
pub const CSTS: u64 = 0x1c;
/// Sizes of the admin queues, less one: submission in bits 11:0, completion in 27:16.
pub const AQA: u64 = 0x24;
/// 64 bits: where the admin submission queue is.
pub const ASQ: u64 = 0x28;
/// 64 bits: where the admin completion queue is.
pub const ACQ: u64 = 0x30;
/// Where the controller memory buffer is: BAR in bits 2:0, offset in units of its size in 31:12.
pub const CMBLOC: u64 = 0x38;
/// What the controller memory buffer is for, and its size.
pub const CMBSZ: u64 = 0x3c;
/// 64 bits: the address at which the controller finds its own memory buffer.
pub const CMBMSC: u64 = 0x50;
/// What became of that address.
pub const CMBSTS: u64 = 0x58;
/// The first doorbell.
pub const DOORBELLS: u64 = 0x1000;

/// Fields of [`CAP`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap(pub u64);

impl Cap {
    /// MQES: entries that an I/O queue may have.
    pub fn entries(self) -> u32 {
        (self.0 as u32 & 0xffff) + 1
    }

    /// TO: how long the controller may take to become ready or to stop being so, in units of 500 ms.
    pub fn timeout(self) -> u32 {
        (self.0 >> 24) as u32 & 0xff
    }

    /// DSTRD: bytes from one doorbell to the next.
    pub fn stride(self) -> u64 {
        4 << ((self.0 >> 32) & 0xf)
    }

    /// CSS bit 0: does it know the NVM command set?
    pub fn is_nvm(self) -> bool {
        self.0 >> 37 & 1 != 0
    }

    /// MPSMIN: the smallest page that it takes, in bytes.
    pub fn least_page(self) -> u64 {
        4096 << ((self.0 >> 48) & 0xf)
    }

    /// CMBS: has it a controller memory buffer?
    pub fn has_cmb(self) -> bool {
        self.0 >> 57 & 1 != 0
    }
}

/// CC.EN.
pub const CC_ENABLE: u32 = 1;
/// CC for an enabled controller: NVM command set, pages of 4096 bytes, round robin, entries of 64 and 16 bytes.
pub const CC_VALUE: u32 = CC_ENABLE | 6 << 16 | 4 << 20;
/// CSTS.RDY.
pub const CSTS_READY: u32 = 1;
/// CSTS.CFS: a fatal error.
pub const CSTS_FATAL: u32 = 2;
/// CMBSZ.SQS: submission queues may be in it.
pub const CMBSZ_SUBMISSIONS: u32 = 1;
/// CMBSZ.CQS: completion queues may be in it.
pub const CMBSZ_COMPLETIONS: u32 = 2;
/// CMBSZ.SZU: the largest unit, 64 GiB.
pub const CMBSZ_MOST_UNIT: u32 = 6;
/// CMBMSC.CRE: show CMBLOC and CMBSZ.
pub const CMBMSC_REGISTERS: u64 = 1;
/// CMBMSC.CMSE: answer at the address in bits 63:12.
pub const CMBMSC_ENABLE: u64 = 2;
/// CMBSTS.CBAI: the controller does not take that address.
pub const CMBSTS_INVALID: u32 = 1;

/// Bytes of a submission queue entry.
pub const COMMAND_LEN: u64 = 64;
/// Bytes of a completion queue entry.
pub const COMPLETION_LEN: u64 = 16;
/// Bytes of a memory page, as CC says.
pub const PAGE: u64 = 4096;

/// Opcodes of the admin command set.
pub mod admin {
    /// Delete I/O Submission Queue.
    pub const DELETE_SQ: u8 = 0x00;
    /// Create I/O Submission Queue.
    pub const CREATE_SQ: u8 = 0x01;
    /// Delete I/O Completion Queue.
    pub const DELETE_CQ: u8 = 0x04;
    /// Create I/O Completion Queue.
    pub const CREATE_CQ: u8 = 0x05;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// The feature Number of Queues.
    pub const QUEUES: u32 = 0x07;
}

/// Opcodes of the NVM command set.
pub mod io {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Compare.
    pub const COMPARE: u8 = 0x05;
    /// Dataset Management.
    pub const DSM: u8 = 0x09;
}

/// Status codes that the engine tells apart: type in bits 10:8, code in 7:0. Completions tell them as they are.
pub mod status {
    /// Successful Completion.
    pub const SUCCESS: u16 = 0x000;
    /// Command Aborted due to SQ Deletion.
    pub const SQ_DELETED: u16 = 0x008;
    /// Compare Failure: the bytes differ.
    pub const DIFFERENT: u16 = 0x285;
}

/// A completion queue entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Command specific.
    pub result: u32,
    /// Identifier of the command.
    pub id: u16,
    /// See [`status`].
    pub status: u16,
}

impl Completion {
    /// The phase, in the upper half of the entry.
    #[inline]
    pub fn phase(upper: u64) -> bool {
        upper >> 48 & 1 != 0
    }

    /// From the two halves of an entry.
    #[inline]
    pub fn of(lower: u64, upper: u64) -> Completion {
        Completion { result: lower as u32, id: (upper >> 32) as u16, status: (upper >> 49) as u16 & 0x7ff }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value that QEMU's controller with a buffer shows.
    #[test]
    fn capabilities_are_where_the_specification_has_them() {
        let cap = Cap(0x0200_0000_0000_0000 | 0x0004_0020_0f01_07ff | 1 << 33);
        assert_eq!((cap.entries(), cap.timeout(), cap.stride()), (2048, 15, 16));
        assert_eq!((cap.is_nvm(), cap.least_page(), cap.has_cmb()), (true, 4096 << 4, true));
        assert_eq!(CC_VALUE, 0x0046_0001);
    }

    #[test]
    fn completions_are_where_the_specification_has_them() {
        let raw: [u32; 4] = [7, 0, 3 << 16 | 5, 0xc50a_0000 << 1 | 1 << 16 | 0x1234];
        let half = |n: usize| u64::from(raw[n]) | u64::from(raw[n + 1]) << 32;
        assert!(Completion::phase(half(2)));
        assert_eq!(Completion::of(half(0), half(2)), Completion { result: 7, id: 0x1234, status: 0x50a });
    }
}
