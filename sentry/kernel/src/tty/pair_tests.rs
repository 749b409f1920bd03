//! Both ends of a pseudo-terminal, and the console above one of the host.

use super::console::{ConsoleTty, open_file};
use super::*;
use crate::kernel::Machine;
use crate::reactor::Reactor;
use crate::testing::FakePlatform;
use chitin_abi::Errno;
use chitin_mm::{SliceSource, VecSink};
use chitin_vfs::{FileOps, WriteAt};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

fn kernel() -> Arc<Kernel> {
    let machine = Machine { cpus: 1, memory_bytes: 1 << 30 };
    Kernel::new(Arc::new(FakePlatform::default()), Reactor::start().unwrap(), machine)
}

fn read(ops: &Arc<dyn FileOps>, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut sink = VecSink { data: Vec::new(), limit };
    ops.read(0, &mut sink)?;
    Ok(sink.data)
}

fn write(ops: &Arc<dyn FileOps>, data: &[u8]) -> Result<usize, Errno> {
    ops.write(WriteAt::End, &mut SliceSource::new(data)).map(|written| written.count)
}

fn pair(kernel: &Arc<Kernel>) -> (Arc<Tty>, Arc<dyn FileOps>, Arc<dyn FileOps>) {
    let tty = Tty::new_pty(kernel, 3, Box::new(|_| {}));
    let master = tty.open_master(0);
    assert_eq!(tty.open_slave(0, true).err(), Some(Errno::EIO), "locked");
    tty.state.lock().locked = false;
    let slave = tty.open_slave(0, false).unwrap();
    (tty, master, slave)
}

#[test]
fn lines_pass() {
    let kernel = kernel();
    let (_tty, master, slave) = pair(&kernel);
    assert_eq!((read(&master, 9), read(&slave, 9)), (Err(Errno::EAGAIN), Err(Errno::EAGAIN)));
    assert_eq!(write(&master, b"hi\r"), Ok(3));
    assert_eq!(read(&master, 9).unwrap(), b"hi\r\n");
    assert_eq!(slave.poll(None) & POLLIN, POLLIN);
    assert_eq!(slave.readable_bytes(), Ok(3));
    assert_eq!(read(&slave, 9).unwrap(), b"hi\n");
    assert_eq!(write(&slave, b"a\nb"), Ok(3));
    assert_eq!(read(&master, 2).unwrap(), b"a\r");
    assert_eq!(read(&master, 9).unwrap(), b"\nb");
    // Nobody reads: bounded on both sides.
    let mut total = 0;
    while let Ok(count) = write(&slave, &[b'x'; 5000]) {
        total += count;
    }
    assert_eq!((total, slave.poll(None) & POLLOUT), (SHOWN_LIMIT, 0));
    assert_eq!(read(&master, 100).unwrap().len(), 100);
    assert_eq!(slave.poll(None) & POLLOUT, POLLOUT);
    let mut total = 0;
    while let Ok(count) = write(&master, b"line\n") {
        total += count;
    }
    assert!((TYPED_LIMIT + 4000..TYPED_LIMIT + 4100).contains(&total), "{total}");
    assert_eq!(master.poll(None) & POLLOUT, 0);
    while read(&slave, 100).is_ok() {}
    assert_eq!(master.poll(None) & POLLOUT, POLLOUT);
}

#[test]
fn ends_of_a_pair() {
    let kernel = kernel();
    let released = Arc::new(AtomicU32::new(0));
    let count = released.clone();
    let tty = Tty::new_pty(
        &kernel,
        7,
        Box::new(move |index| {
            count.fetch_add(index, Ordering::SeqCst);
        }),
    );
    let master = tty.open_master(0);
    tty.state.lock().locked = false;
    // No slave yet: waiting makes sense.
    assert_eq!((read(&master, 1), master.poll(None) & POLLHUP), (Err(Errno::EAGAIN), 0));
    let slave = tty.open_slave(0, false).unwrap();
    write(&slave, b"last").unwrap();
    drop(slave);
    assert_eq!(master.poll(None) & POLLHUP, POLLHUP);
    assert_eq!(read(&master, 9).unwrap(), b"last");
    assert_eq!(read(&master, 9), Err(Errno::EIO));
    let slave = tty.open_slave(0, false).unwrap();
    assert_eq!((read(&master, 1), master.poll(None) & POLLHUP), (Err(Errno::EAGAIN), 0));
    drop(master);
    assert_eq!(released.load(Ordering::SeqCst), 7);
    assert_eq!((read(&slave, 9), write(&slave, b"x")), (Ok(Vec::new()), Err(Errno::EIO)));
    assert_eq!(slave.poll(None), POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | POLLWRNORM);
    assert_eq!(tty.open_slave(0, true).err(), Some(Errno::EIO));
}

