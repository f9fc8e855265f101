//! From the global options to a connection.

use sixferry_client::control::ControlClient;
use sixferry_client::{Client, Options, Session, Target, TlsFiles};

use crate::args::{Global, Writer};
use crate::error::CliError;

impl Global {
    /// Where the dataplane is said to be.
    pub(crate) fn target(&self) -> Result<Target, CliError> {
        let Some(address) = &self.tcp else {
            return Ok(Target::Unix(self.socket.clone()));
        };
        self.over_tls(address, "--tcp")
    }

    /// Where the control plane is said to be.
    pub(crate) fn control_target(&self) -> Result<Target, CliError> {
        let address = self.control.as_str();
        if let Some(path) = address.strip_prefix("unix:") {
            return Ok(Target::Unix(path.into()));
        }
        if address.contains('/') {
            return Ok(Target::Unix(address.into()));
        }
        self.over_tls(address, "--control HOST:PORT")
    }

    fn over_tls(&self, address: &str, option: &str) -> Result<Target, CliError> {
        let need = |file: &Option<std::path::PathBuf>, other: &str| {
            let missing = || CliError::Usage(format!("{option} also needs {other}"));
            file.clone().ok_or_else(missing)
        };
        Ok(Target::Tcp {
            address: address.to_owned(),
            tls: TlsFiles {
                ca: need(&self.tls_ca, "--tls-ca")?,
                cert: need(&self.tls_cert, "--tls-cert")?,
                key: need(&self.tls_key, "--tls-key")?,
                server_name: None,
            },
        })
    }

    /// Connects to the control plane.
    pub(crate) async fn control(&self) -> Result<ControlClient, CliError> {
        let options = Options {
            timeout: self.timeout,
        };
        Ok(ControlClient::connect(&self.control_target()?, &options).await?)
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Client, CliError> {
        let options = Options {
            timeout: self.timeout,
        };
        Ok(Client::connect(&self.target()?, &options).await?)
    }

    /// Connects to write.
    pub(crate) async fn session(&self, writer: &Writer) -> Result<Session, CliError> {
        let client = self.connect().await?;
        let session = client.open_session(&writer.owner, writer.election_id);
        Ok(session.await?)
    }
}

#[cfg(test)]
mod tests {
    use sixferry_client::Target;

    use crate::args::Cli;
    use clap::Parser;

    #[test]
    fn tcp_names_the_file_that_is_missing() {
        let cli = Cli::try_parse_from([
            "sixferry",
            "--tcp",
            "relay:5841",
            "--tls-ca",
            "ca.pem",
            "status",
        ])
        .unwrap();
        let error = cli.global.target().unwrap_err();
        assert_eq!(error.to_string(), "--tcp also needs --tls-cert");
        let control = |address: &str| {
            let args = ["sixferry", "--control", address, "status"];
            Cli::try_parse_from(args).unwrap().global.control_target()
        };
        for address in ["unix:/run/c.sock", "/run/c.sock"] {
            assert_eq!(
                control(address).unwrap(),
                Target::Unix("/run/c.sock".into())
            );
        }
        let error = control("relay:5843").unwrap_err();
        assert_eq!(error.to_string(), "--control HOST:PORT also needs --tls-ca");
    }
}
