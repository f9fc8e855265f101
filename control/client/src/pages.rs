//! Listings, page by page: a table of a million tunnels never stands in memory at once.

use futures::stream::{Stream, TryStreamExt, try_unfold};
use sixferry_proto::dataplane::v1 as api;

use api::route_service_client::RouteServiceClient;
use api::tunnel_service_client::TunnelServiceClient;

use crate::{Client, Error, RouteEntry, RouteOrigin, TunnelEntry};

/// One page of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The objects; may be empty although more pages follow.
    pub items: Vec<T>,
    /// Objects in the whole table, of all owners; `None` where the listing does not tell.
    pub total: Option<u64>,
}

/// Where a listing stands.
#[derive(Clone, Debug)]
enum Cursor {
    At(String),
    End,
}

impl Cursor {
    fn next(token: String) -> Self {
        if token.is_empty() {
            Self::End
        } else {
            Self::At(token)
        }
    }
}

/// The tunnels, page by page.
#[derive(Clone, Debug)]
pub struct TunnelPages {
    client: Client,
    owner: String,
    page_size: u32,
    cursor: Cursor,
    instance: Option<String>,
}

impl TunnelPages {
    pub(crate) fn new(client: Client, owner: String, page_size: u32) -> Self {
        Self {
            client,
            owner,
            page_size,
            cursor: Cursor::At(String::new()),
            instance: None,
        }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Page<TunnelEntry>>, Error> {
        let Cursor::At(token) = &self.cursor else {
            return Ok(None);
        };
        let request = api::ListTunnelsRequest {
            page_size: self.page_size,
            page_token: token.clone(),
            owner: self.owner.clone(),
            read_mask: None,
        };
        let answer = self
            .client
            .call("ListTunnels", request, async |channel, r| {
                TunnelServiceClient::new(channel).list_tunnels(r).await
            })
            .await?;
        same_instance(&mut self.instance, &answer.dataplane_instance_id)?;
        self.cursor = Cursor::next(answer.next_page_token);
        let items = answer.tunnels.into_iter().map(TunnelEntry::try_from);
        Ok(Some(Page {
            items: items.collect::<Result<_, _>>()?,
            total: Some(answer.total_count),
        }))
    }

    /// All of them, one by one.
    pub fn into_stream(self) -> impl Stream<Item = Result<TunnelEntry, Error>> {
        try_unfold(self, async |mut pages| {
            let page = pages.next().await?;
            Ok::<_, Error>(
                page.map(|p| (futures::stream::iter(p.items.into_iter().map(Ok)), pages)),
            )
        })
        .try_flatten()
    }
}

/// The routes, page by page.
#[derive(Clone, Debug)]
pub struct RoutePages {
    client: Client,
    owner: String,
    origin: RouteOrigin,
    page_size: u32,
    cursor: Cursor,
    instance: Option<String>,
}

impl RoutePages {
    pub(crate) fn new(client: Client, owner: String, origin: RouteOrigin, page_size: u32) -> Self {
        Self {
            client,
            owner,
            origin,
            page_size,
            cursor: Cursor::At(String::new()),
            instance: None,
        }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Page<RouteEntry>>, Error> {
        let Cursor::At(token) = &self.cursor else {
            return Ok(None);
        };
        let request = api::ListRoutesRequest {
            page_size: self.page_size,
            page_token: token.clone(),
            owner: self.owner.clone(),
            origin: self.origin.into(),
        };
        let answer = self
            .client
            .call("ListRoutes", request, async |channel, r| {
                RouteServiceClient::new(channel).list_routes(r).await
            })
            .await?;
        same_instance(&mut self.instance, &answer.dataplane_instance_id)?;
        self.cursor = Cursor::next(answer.next_page_token);
        let items = answer.routes.into_iter().map(RouteEntry::try_from);
        Ok(Some(Page {
            items: items.collect::<Result<_, _>>()?,
            total: None,
        }))
    }

    /// All of them, one by one.
    pub fn into_stream(self) -> impl Stream<Item = Result<RouteEntry, Error>> {
        try_unfold(self, async |mut pages| {
            let page = pages.next().await?;
            Ok::<_, Error>(
                page.map(|p| (futures::stream::iter(p.items.into_iter().map(Ok)), pages)),
            )
        })
        .try_flatten()
    }
}

/// Half a listing of one instance and half of the next would be neither's table.
fn same_instance(known: &mut Option<String>, now: &str) -> Result<(), Error> {
    match known {
        Some(before) if before != now => Err(Error::InstanceChanged {
            before: before.clone(),
            now: now.to_owned(),
        }),
        Some(_) => Ok(()),
        None => {
            *known = Some(now.to_owned());
            Ok(())
        }
    }
}
