//! How fast a VM's devices may be.

/// At most, in a second; what is absent has no limit. A device that has rested may do one second's worth at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes of each disk.
    pub disk_bytes: Option<u64>,
    /// Operations of each disk.
    pub disk_operations: Option<u64>,
    /// Bytes of the network card, each way. QEMU has no such limit.
    pub network_bytes: Option<u64>,
}
