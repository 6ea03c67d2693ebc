//! The stream sockets of the link: made, bound and prepared. What goes over them is their callers' business.

use super::retry::LinkPath;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// DSCP CS6, network control, as the type-of-service byte; heartbeats have it too.
const CLASS: u32 = 0xc0;
/// Connections that the kernel holds for a listener.
const BACKLOG: u32 = 64;

fn socket(local: IpAddr, port: u16) -> io::Result<TcpSocket> {
    let socket = if local.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A class is a wish: a kernel that refuses it is no reason to stay silent.
    let _ = if local.is_ipv4() { socket.set_tos_v4(CLASS) } else { socket.set_tclass_v6(CLASS) };
    // Connections that ended linger for minutes and must not keep a restarted controller from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(local, port))?;
    Ok(socket)
}

/// Listens on one address.
///
/// # Errors
/// If the address is not there, or the port is taken.
pub fn listen(local: IpAddr, port: u16) -> io::Result<TcpListener> {
    socket(local, port)?.listen(BACKLOG)
}

/// Calls a peer over one path.
///
/// # Errors
/// As connect(2).
pub async fn connect(path: LinkPath, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let stream = socket(path.local, 0)?.connect(SocketAddr::new(path.peer, port)).await?;
    prepare(&stream, limit)?;
    Ok(stream)
}

/// Prepares a connection: small messages leave at once, and the kernel gives it up when what was sent stays without
/// acknowledgement for `limit`.
///
/// # Errors
/// As setsockopt(2).
pub fn prepare(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1);
    setsockopt(&stream.as_fd(), sockopt::TcpUserTimeout, &limit_ms)?;
    Ok(())
}

/// Closes a connection by a reset: nothing of it lingers here, however many strangers call.
pub fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // If it is refused, the connection lingers like any other.
    let _ = setsockopt(&stream.as_fd(), sockopt::Linger, &linger);
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;

    #[test]
    fn connections_are_prompt_and_end_when_nothing_is_acknowledged() {
        let local: IpAddr = [127, 30, (std::process::id() % 250) as u8 + 1, 1].into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen(local, 0).unwrap();
            let port = listener.local_addr().unwrap().port();
            let path = LinkPath { local, peer: local, role_rank: 0, is_up: true, network: 1 };
            let stream = connect(path, port, Duration::from_millis(1234)).await.unwrap();
            assert_eq!(stream.local_addr().unwrap().ip(), local);
            assert_eq!(getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(), 1234);
            assert!(getsockopt(&stream, sockopt::TcpNoDelay).unwrap());
            // A second listener on the address is refused, reusable as it is.
            assert!(listen(local, port).is_err());
        });
    }
}
