//! Host pipes, files, sockets and terminals as a guest sees them.

use super::*;
use chitin_mm::{SliceSource, VecSink};
use std::io::{Read, Seek, Write};

fn reactor() -> Arc<Reactor> {
    Reactor::start().unwrap()
}

fn open(fd: impl Into<OwnedFd>) -> (Arc<Reactor>, Arc<File>) {
    let reactor = reactor();
    let file = HostFile::open(&reactor, Arc::new(fd.into())).unwrap();
    (reactor, file)
}

fn read(file: &File, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut sink = VecSink { data: Vec::new(), limit };
    file.read(&mut sink)?;
    Ok(sink.data)
}

fn write(file: &File, data: &[u8]) -> Result<usize, Errno> {
    file.write(&mut SliceSource::new(data))
}

/// A file without a name.
fn temporary() -> std::fs::File {
    filestore::memfd(c"test").unwrap().into()
}

#[test]
fn pipes() {
    let (read_end, write_end) = std::io::pipe().unwrap();
    let (_r1, reader) = open(read_end);
    let (_r2, writer) = open(write_end);
    assert_eq!(read(&reader, 10), Err(Errno::EAGAIN));
    assert_eq!(reader.ops().poll(None), 0);
    assert_eq!(writer.ops().poll(None), POLLOUT | POLLWRNORM);
    assert_eq!(write(&writer, b"hello"), Ok(5));
    assert_eq!(reader.ops().poll(None), POLLIN | POLLRDNORM);
    assert_eq!(reader.ops().readable_bytes(), Ok(5));
    assert_eq!(read(&reader, 3).unwrap(), b"hel");
    assert_eq!(read(&reader, 9).unwrap(), b"lo");
    assert_eq!((write(&reader, b"x"), read(&writer, 1)), (Err(Errno::EBADF), Err(Errno::EBADF)));
    let mut total = 0;
    loop {
        match write(&writer, &[1; 100_000]) {
            Ok(count) => total += count,
            Err(error) => break assert_eq!(error, Errno::EAGAIN),
        }
    }
    assert_eq!((total, writer.ops().poll(None)), (65536, 0));
    let attr = reader.inode().attr().unwrap();
    assert_eq!((attr.kind, attr.size), (FileKind::Fifo, 0));
    assert!(reader.anon_text().starts_with(b"pipe:["));
    assert!(reader.read_at(0, &mut VecSink { data: vec![], limit: 1 }).is_err());
    // /dev/stdin of the guest: the same pipe, and not the other way.
    let again = reader.inode().clone().open(O_RDONLY).unwrap();
    let mut sink = VecSink { data: Vec::new(), limit: 2 };
    assert_eq!(again.read(0, &mut sink), Ok(2));
    assert_eq!(reader.inode().clone().open(O_WRONLY).err(), Some(Errno::EACCES));
    drop((reader, again, _r1));
    // With the last of them the host's descriptor goes.
    assert_ne!(writer.ops().poll(None) & POLLERR, 0);
}

#[test]
fn broken_pipe_and_end() {
    let (read_end, write_end) = std::io::pipe().unwrap();
    let (_r, writer) = open(write_end);
    drop(read_end);
    assert_eq!(write(&writer, b"x"), Err(Errno::EPIPE));
    assert_ne!(writer.ops().poll(None) & POLLERR, 0);
    let (read_end, write_end) = std::io::pipe().unwrap();
    let (_r, reader) = open(read_end);
    drop(write_end);
    assert_eq!(read(&reader, 5).unwrap(), b"");
    assert_ne!(reader.ops().poll(None) & POLLHUP, 0);
}

#[test]
fn waiters_wake() {
    let (read_end, mut write_end) = std::io::pipe().unwrap();
    let (_r, reader) = open(read_end);
    struct Tell(std::sync::mpsc::Sender<u32>);
    impl chitin_vfs::wait::Notify for Tell {
        fn notify(&self, events: u32) {
            let _ = self.0.send(events);
        }
    }
    let (send, receive) = std::sync::mpsc::channel();
    let mut table = PollTable::new(Arc::new(Tell(send)));
    assert_eq!(reader.ops().poll(Some(&mut table)), 0);
    let _held = table.into_registrations();
    write_end.write_all(b"x").unwrap();
    loop {
        if receive.recv_timeout(std::time::Duration::from_secs(5)).unwrap() & POLLIN != 0 {
            break;
        }
    }
    assert_eq!(read(&reader, 5).unwrap(), b"x");
}

