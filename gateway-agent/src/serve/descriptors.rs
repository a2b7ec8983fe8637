//! Open sockets on their way from one process to another (`SCM_RIGHTS`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::{io::Interest, net::UnixStream};

/// Sockets in one message; the kernel allows 253.
const BATCH: usize = 32;

const SPACE: usize = rustix::cmsg_space!(ScmRights(BATCH));

/// The byte that each message needs besides.
const MARK: u8 = b'+';

/// Sends copies of `sockets`.
pub(super) async fn send(to: &UnixStream, sockets: &[&TcpListener]) -> io::Result<()> {
    for batch in sockets.chunks(BATCH) {
        let batch: Vec<BorrowedFd<'_>> = batch.iter().map(|socket| socket.as_fd()).collect();
        to.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); SPACE];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&batch));
            let mark = [IoSlice::new(&[MARK])];
            Ok(rustix::net::sendmsg(
                to,
                &mark,
                &mut control,
                SendFlags::empty(),
            )?)
        })
        .await?;
    }
    Ok(())
}

/// Receives `count` sockets, in the order they were sent in.
pub(super) async fn receive(from: &UnixStream, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let batch = from.async_io(Interest::READABLE, || receive_batch(from));
        let batch = batch.await?;
        if batch.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sockets.extend(batch.into_iter().map(TcpListener::from));
    }
    Ok(sockets)
}

fn receive_batch(from: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // One byte at most, so that nothing of what follows is read.
    let mut mark = [0];
    let mut into = [IoSliceMut::new(&mut mark)];
    rustix::net::recvmsg(from, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok(sockets.flatten().collect())
}
