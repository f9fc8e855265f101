//! UserService.

use std::pin::Pin;

use futures::Stream;
use sixferry_lifecycle::secret::Secret;
use sixferry_lifecycle::{
    Account, AccountFilter, AccountId, AdminError, ImportedAccount, Lifecycle, NewAccount,
};
use sixferry_proto::control::v1 as pb;
use sixferry_proto::control::v1::user_service_server::UserService;
use sixferry_remote::convert;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::status::{admin, bad_field, bad_page_token, refuse, too_many};
use super::{Api, MAX_ENTRIES, Running, page_size};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Empty: none.
fn secret(field: &str, bytes: Vec<u8>) -> Result<Option<Secret>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let secret = Secret::new(bytes).map_err(|error| bad_field(field, error.to_string()))?;
    Ok(Some(secret))
}

fn new_account(user: Option<pb::User>, bytes: Vec<u8>) -> Result<NewAccount, Status> {
    let user = user.ok_or_else(|| bad_field("user", "is missing"))?;
    Ok(NewAccount {
        status: convert::user_status("user.status", user.status)?,
        prefixes: convert::prefixes("user.prefixes", &user.prefixes)?,
        name: user.name,
        secret: secret("secret", bytes)?,
    })
}

#[tonic::async_trait]
impl UserService for Api {
    type ImportUsersStream = Answers<pb::ImportUsersResponse>;
    type ExportUsersStream = Answers<pb::ExportUsersResponse>;

    async fn create_user(
        &self,
        request: Request<pb::CreateUserRequest>,
    ) -> Result<Response<pb::CreateUserResponse>, Status> {
        let request = request.into_inner();
        let account = new_account(request.user, request.secret)?;
        let added = self.lifecycle()?.add_account(account).await;
        let user = added.map_err(|error| admin(error, "user."))?;
        Ok(Response::new(pb::CreateUserResponse {
            user: Some(convert::user_message(&user)),
        }))
    }

    async fn set_user(
        &self,
        request: Request<pb::SetUserRequest>,
    ) -> Result<Response<pb::SetUserResponse>, Status> {
        let request = request.into_inner();
        let user = request.user.unwrap_or_default();
        let paths = request.update_mask.unwrap_or_default().paths;
        // Everything is looked at before anything is done.
        for path in &paths {
            if !matches!(path.as_str(), "status" | "prefixes") {
                let problem = format!("{path:?} cannot be set; status and prefixes can");
                return Err(bad_field("update_mask", problem));
            }
        }
        let wants = |name: &str| paths.iter().any(|path| path == name);
        let prefixes = convert::prefixes("user.prefixes", &user.prefixes)?;
        let status = convert::user_status("user.status", user.status)?;
        let secret = secret("secret", request.secret)?;
        if secret.is_some() && request.clear_secret {
            return Err(bad_field("clear_secret", "contradicts `secret`"));
        }
        let lifecycle = self.lifecycle()?;
        let mut account = self.account(&user.name)?;
        let refused = |error| admin(error, "user.");
        if wants("prefixes") {
            account = lifecycle
                .set_prefixes(account.id, prefixes)
                .await
                .map_err(refused)?;
        }
        if secret.is_some() || request.clear_secret {
            account = lifecycle
                .set_secret(account.id, secret)
                .await
                .map_err(refused)?;
        }
        if wants("status") {
            account = lifecycle
                .set_status(account.id, status)
                .await
                .map_err(refused)?;
        }
        Ok(Response::new(pb::SetUserResponse {
            user: Some(convert::user_message(&account)),
        }))
    }

    async fn delete_user(
        &self,
        request: Request<pb::DeleteUserRequest>,
    ) -> Result<Response<pb::DeleteUserResponse>, Status> {
        let account = self.account(&request.into_inner().name)?;
        let deleted = self.lifecycle()?.delete_account(account.id).await;
        deleted.map_err(|error| admin(error, ""))?;
        Ok(Response::new(pb::DeleteUserResponse {}))
    }

    async fn get_user(
        &self,
        request: Request<pb::GetUserRequest>,
    ) -> Result<Response<pb::GetUserResponse>, Status> {
        let account = self.account(&request.into_inner().name)?;
        Ok(Response::new(pb::GetUserResponse {
            user: Some(convert::user_message(&account)),
        }))
    }

    async fn list_users(
        &self,
        request: Request<pb::ListUsersRequest>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        let request = request.into_inner();
        let lifecycle = self.lifecycle()?;
        // The token is the last name: it begins with a letter that says so.
        let after = match request.page_token.strip_prefix('>') {
            Some(name) => Some(name),
            None if request.page_token.is_empty() => None,
            None => return Err(bad_page_token()),
        };
        let filter = AccountFilter {
            name_prefix: request.name_prefix,
            ..AccountFilter::default()
        };
        let size = page_size(request.page_size);
        let page = lifecycle.accounts(&filter, after, size);
        let full = page.len() == size;
        let last = page
            .last()
            .filter(|_| full)
            .map(|account| format!(">{}", account.name));
        Ok(Response::new(pb::ListUsersResponse {
            users: page.iter().map(convert::user_message).collect(),
            next_page_token: last.unwrap_or_default(),
            total_count: lifecycle.stats().accounts,
        }))
    }

