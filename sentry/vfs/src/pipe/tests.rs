use super::*;
use crate::testing::Run;
use crate::wait;
use chitin_mm::{SliceSource, VecSink};

fn put(file: &Arc<File>, data: &[u8]) -> Result<usize, Errno> {
    file.write(&mut SliceSource::new(data))
}

fn get(file: &Arc<File>, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut sink = VecSink { data: Vec::new(), limit };
    let count = file.read(&mut sink)?;
    assert_eq!(count, sink.data.len());
    Ok(sink.data)
}

fn pattern(len: usize, from: usize) -> Vec<u8> {
    (from..from + len).map(|n| (n % 251) as u8).collect()
}

/// Faults after some bytes.
struct Faulty {
    left: usize,
    good: usize,
}

impl Source for Faulty {
    fn left(&self) -> usize {
        self.left
    }
    fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        let count = buf.len().min(self.good);
        if count == 0 && !buf.is_empty() {
            return Err(Errno::EFAULT);
        }
        buf[..count].fill(1);
        self.good -= count;
        self.left -= count;
        Ok(count)
    }
    fn untake(&mut self, count: usize) {
        self.good += count;
        self.left += count;
    }
}

impl Sink for Faulty {
    fn room(&self) -> usize {
        self.left
    }
    fn put(&mut self, data: &[u8]) -> Result<usize, Errno> {
        let count = data.len().min(self.good);
        if count == 0 {
            return Err(Errno::EFAULT);
        }
        self.good -= count;
        self.left -= count;
        Ok(count)
    }
}

#[test]
fn bytes_come_out_as_they_went_in() {
    let (read, write) = Pipe::pair(0).unwrap();
    let (mut written, mut seen) = (0, 0);
    for (w, r) in [(1, 1), (5000, 100), (60000, 70000), (3, 1), (65536, 4095), (10, 80000), (4096, 4096)] {
        written += match put(&write, &pattern(w, written)) {
            Ok(count) => count,
            Err(error) => {
                assert_eq!(error, Errno::EAGAIN);
                0
            }
        };
        assert_eq!(read.ops().readable_bytes(), Ok((written - seen) as u64));
        let data = get(&read, r).unwrap();
        assert_eq!(data.len(), r.min(written - seen));
        assert_eq!(data, pattern(data.len(), seen));
        seen += data.len();
    }
    assert!(written > 70000);
}

#[test]
fn full_at_64_kib_and_room_comes_by_pages() {
    let (read, write) = Pipe::pair(0).unwrap();
    assert_eq!(put(&write, &vec![1; 70000]), Ok(65536));
    assert_eq!(put(&write, b"x"), Err(Errno::EAGAIN));
    assert_eq!(write.ops().poll(None), 0);
    assert_eq!(get(&read, 4095).unwrap().len(), 4095);
    assert_eq!(put(&write, b"x"), Err(Errno::EAGAIN));
    assert_eq!(get(&read, 1).unwrap().len(), 1);
    assert_eq!(write.ops().poll(None), POLLOUT | POLLWRNORM);
    assert_eq!(put(&write, &[2; 4096]), Ok(4096));
    assert_eq!(put(&write, &[2; 4096]), Err(Errno::EAGAIN));
}

#[test]
fn single_bytes_fill_the_whole_pipe() {
    let (_read, write) = Pipe::pair(0).unwrap();
    let mut count = 0;
    while put(&write, b"a").is_ok() {
        count += 1;
    }
    assert_eq!(count, 65536);
}

#[test]
fn small_writes_are_atomic() {
    let (read, write) = Pipe::pair(0).unwrap();
    // Chunks of 3000 bytes do not share pages, as on Linux.
    let mut count = 0;
    while put(&write, &[1; 3000]) == Ok(3000) {
        count += 1;
    }
    assert_eq!(count, 16);
    assert_eq!(put(&write, &[1; 1096]), Ok(1096));
    assert_eq!(put(&write, &[1; 1]), Err(Errno::EAGAIN));
    assert_eq!(get(&read, 1 << 20).unwrap().len(), 16 * 3000 + 1096);
}

#[test]
fn ends_and_broken_pipes() {
    let (read, write) = Pipe::pair(0).unwrap();
    assert_eq!(get(&read, 1), Err(Errno::EAGAIN));
    assert_eq!(get(&read, 0), Ok(vec![]));
    put(&write, b"last").unwrap();
    assert_eq!(read.ops().poll(None), POLLIN | POLLRDNORM);
    drop(write);
    assert_eq!(read.ops().poll(None), POLLIN | POLLRDNORM | POLLHUP);
    assert_eq!(get(&read, 10), Ok(b"last".to_vec()));
    assert_eq!(get(&read, 10), Ok(vec![]));
    assert_eq!(read.ops().poll(None), POLLHUP);

    let (read, write) = Pipe::pair(0).unwrap();
    drop(read);
    assert_eq!(write.ops().poll(None), POLLOUT | POLLWRNORM | POLLERR);
    assert_eq!(put(&write, b"x"), Err(Errno::EPIPE));
    assert_eq!(put(&write, b""), Ok(0));
    assert_eq!(get(&write, 1), Err(Errno::EBADF));
}

