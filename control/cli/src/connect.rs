//! From the global options to a connection.

use sixferry_client::{Client, Options, Session, Target, TlsFiles};

use crate::args::{Global, Writer};
use crate::error::CliError;

impl Global {
    /// Where the dataplane is said to be.
    pub(crate) fn target(&self) -> Result<Target, CliError> {
        let Some(address) = &self.tcp else {
            return Ok(Target::Unix(self.socket.clone()));
        };
        let need = |file: &Option<std::path::PathBuf>, option: &str| {
            let missing = || CliError::Usage(format!("--tcp also needs {option}"));
            file.clone().ok_or_else(missing)
        };
        Ok(Target::Tcp {
            address: address.clone(),
            tls: TlsFiles {
                ca: need(&self.tls_ca, "--tls-ca")?,
                cert: need(&self.tls_cert, "--tls-cert")?,
                key: need(&self.tls_key, "--tls-key")?,
                server_name: None,
            },
        })
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
    }
}
