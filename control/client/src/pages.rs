//! Listings, page by page: a table of a million tunnels never stands in memory at once.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{Stream, TryStreamExt, try_unfold};
use sixferry_proto::dataplane::v1 as api;

use api::domain_service_client::DomainServiceClient;
use api::neighbour_service_client::NeighbourServiceClient;
use api::route_service_client::RouteServiceClient;
use api::tunnel_service_client::TunnelServiceClient;

use crate::{Client, DomainEntry, Error, Neighbour, RouteEntry, RouteOrigin, TunnelEntry};

/// One page of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The objects; may be empty although more pages follow.
    pub items: Vec<T>,
    /// Objects in the whole table, of all owners; `None` where the listing does not tell.
    pub total: Option<u64>,
}

/// The answer to one List call.
struct Answer<T> {
    instance: String,
    next: String,
    page: Page<T>,
}

type Fetch<T> = dyn Fn(String) -> BoxFuture<'static, Result<Answer<T>, Error>> + Send + Sync;

/// Where a listing stands.
#[derive(Clone, Debug)]
enum Cursor {
    At(String),
    End,
}

/// A listing, page by page.
#[derive(Clone)]
pub struct Pages<T> {
    fetch: Arc<Fetch<T>>,
    cursor: Cursor,
    instance: Option<String>,
}

/// The tunnels, page by page.
pub type TunnelPages = Pages<TunnelEntry>;
/// The routes, page by page.
pub type RoutePages = Pages<RouteEntry>;
/// The domains, page by page.
pub type DomainPages = Pages<DomainEntry>;
/// The neighbours, page by page.
pub type NeighbourPages = Pages<Neighbour>;

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("cursor", &self.cursor)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl<T> Pages<T> {
    fn new<F, Fut>(fetch: F) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer<T>, Error>> + Send + 'static,
    {
        Self {
            fetch: Arc::new(move |token| Box::pin(fetch(token))),
            cursor: Cursor::At(String::new()),
            instance: None,
        }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Page<T>>, Error> {
        let Cursor::At(token) = &self.cursor else {
            return Ok(None);
        };
        let answer = (self.fetch)(token.clone()).await?;
        same_instance(&mut self.instance, &answer.instance)?;
        self.cursor = if answer.next.is_empty() {
            Cursor::End
        } else {
            Cursor::At(answer.next)
        };
        Ok(Some(answer.page))
    }

    /// All of them, one by one.
    pub fn into_stream(self) -> impl Stream<Item = Result<T, Error>> {
        try_unfold(self, async |mut pages| {
            let page = pages.next().await?;
            Ok::<_, Error>(
                page.map(|p| (futures::stream::iter(p.items.into_iter().map(Ok)), pages)),
            )
        })
        .try_flatten()
    }
}

fn typed<P, T: TryFrom<P, Error = Error>>(messages: Vec<P>) -> Result<Vec<T>, Error> {
    messages.into_iter().map(T::try_from).collect()
}

impl Client {
    /// The tunnels of an owner, or all, page by page.
    pub fn tunnels(&self, owner: Option<&str>, page_size: u32) -> TunnelPages {
        let (client, owner) = (self.clone(), owner.unwrap_or_default().to_owned());
        Pages::new(move |page_token| {
            let request = api::ListTunnelsRequest {
                page_size,
                page_token,
                owner: owner.clone(),
                read_mask: None,
            };
            let client = client.clone();
            async move {
                let send =
                    async |channel, r| TunnelServiceClient::new(channel).list_tunnels(r).await;
                let answer = client.call("ListTunnels", request, send).await?;
                Ok(Answer {
                    instance: answer.dataplane_instance_id,
                    next: answer.next_page_token,
                    page: Page {
                        items: typed(answer.tunnels)?,
                        total: Some(answer.total_count),
                    },
                })
            }
        })
    }

    /// The routes of an owner or an origin, or all, page by page.
    pub fn routes(
        &self,
        owner: Option<&str>,
        origin: Option<RouteOrigin>,
        page_size: u32,
    ) -> RoutePages {
        let (client, owner) = (self.clone(), owner.unwrap_or_default().to_owned());
        let origin = origin.unwrap_or(RouteOrigin::Unspecified);
        Pages::new(move |page_token| {
            let request = api::ListRoutesRequest {
                page_size,
                page_token,
                owner: owner.clone(),
                origin: origin.into(),
            };
            let client = client.clone();
            async move {
                let send = async |channel, r| RouteServiceClient::new(channel).list_routes(r).await;
                let answer = client.call("ListRoutes", request, send).await?;
                Ok(Answer {
                    instance: answer.dataplane_instance_id,
                    next: answer.next_page_token,
                    page: Page {
                        items: typed(answer.routes)?,
                        total: None,
                    },
                })
            }
        })
    }

    /// The domains of an owner, or all, page by page.
    pub fn domains(&self, owner: Option<&str>, page_size: u32) -> DomainPages {
        let (client, owner) = (self.clone(), owner.unwrap_or_default().to_owned());
        Pages::new(move |page_token| {
            let request = api::ListDomainsRequest {
                page_size,
                page_token,
                owner: owner.clone(),
                read_mask: None,
            };
            let client = client.clone();
            async move {
                let send =
                    async |channel, r| DomainServiceClient::new(channel).list_domains(r).await;
                let answer = client.call("ListDomains", request, send).await?;
                Ok(Answer {
                    instance: answer.dataplane_instance_id,
                    next: answer.next_page_token,
                    page: Page {
                        items: typed(answer.domains)?,
                        total: Some(answer.total_count),
                    },
                })
            }
        })
    }

    /// The neighbours on a port, or on all, page by page.
    pub fn neighbours(&self, port: Option<&str>, page_size: u32) -> NeighbourPages {
        let (client, port) = (self.clone(), port.unwrap_or_default().to_owned());
        Pages::new(move |page_token| {
            let request = api::ListNeighboursRequest {
                page_size,
                page_token,
                port: port.clone(),
            };
            let client = client.clone();
            async move {
                let send = async |channel, r| {
                    NeighbourServiceClient::new(channel)
                        .list_neighbours(r)
                        .await
                };
                let answer = client.call("ListNeighbours", request, send).await?;
                Ok(Answer {
                    instance: answer.dataplane_instance_id,
                    next: answer.next_page_token,
                    page: Page {
                        items: typed(answer.neighbours)?,
                        total: None,
                    },
                })
            }
        })
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