#[test]
fn packets() {
    let (read, write) = Pipe::pair(O_DIRECT).unwrap();
    put(&write, b"one").unwrap();
    put(&write, b"second").unwrap();
    put(&write, &[7; 5000]).unwrap();
    assert_eq!(get(&read, 100), Ok(b"one".to_vec()));
    assert_eq!(get(&read, 3), Ok(b"sec".to_vec()));
    assert_eq!(get(&read, 9000).unwrap().len(), 4096);
    assert_eq!(get(&read, 9000).unwrap().len(), 904);
    assert_eq!(read.ops().readable_bytes(), Ok(0));
    write.set_flags(0).unwrap();
    put(&write, b"a").unwrap();
    put(&write, b"b").unwrap();
    assert_eq!(get(&read, 9), Ok(b"ab".to_vec()));
}

#[test]
fn faults_on_the_way_in() {
    let (read, write) = Pipe::pair(0).unwrap();
    let mut source = Faulty { left: 10000, good: 5000 };
    assert_eq!(write.write(&mut source), Ok(4096));
    assert_eq!(source.left, 10000 - 4096);
    let mut source = Faulty { left: 10, good: 5 };
    assert_eq!(write.write(&mut source), Err(Errno::EFAULT));
    assert_eq!(get(&read, 9999).unwrap().len(), 4096);
    assert_eq!(get(&read, 9999), Err(Errno::EAGAIN));
}

#[test]
fn faults_on_the_way_out() {
    let (read, write) = Pipe::pair(0).unwrap();
    put(&write, &pattern(9000, 0)).unwrap();
    let mut sink = Faulty { left: 9000, good: 5000 };
    assert_eq!(read.read(&mut sink), Ok(4096));
    let mut sink = Faulty { left: 9000, good: 100 };
    assert_eq!(read.read(&mut sink), Err(Errno::EFAULT));
    assert_eq!(get(&read, 9000), Ok(pattern(9000 - 4096, 4096)));
}

#[test]
fn sizes() {
    let (read, write) = Pipe::pair(0).unwrap();
    let end = write.downcast::<PipeEnd>().unwrap();
    let pipe = end.pipe();
    assert_eq!(pipe.size(), 65536);
    assert_eq!(pipe.set_size(1, false), Ok(4096));
    put(&write, &[1; 4096]).unwrap();
    assert_eq!(put(&write, b"x"), Err(Errno::EAGAIN));
    assert_eq!(pipe.set_size(5000, false), Ok(8192));
    put(&write, &[2; 4096]).unwrap();
    assert_eq!(pipe.set_size(4096, false), Err(Errno::EBUSY));
    assert_eq!(pipe.set_size(1 << 20, false), Ok(1 << 20));
    assert_eq!(pipe.set_size((1 << 20) + 1, false), Err(Errno::EPERM));
    assert_eq!(pipe.set_size((1 << 20) + 1, true), Ok(2 << 20));
    assert_eq!(pipe.set_size((1 << 31) + 1, true), Err(Errno::EINVAL));
    assert_eq!(get(&read, 1 << 20).unwrap().len(), 8192);
}

#[test]
fn wakes_for_room_only_when_it_was_full() {
    let (read, write) = Pipe::pair(0).unwrap();
    let ops = write.ops().clone();
    put(&write, &[1; 65536]).unwrap();
    let run = Run::new();
    let mut room = wait::ready(&ops, POLLOUT);
    assert_eq!(run.poll(&mut room), None);
    get(&read, 1).unwrap();
    assert_eq!(run.wakes(), 0);
    get(&read, 4095).unwrap();
    assert_eq!(run.wakes(), 1);
    assert_eq!(run.poll(&mut room), Some(POLLOUT));
    drop(ops);

    let ops = read.ops().clone();
    get(&read, 1 << 20).unwrap();
    let run = Run::new();
    let mut data = wait::ready(&ops, POLLIN);
    assert_eq!(run.poll(&mut data), None);
    drop(write);
    assert_eq!(run.wakes(), 1);
    assert_eq!(run.poll(&mut data), Some(POLLHUP));
}

#[test]
fn fifo_opens_wait_for_each_other() {
    let pipe = Pipe::new();
    assert!(matches!(Pipe::open_fifo(&pipe, O_WRONLY | O_NONBLOCK, Default::default()), Err(Errno::ENXIO)));
    let run = Run::new();
    let mut reader = Box::pin(Pipe::open_fifo(&pipe, O_RDONLY, Default::default()).unwrap().wait());
    assert!(run.poll(&mut reader).is_none());
    let writer = Pipe::open_fifo(&pipe, O_WRONLY, Default::default()).unwrap().try_finish().ok().unwrap();
    assert_eq!(run.wakes(), 1);
    // A partner that has already left counts.
    drop(writer);
    let reader = run.poll(&mut reader).unwrap();
    assert_eq!(reader.poll(None), POLLHUP);
    assert_eq!(reader.read(0, &mut [0u8; 4].as_mut_slice()), Ok(0));
    drop(reader);
    // Giving up takes the waiter away.
    let mut writer = Box::pin(Pipe::open_fifo(&pipe, O_WRONLY, Default::default()).unwrap().wait());
    assert!(run.poll(&mut writer).is_none());
    drop(writer);
    assert_eq!(pipe.state.lock().writers, 0);
    let both = Pipe::open_fifo(&pipe, O_RDWR, Default::default()).unwrap().try_finish().ok().unwrap();
    assert_eq!(both.write(WriteAt::End, &mut SliceSource::new(b"kept")).unwrap().count, 4);
    assert_eq!(both.poll(None), POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM);
    drop(both);
    assert_eq!(pipe.state.lock().buffer.len(), 0);
}