    async fn import_users(
        &self,
        request: Request<Streaming<pb::ImportUsersRequest>>,
    ) -> Result<Response<Self::ImportUsersStream>, Status> {
        let lifecycle = self.lifecycle()?;
        let mut requests = request.into_inner();
        let (out, answers) = mpsc::channel(2);
        tokio::spawn(async move {
            loop {
                let answer = match requests.message().await {
                    Ok(Some(request)) => import(&lifecycle, request).await,
                    Ok(None) => return,
                    Err(broken) => Err(broken),
                };
                let over = answer.is_err();
                if out.send(answer).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn export_users(
        &self,
        request: Request<pb::ExportUsersRequest>,
    ) -> Result<Response<Self::ExportUsersStream>, Status> {
        let secrets = request.into_inner().secrets;
        if secrets && !self.local {
            let text = "secrets are exported over the unix socket only";
            return Err(refuse(Code::PermissionDenied, "SECRETS_LOCAL_ONLY", text));
        }
        let running = self.running()?;
        if secrets {
            tracing::warn!("the users are exported with their secrets");
        }
        let (out, answers) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut after: Option<String> = None;
            loop {
                let page = running.lifecycle.accounts(
                    &AccountFilter::default(),
                    after.as_deref(),
                    MAX_ENTRIES,
                );
                let Some(last) = page.last() else { return };
                after = Some(last.name.clone());
                let answer = export(&running, &page, secrets).await;
                let over = answer.is_err();
                if out.send(answer).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// One message of an import. Entries that cannot be read fail alone; so do those that are refused.
async fn import(
    lifecycle: &Lifecycle,
    request: pb::ImportUsersRequest,
) -> Result<pb::ImportUsersResponse, Status> {
    if request.entries.len() > MAX_ENTRIES {
        return Err(too_many("entries", request.entries.len(), MAX_ENTRIES));
    }
    let mut answer = pb::ImportUsersResponse::default();
    let mut positions = std::collections::HashMap::new();
    let mut accounts = Vec::new();
    for (index, entry) in (0_u32..).zip(request.entries) {
        match imported(lifecycle, entry, request.create_only) {
            Ok(account) => {
                positions.insert(account.name.clone(), index);
                accounts.push(account);
            }
            Err(refused) => answer.failures.push(failure(index, &refused)),
        }
    }
    let report = lifecycle
        .import(accounts)
        .await
        .map_err(|error| admin(error, ""))?;
    answer.created = u32::try_from(report.added).unwrap_or(u32::MAX);
    answer.updated = u32::try_from(report.changed + report.skipped).unwrap_or(u32::MAX);
    for (name, error) in report.refused {
        let index = positions.get(&name).copied().unwrap_or_default();
        answer.failures.push(failure(index, &admin(error, "user.")));
    }
    answer.failures.sort_by_key(|failure| failure.index);
    Ok(answer)
}

/// One entry. What it does not say stays as it is: status, prefixes, secret.
fn imported(
    lifecycle: &Lifecycle,
    entry: pb::UserEntry,
    create_only: bool,
) -> Result<ImportedAccount, Status> {
    let silent = entry.user.as_ref().is_some_and(|user| user.status == 0);
    let account = new_account(entry.user, entry.secret)?;
    let name = account.name;
    if create_only && lifecycle.account_named(&name).is_some() {
        let what = "account";
        return Err(admin(AdminError::Exists { what, name }, ""));
    }
    Ok(ImportedAccount {
        name,
        status: (!silent).then_some(account.status),
        secret: account.secret,
        prefixes: (!account.prefixes.is_empty()).then_some(account.prefixes),
    })
}

fn failure(index: u32, status: &Status) -> pb::ImportFailure {
    // The details of a status of ours are an encoded `google.rpc.Status` of the same content.
    let decoded = prost::Message::decode(status.details());
    let status = decoded.unwrap_or_else(|_| tonic_types::pb::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    });
    pb::ImportFailure {
        index,
        status: Some(status),
    }
}

async fn export(
    running: &Running,
    page: &[Account],
    secrets: bool,
) -> Result<pb::ExportUsersResponse, Status> {
    let mut entries = Vec::with_capacity(page.len());
    for account in page {
        let secret = match account.has_secret && secrets {
            true => stored_secret(running, account.id).await?,
            false => Vec::new(),
        };
        entries.push(pb::UserEntry {
            user: Some(convert::user_message(account)),
            secret,
        });
    }
    Ok(pb::ExportUsersResponse { entries })
}

async fn stored_secret(running: &Running, account: AccountId) -> Result<Vec<u8>, Status> {
    let sealed = running.store.secret(account).await;
    let sealed =
        sealed.map_err(|error| refuse(Code::Unavailable, "UNAVAILABLE", error.to_string()))?;
    let Some(sealed) = sealed else {
        // Deleted or cleared meanwhile.
        return Ok(Vec::new());
    };
    let secret = running.keys.unseal(account, &sealed);
    let secret =
        secret.map_err(|error| refuse(Code::DataLoss, "SECRET_UNREADABLE", error.to_string()))?;
    Ok(secret.expose().to_vec())
}
