//! Links, addresses and routes, by rtnetlink.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    Error, Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_route::link::{InfoData, InfoVeth, LinkMessage},
};
use rustix::io::Errno;

use super::{GATEWAY, LINK_PREFIX, Namespace, PREFIX_BITS};

/// The namespace's end of a link, as it is called there.
pub(super) const UPLINK: &str = "uplink";
/// Of a link: two addresses, and the two of a network that nobody can have.
const LINK_BITS: u8 = 30;

/// The nth link between the host and a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    number: u32,
    host: Ipv4Addr,
    inside: Ipv4Addr,
}

impl Link {
    /// `None` beyond the range.
    pub fn nth(links: Ipv4Net, number: u32) -> Option<Self> {
        let network = u32::from(links.network()).checked_add(number.checked_mul(4)?)?;
        let (host, inside) = (Ipv4Addr::from(network | 1), Ipv4Addr::from(network | 2));
        (links.contains(&host) && links.contains(&inside)).then_some(Self { number, host, inside })
    }

    /// What the host's end is called, and the TAP in the namespace: 15 characters at most.
    pub fn name(&self) -> String {
        format!("{LINK_PREFIX}{}", self.number)
    }

    /// Makes it, from the namespace that the host's end is to be in to `inside`. `false` when there is one of this number.
    pub fn make(&self, host: &Namespace, inside: &Namespace) -> io::Result<bool> {
        let name = self.name();
        let made = host.run(|| {
            netlink(async |handle| {
                let peer = LinkUnspec::new_with_name(UPLINK).setns_by_fd(inside.descriptor()).build();
                let pair = LinkVeth::new(&name, UPLINK).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
                match handle.link().add(pair.build()).execute().await {
                    Err(error) if errno(&error) == Some(Errno::EXIST) => return Ok(false),
                    made => made?,
                }
                raise(&handle, &name, self.host, LINK_BITS).await?;
                Ok(true)
            })
        })?;
        if made {
            inside.run(|| {
                netlink(async |handle| {
                    raise(&handle, UPLINK, self.inside, LINK_BITS).await?;
                    let out = RouteMessageBuilder::<Ipv4Addr>::new().gateway(self.host).build();
                    handle.route().add(out).execute().await
                })
            })?;
        }
        Ok(made)
    }

    /// Gives the TAP in the namespace its address.
    pub fn raise_tap(&self, inside: &Namespace) -> io::Result<()> {
        inside.run(|| netlink(async |handle| raise(&handle, &self.name(), GATEWAY, PREFIX_BITS).await))
    }

    /// Removes it at once. The kernel does so anyway when its namespace has gone, only later.
    pub fn remove(&self, host: &Namespace) -> io::Result<()> {
        host.run(|| {
            let index = match if_nametoindex(self.name().as_str()) {
                Ok(index) => index,
                Err(nix::Error::ENODEV) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            netlink(async |handle| match handle.link().del(index).execute().await {
                Err(error) if errno(&error) == Some(Errno::NODEV) => Ok(()),
                removed => removed,
            })
        })
    }
}

async fn raise(handle: &Handle, name: &str, address: Ipv4Addr, bits: u8) -> Result<(), Error> {
    // The kernel has no link of the number 0, and says so.
    let index = if_nametoindex(name).unwrap_or(0);
    handle.address().add(index, IpAddr::V4(address), bits).execute().await?;
    let up: LinkMessage = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await
}

/// Speaks to the kernel of the caller's namespace.
fn netlink<T>(work: impl AsyncFnOnce(Handle) -> Result<T, Error>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection()?;
        let connection = tokio::spawn(connection);
        let done = work(handle).await;
        connection.abort();
        done.map_err(|error| match errno(&error) {
            Some(errno) => errno.into(),
            None => io::Error::other(error.to_string()),
        })
    })
}

fn errno(error: &Error) -> Option<Errno> {
    match error {
        Error::NetlinkError(message) => Errno::from_io_error(&message.to_io()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_addresses_of_their_own_and_names_that_the_kernel_takes() {
        let links: Ipv4Net = "198.18.0.0/29".parse().unwrap();
        let link =
            |number| Link::nth(links, number).map(|link| (link.host.to_string(), link.inside.to_string()));
        assert_eq!(link(0), Some(("198.18.0.1".to_owned(), "198.18.0.2".to_owned())));
        assert_eq!(link(1), Some(("198.18.0.5".to_owned(), "198.18.0.6".to_owned())));
        assert_eq!(link(2), None);
        assert_eq!(link(u32::MAX), None);
        let all = Link { number: u32::MAX, host: GATEWAY, inside: GATEWAY };
        assert!(all.name().len() <= 15);
    }
}