#[test]
fn a_nonblocking_reader_sees_no_hangup_before_a_writer() {
    let pipe = Pipe::new();
    let reader =
        Pipe::open_fifo(&pipe, O_RDONLY | O_NONBLOCK, Default::default()).unwrap().try_finish().ok().unwrap();
    assert_eq!(reader.poll(None), 0);
    assert_eq!(reader.read(0, &mut [0u8; 4].as_mut_slice()), Ok(0));
    drop(Pipe::open_fifo(&pipe, O_WRONLY | O_NONBLOCK, Default::default()).unwrap());
    assert_eq!(reader.poll(None), POLLHUP);
}

#[test]
fn an_anonymous_pipe_opens_anew_without_waiting() {
    let (read, write) = Pipe::pair(0).unwrap();
    drop(read);
    let pipe = write.inode().state().fifo().clone();
    let again = Pipe::open_fifo(&pipe, O_RDONLY, Default::default()).unwrap().try_finish().ok().unwrap();
    put(&write, b"hello").unwrap();
    drop((write, again));
    let writer =
        Pipe::open_fifo(&pipe, O_WRONLY | O_NONBLOCK, Default::default()).unwrap().try_finish().ok().unwrap();
    assert_eq!(writer.poll(None) & POLLERR, POLLERR);
}

fn end(file: &Arc<File>) -> &PipeEnd {
    file.downcast::<PipeEnd>().unwrap()
}

#[test]
fn splice_between_pipes_and_tee() {
    let (r1, w1) = Pipe::pair(0).unwrap();
    let (r2, w2) = Pipe::pair(0).unwrap();
    assert_eq!(splice(end(&r1), end(&w1), 10), Err(Errno::EINVAL));
    assert_eq!(splice(end(&r1), end(&w2), 10), Err(Errno::EAGAIN));
    put(&w1, &pattern(10000, 0)).unwrap();
    assert_eq!(tee(end(&r1), end(&w2), 5000), Ok(5000));
    assert_eq!(get(&r2, 9999), Ok(pattern(5000, 0)));
    assert_eq!(splice(end(&r1), end(&w2), 9000), Ok(9000));
    assert_eq!(get(&r2, 9999), Ok(pattern(9000, 0)));
    assert_eq!(get(&r1, 9999), Ok(pattern(1000, 9000)));
    drop(w1);
    assert_eq!(splice(end(&r1), end(&w2), 10), Ok(0));
    drop(r2);
    assert_eq!(splice(end(&r1), end(&w2), 10), Err(Errno::EPIPE));
}

#[test]
fn splice_to_and_from_files() {
    let (read, write) = Pipe::pair(0).unwrap();
    let (r, w) = (end(&read), end(&write));
    let data = pattern(100_000, 0);
    let mut source = SliceSource::new(&data);
    let moved = w.splice_in(90_000, |sink| {
        let mut total = 0;
        // In pieces that do not fit pages.
        while sink.room() > 0 {
            let mut piece = [0; 3000];
            let want = sink.room().min(3000);
            let got = source.take(&mut piece[..want])?;
            total += sink.put(&piece[..got])?;
        }
        Ok(total)
    });
    assert_eq!(moved, Ok(65536));
    assert_eq!(w.splice_in(1, |_| panic!("it is full")), Err(Errno::EAGAIN));
    let mut file = VecSink { data: Vec::new(), limit: 50_000 };
    let moved = r.splice_out(60_000, |source| {
        let mut buf = [0; 7000];
        let mut total = 0;
        while source.left() > 0 && file.room() > 0 {
            let got = source.take(&mut buf)?;
            let put = file.put(&buf[..got])?;
            source.untake(got - put);
            total += put;
        }
        Ok(total)
    });
    assert_eq!(moved, Ok(50_000));
    assert_eq!(file.data, pattern(50_000, 0));
    assert_eq!(r.splice_out(10, |_| Err(Errno::ENOSPC)), Err(Errno::ENOSPC));
    assert_eq!(get(&read, 99_999), Ok(pattern(15536, 50_000)));
    assert_eq!(r.splice_out(10, |_| panic!("it is empty")), Err(Errno::EAGAIN));
    assert_eq!(w.splice_in(10, |_| Err(Errno::EIO)), Err(Errno::EIO));
    drop(write);
    assert_eq!(r.splice_out(10, |_| panic!("it is empty")), Ok(0));
}
