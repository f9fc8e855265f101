//! The TUN device: raw IP packets, no link-layer header, gone when the file closes.

use std::io;

use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

use crate::Error;

/// A TUN device of our own.
pub(super) struct Tun {
    device: AsyncDevice,
    name: String,
    index: u32,
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tun")
            .field("name", &self.name)
            .field("index", &self.index)
            .finish()
    }
}

impl Tun {
    /// Creates the device, still down: addresses come before the first packet.
    pub(super) fn create(name: Option<&str>, mtu: u16) -> Result<Self, Error> {
        let mut builder = DeviceBuilder::new().layer(Layer::L3).mtu(mtu).enable(false);
        if let Some(name) = name {
            builder = builder.name(name);
        }
        let wanted = || name.unwrap_or("(any)").to_owned();
        let device = builder.build_async().map_err(|source| Error::TunCreate {
            name: wanted(),
            source,
        })?;
        let name = device.name().map_err(|source| Error::TunCreate {
            name: wanted(),
            source,
        })?;
        let index = device.if_index().map_err(|source| Error::TunCreate {
            name: name.clone(),
            source,
        })?;
        Ok(Self {
            device,
            name,
            index,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn set_mtu(&self, mtu: u16) -> Result<(), Error> {
        self.device
            .set_mtu(mtu)
            .map_err(|source| self.error("set the MTU", source))
    }

    pub(super) fn error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Tun {
            name: self.name.clone(),
            operation,
            source,
        }
    }

    pub(super) async fn readable(&self) -> Result<(), Error> {
        self.device
            .readable()
            .await
            .map_err(|source| self.error("wait", source))
    }

    /// One packet, or nothing when the queue is empty.
    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        match self.device.try_recv(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(self.error("read", source)),
        }
    }

    pub(super) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.device.send(packet).await.map(|_| ())
    }
}
