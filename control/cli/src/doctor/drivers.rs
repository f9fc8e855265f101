//! What kernel drivers can do with XDP. The kernel tells for sure only when the daemon binds:
//! `sixferry port list` shows what it then got.

/// The best mode a driver is known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Best {
    /// Native XDP and AF_XDP zero-copy.
    ZeroCopy,
    /// Native XDP; AF_XDP copies.
    Native,
    /// Not known to have XDP: generic mode, which every driver has.
    Generic,
}

const ZERO_COPY: &[&str] = &[
    "fsl_dpaa2_eth",
    "gve",
    "i40e",
    "iavf",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx5_core",
    "nfp",
    "stmmac",
    "tsnep",
    "virtio_net",
];

const NATIVE: &[&str] = &[
    "am65-cpsw-nuss",
    "atlantic",
    "bnxt_en",
    "bonding",
    "cpsw",
    "ena",
    "fsl_enetc",
    "funeth",
    "hv_netvsc",
    "ixgbevf",
    "lan966x",
    "mana",
    "mlx4_en",
    "mvneta",
    "mvpp2",
    "netdevsim",
    "nicvf",
    "octeontx2",
    "qede",
    "rvu_nicpf",
    "rvu_nicvf",
    "sfc",
    "tun",
    "veth",
    "vmxnet3",
    "xen-netfront",
    "xen_netfront",
];

/// By the driver's name.
pub(super) fn best(driver: &str) -> Best {
    if ZERO_COPY.contains(&driver) || driver.starts_with("dwmac") {
        Best::ZeroCopy
    } else if NATIVE.contains(&driver) {
        Best::Native
    } else {
        Best::Generic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_known_once() {
        for driver in ZERO_COPY {
            assert_eq!(best(driver), Best::ZeroCopy);
            assert!(!NATIVE.contains(driver), "{driver}");
        }
        assert_eq!(best("veth"), Best::Native);
        assert_eq!(best("e1000e"), Best::Generic);
    }
}