#[test]
fn files_share_their_offset() {
    let mut outside = temporary();
    outside.write_all(b"0123456789").unwrap();
    outside.rewind().unwrap();
    let (_r, file) = open(outside.try_clone().unwrap());
    assert!(!file.ops().pollable());
    assert_eq!(read(&file, 3).unwrap(), b"012");
    assert_eq!(outside.stream_position().unwrap(), 3);
    let mut byte = [0];
    outside.read_exact(&mut byte).unwrap();
    assert_eq!((byte, read(&file, 2).unwrap().as_slice()), (*b"3", b"45".as_slice()));
    // Positional calls leave it alone.
    let mut sink = VecSink { data: Vec::new(), limit: 2 };
    assert_eq!(file.read_at(0, &mut sink), Ok(2));
    assert_eq!(file.write_at(9, &mut SliceSource::new(b"N")), Ok(1));
    assert_eq!(outside.stream_position().unwrap(), 6);
    *file.position() = 8;
    assert_eq!(outside.stream_position().unwrap(), 8);
    assert_eq!(write(&file, b"abcd"), Ok(4));
    outside.write_all(b"!").unwrap();
    assert_eq!(write(&file, b"e"), Ok(1));
    outside.rewind().unwrap();
    let mut text = String::new();
    outside.read_to_string(&mut text).unwrap();
    assert_eq!(text, "01234567abcd!e");
    assert_eq!(file.inode().attr().unwrap().size, 14);
    // A description of its own after a reopening.
    let again = File::new(file.inode().clone().open(O_RDWR).unwrap(), file.inode().clone(), None, O_RDWR);
    assert_eq!(read(&again, 2).unwrap(), b"01");
    assert_eq!(*again.position(), 2);
    assert_eq!(*file.position(), 14);
}

#[test]
fn appending() {
    let outside = temporary();
    stdio::set_offset(outside.as_fd(), 0).unwrap();
    nix_append(&outside);
    let (_r, file) = open(outside.try_clone().unwrap());
    assert_ne!(file.flags() & O_APPEND, 0);
    assert_eq!(write(&file, b"abc"), Ok(3));
    *file.position() = 0;
    assert_eq!(write(&file, b"def"), Ok(3));
    assert_eq!(*file.position(), 6);
    let mut text = [0; 6];
    assert_eq!(filestore::pread(outside.as_fd(), &mut text, 0).unwrap(), 6);
    assert_eq!(&text, b"abcdef");
}

/// The test's own file description gets O_APPEND.
fn nix_append(file: &std::fs::File) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_APPEND)).unwrap();
}

#[test]
fn devices_sockets_and_terminals() {
    let (_r, null) = open(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap());
    assert_eq!(write(&null, &[0; 100_000]), Ok(BOUNCE));
    assert_eq!(read(&null, 5).unwrap(), b"");
    assert_eq!(null.inode().attr().unwrap().rdev, makedev(1, 3));
    let (a, mut b) = std::os::unix::net::UnixStream::pair().unwrap();
    let (_r, socket) = open(a);
    assert_eq!(read(&socket, 5), Err(Errno::EAGAIN));
    assert_eq!(write(&socket, b"ping"), Ok(4));
    let mut bytes = [0; 4];
    b.read_exact(&mut bytes).unwrap();
    b.write_all(b"pong").unwrap();
    assert_eq!((&bytes, read(&socket, 9).unwrap().as_slice()), (b"ping", b"pong".as_slice()));
    assert_eq!(socket.inode().clone().open(O_RDWR).err(), Some(Errno::ENXIO));
    drop(b);
    assert_eq!(read(&socket, 9).unwrap(), b"");
    assert_eq!(write(&socket, b"x"), Err(Errno::EPIPE));
    let pair = nix::pty::openpty(None, None).unwrap();
    let (_r, terminal) = open(pair.slave);
    assert_eq!(write(&terminal, b"a\n"), Ok(2));
    let mut bytes = [0; 3];
    std::fs::File::from(pair.master).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"a\r\n");
}