#[test]
fn packet_mode() {
    let kernel = kernel();
    let (tty, master, slave) = pair(&kernel);
    tty.state.lock().packet = true;
    write(&slave, b"out").unwrap();
    assert_eq!(read(&master, 9).unwrap(), b"\0out");
    write(&master, b"\x13").unwrap();
    assert_eq!(master.poll(None) & POLLPRI, POLLPRI);
    assert_eq!(read(&master, 9).unwrap(), [TIOCPKT_STOP]);
    assert_eq!(write(&slave, b"held"), Err(Errno::EAGAIN));
    write(&master, b"\x11\x03").unwrap();
    assert_eq!(read(&master, 9).unwrap(), [TIOCPKT_START | TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE]);
    assert_eq!(read(&master, 9).unwrap(), b"\0^C");
    let mut raw = tty.termios();
    raw.c_iflag &= !IXON;
    tty.set_termios(raw, None, false);
    assert_eq!(read(&master, 9).unwrap(), [TIOCPKT_NOSTOP]);
}

#[test]
fn min_and_time() {
    let kernel = kernel();
    let (tty, master, slave) = pair(&kernel);
    let set = |min, time| {
        let mut raw = tty.termios();
        raw.c_lflag &= !(ICANON | ECHO);
        (raw.c_cc[VMIN], raw.c_cc[VTIME]) = (min, time);
        tty.set_termios(raw, None, false);
    };
    let until = |limit: usize| {
        let start = Instant::now();
        loop {
            match read(&slave, limit) {
                Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(1)),
                other => return (other.unwrap(), start.elapsed()),
            }
            assert!(start.elapsed() < Duration::from_secs(5));
        }
    };
    set(0, 0);
    assert_eq!(read(&slave, 9).unwrap(), b"");
    set(3, 0);
    write(&master, b"ab").unwrap();
    assert_eq!((read(&slave, 9), slave.poll(None) & POLLIN), (Err(Errno::EAGAIN), 0));
    assert_eq!(read(&slave, 2).unwrap(), b"ab");
    write(&master, b"abcd").unwrap();
    assert_eq!(read(&slave, 9).unwrap(), b"abcd");
    // Without waiting there is no minimum.
    write(&master, b"z").unwrap();
    slave.flags_changed(chitin_abi::fcntl::O_NONBLOCK).unwrap();
    assert_eq!(read(&slave, 9).unwrap(), b"z");
    slave.flags_changed(0).unwrap();
    set(0, 1);
    let (data, took) = until(9);
    assert!(data.is_empty() && took >= Duration::from_millis(99), "{took:?}");
    set(5, 1);
    write(&master, b"q").unwrap();
    let (data, took) = until(9);
    assert!(data == b"q" && took >= Duration::from_millis(90), "{took:?}");
}

#[test]
fn console() {
    let kernel = kernel();
    let host = nix::pty::openpty(None, None).unwrap();
    chitin_host::stdio::set_winsize(host.master.as_fd(), [24, 80, 0, 0]).unwrap();
    let tty = ConsoleTty::start(&kernel, Arc::new(host.slave)).unwrap();
    assert_eq!((tty.winsize().ws_row, tty.winsize().ws_col), (24, 80));
    let file = open_file(&tty).unwrap();
    chitin_host::stdio::set_nonblocking(host.master.as_fd()).unwrap();
    nix::unistd::write(&host.master, b"ls\r\x04").unwrap();
    let start = Instant::now();
    let line = loop {
        match read(file.ops(), 9) {
            Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(1)),
            other => break other.unwrap(),
        }
        assert!(start.elapsed() < Duration::from_secs(5));
    };
    assert_eq!(line, b"ls\n");
    assert_eq!(read(file.ops(), 9).unwrap(), b"", "^D");
    assert_eq!(file.write(&mut SliceSource::new(b"a\nb")), Ok(3));
    let mut shown = Vec::new();
    while shown.len() < 8 {
        let mut buf = [0; 64];
        match nix::unistd::read(&host.master, &mut buf) {
            Ok(count) => shown.extend_from_slice(&buf[..count]),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{shown:?}");
    }
    assert_eq!(shown, b"ls\r\na\r\nb");
    // Everything a program may show arrives, however slowly it is taken.
    let text = vec![b'x'; 300_000];
    let (mut written, mut got) = (0, 0);
    while got < text.len() {
        match file.write(&mut SliceSource::new(&text[written..])) {
            Ok(count) => written += count,
            Err(error) => assert_eq!(error, Errno::EAGAIN),
        }
        let mut buf = [0; 4096];
        got += nix::unistd::read(&host.master, &mut buf).unwrap_or(0);
        assert!(start.elapsed() < Duration::from_secs(20), "{written} {got}");
    }
    drop(host.master);
    while read(file.ops(), 9) != Ok(Vec::new()) {
        std::thread::sleep(Duration::from_millis(1));
        assert!(start.elapsed() < Duration::from_secs(20), "no hang-up");
    }
    assert_eq!(file.write(&mut SliceSource::new(b"x")), Err(Errno::EIO));
}
