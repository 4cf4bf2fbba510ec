//! The network card of a machine, set up by rtnetlink (rtnetlink(7)). Four messages do not need a library.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd},
};

use hearth_schemas::guest::messages::Network;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};

const INTERFACES: &str = "/sys/class/net";
const LOOPBACK: &str = "lo";
/// `AF_INET`, `RT_TABLE_MAIN`, `RTPROT_STATIC` and `RTN_UNICAST`, as bytes of messages.
const INET: u8 = libc::AF_INET as u8;
const MAIN: u8 = libc::RT_TABLE_MAIN;
const STATIC: u8 = libc::RTPROT_STATIC;
const UNICAST: u8 = libc::RTN_UNICAST;
/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// The number of this machine's card, if it has one.
pub(crate) fn find() -> io::Result<Option<u32>> {
    for entry in fs::read_dir(INTERFACES)? {
        let entry = entry?;
        if entry.file_name() != LOOPBACK {
            let index = fs::read_to_string(entry.path().join("ifindex"))?;
            return index.trim().parse().map(Some).map_err(io::Error::other);
        }
    }
    Ok(None)
}

/// Moves a card to another namespace, where it keeps its number.
pub(super) fn give(card: u32, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut body = link(card, 0);
    attribute(&mut body, libc::IFLA_NET_NS_FD, to.as_raw_fd().to_ne_bytes());
    ask(libc::RTM_NEWLINK, 0, &body)
}

/// Gives a card of the caller's namespace its address, raises it, and makes it the way to everywhere.
pub(super) fn set_up(card: u32, network: &Network) -> io::Result<()> {
    let new = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let own = network.address.to_be_bytes();
    let bits = u8::try_from(network.prefix_bits).map_err(io::Error::other)?;
    let mut address = vec![INET, bits, 0, 0];
    address.extend(card.to_ne_bytes());
    attribute(&mut address, libc::IFA_LOCAL, own);
    attribute(&mut address, libc::IFA_ADDRESS, own);
    ask(libc::RTM_NEWADDR, new, &address)?;
    ask(libc::RTM_NEWLINK, 0, &link(card, libc::IFF_UP as u32))?;
    let mut route = vec![INET, 0, 0, 0, MAIN, STATIC, 0, UNICAST, 0, 0, 0, 0];
    attribute(&mut route, libc::RTA_GATEWAY, network.gateway.to_be_bytes());
    ask(libc::RTM_NEWROUTE, new, &route)
}

/// `struct ifinfomsg`: these flags are set, and no other is changed.
fn link(card: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for number in [card, flags, flags] {
        body.extend(number.to_ne_bytes());
    }
    body
}

/// `struct rtattr` of four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend(8_u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

/// Sends one request to the kernel and reads whether it was done.
fn ask(kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
    // Its first protocol, NETLINK_ROUTE, has the number 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &request(kind, flags, body)?, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    done(answer.get(..length).unwrap_or_default())
}

fn request(kind: u16, flags: i32, body: &[u8]) -> io::Result<Vec<u8>> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).map_err(io::Error::other)?;
    let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    Ok(message)
}

/// An answer is an error message; its number is 0 when all went well.
fn done(answer: &[u8]) -> io::Result<()> {
    let field = |at: usize| answer.get(at..at.saturating_add(4)).and_then(|bytes| bytes.try_into().ok());
    match field(HEADER_BYTES).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(negative) => Err(Errno::from_raw_os_error(negative.saturating_neg()).into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_whether_it_was_done() {
        // There is no card of this number, and the kernel says so.
        let error = ask(libc::RTM_NEWLINK, 0, &link(0x7fff_fff0, 0)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
        assert_eq!(done(&[]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(done(&[0; 20]).is_ok());
    }
}
