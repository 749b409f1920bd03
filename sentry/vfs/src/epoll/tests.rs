use super::*;
use crate::eventfd::EventFd;
use crate::pipe::{Pipe, PipeEnd};
use crate::testing::Run;
use crate::{WriteAt, wait};
use chitin_mm::SliceSource;

struct Event {
    event: Arc<EventFd>,
    file: Arc<File>,
}

fn event(count: u32) -> Event {
    let event = EventFd::new(count, 0);
    Event { file: File::anon(event.clone(), "[eventfd]", O_RDWR), event }
}

fn drain(event: &Event) {
    let mut bytes = [0; 8];
    event.event.read(0, &mut bytes.as_mut_slice()).unwrap();
}

fn want(events: u32, data: u64) -> EpollEvent {
    EpollEvent { events, data }
}

fn events(epoll: &Epoll, max: usize) -> Vec<EpollEvent> {
    let mut out = Vec::new();
    epoll.collect(max, &mut out);
    out
}

fn got(epoll: &Epoll, max: usize) -> Vec<(u32, u64)> {
    events(epoll, max).iter().map(|event| (event.events, event.data)).collect()
}

fn open(epoll: &Arc<Epoll>) -> Arc<File> {
    File::anon(epoll.clone(), "[eventpoll]", O_RDWR)
}

#[test]
fn level_triggered_stays_until_drained() {
    let epoll = Epoll::new();
    let a = event(0);
    epoll.ctl(EPOLL_CTL_ADD, 3, &a.file, want(EPOLLIN, 7)).unwrap();
    assert_eq!(got(&epoll, 8), []);
    a.event.signal();
    assert_eq!(got(&epoll, 8), [(EPOLLIN, 7)]);
    assert_eq!(got(&epoll, 8), [(EPOLLIN, 7)]);
    drain(&a);
    assert_eq!(got(&epoll, 8), []);
    assert!(epoll.core.ready.lock().is_empty());
}

#[test]
fn edge_triggered_once_per_event() {
    let epoll = Epoll::new();
    let a = event(1);
    epoll.ctl(EPOLL_CTL_ADD, 3, &a.file, want(EPOLLIN | EPOLLET, 7)).unwrap();
    assert_eq!(got(&epoll, 8), [(EPOLLIN, 7)]);
    assert_eq!(got(&epoll, 8), []);
    a.event.signal();
    assert_eq!(got(&epoll, 8), [(EPOLLIN, 7)]);
    // Draining makes it writable, which is not asked for; a change of interest looks anew.
    drain(&a);
    assert_eq!(got(&epoll, 8), []);
    epoll.ctl(EPOLL_CTL_MOD, 3, &a.file, want(EPOLLOUT | EPOLLET, 8)).unwrap();
    assert_eq!(got(&epoll, 8), [(EPOLLOUT, 8)]);
}

#[test]
fn every_write_to_a_pipe_is_an_edge() {
    let epoll = Epoll::new();
    let (read, write) = Pipe::pair(0).unwrap();
    epoll.ctl(EPOLL_CTL_ADD, 3, &read, want(EPOLLIN | EPOLLET, 1)).unwrap();
    for _ in 0..2 {
        write.ops().write(WriteAt::End, &mut SliceSource::new(b"x")).unwrap();
        assert_eq!(got(&epoll, 8), [(EPOLLIN, 1)]);
        assert_eq!(got(&epoll, 8), []);
    }
    drop(write);
    assert_eq!(got(&epoll, 8), [(EPOLLIN | EPOLLHUP, 1)]);
}

#[test]
fn one_shot_needs_rearming() {
    let epoll = Epoll::new();
    let a = event(1);
    epoll.ctl(EPOLL_CTL_ADD, 3, &a.file, want(EPOLLIN | EPOLLONESHOT, 7)).unwrap();
    assert_eq!(got(&epoll, 8), [(EPOLLIN, 7)]);
    a.event.signal();
    assert_eq!(got(&epoll, 8), []);
    epoll.ctl(EPOLL_CTL_MOD, 3, &a.file, want(EPOLLIN | EPOLLONESHOT, 8)).unwrap();
    let events = events(&epoll, 8);
    assert_eq!(events.len(), 1);
    assert_eq!(got(&epoll, 8), []);
    epoll.put_back(&events);
    assert_eq!(got(&epoll, 8), [(EPOLLIN, 8)]);
    assert_eq!(got(&epoll, 8), []);
}

#[test]
fn turns_are_fair() {
    let epoll = Epoll::new();
    let events: Vec<Event> = (0..3).map(|_| event(1)).collect();
    for (at, event) in events.iter().enumerate() {
        epoll.ctl(EPOLL_CTL_ADD, at as i32, &event.file, want(EPOLLIN, at as u64)).unwrap();
    }
    let order: Vec<u64> = (0..3).flat_map(|_| got(&epoll, 2)).map(|(_, data)| data).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    assert_eq!(got(&epoll, 100).len(), 3);
    assert_eq!(got(&epoll, 0), []);
}

#[test]
fn ctl_errors() {
    let epoll = Epoll::new();
    let (a, b) = (event(0), event(0));
    let e = want(EPOLLIN, 0);
    assert_eq!(epoll.ctl(EPOLL_CTL_MOD, 3, &a.file, e), Err(Errno::ENOENT));
    assert_eq!(epoll.ctl(EPOLL_CTL_DEL, 3, &a.file, e), Err(Errno::ENOENT));
    assert_eq!(epoll.ctl(EPOLL_CTL_ADD, 3, &a.file, e), Ok(()));
    assert_eq!(epoll.ctl(EPOLL_CTL_ADD, 3, &a.file, e), Err(Errno::EEXIST));
    assert_eq!(epoll.ctl(EPOLL_CTL_ADD, 4, &a.file, e), Ok(()));
    assert_eq!(epoll.ctl(EPOLL_CTL_ADD, 3, &b.file, e), Ok(()));
    assert_eq!(epoll.ctl(9, 3, &a.file, e), Err(Errno::EINVAL));
    assert_eq!(epoll.ctl(EPOLL_CTL_ADD, 5, &open(&epoll), e), Err(Errno::EINVAL));
    assert_eq!(epoll.ctl(EPOLL_CTL_MOD, 3, &a.file, want(EPOLLIN | EPOLLEXCLUSIVE, 0)), Err(Errno::EINVAL));
    assert_eq!(epoll.ctl(EPOLL_CTL_ADD, 6, &a.file, want(EPOLLPRI | EPOLLEXCLUSIVE, 0)), Err(Errno::EINVAL));
    assert_eq!(epoll.ctl(EPOLL_CTL_ADD, 6, &a.file, want(EPOLLIN | EPOLLEXCLUSIVE, 0)), Ok(()));
    assert_eq!(epoll.ctl(EPOLL_CTL_MOD, 6, &a.file, e), Err(Errno::EINVAL));
    let other = open(&Epoll::new());
    assert_eq!(epoll.ctl(EPOLL_CTL_ADD, 7, &other, want(EPOLLIN | EPOLLEXCLUSIVE, 0)), Err(Errno::EINVAL));
    assert_eq!(epoll.items().len(), 4);
    assert_eq!(epoll.ctl(EPOLL_CTL_DEL, 3, &a.file, e), Ok(()));
    assert_eq!(epoll.items().iter().map(|item| item.fd).collect::<Vec<_>>(), [3, 4, 6]);
    assert!(Epoll::open(1).is_err());
}

struct Disk;
impl FileOps for Disk {
    fn seekable(&self) -> bool {
        true
    }
}

#[test]
fn regular_files_cannot_be_watched() {
    let file = File::anon(Arc::new(Disk), "[disk]", O_RDWR);
    assert_eq!(Epoll::new().ctl(EPOLL_CTL_ADD, 3, &file, want(EPOLLIN, 0)), Err(Errno::EPERM));
}

#[test]
fn an_item_goes_with_its_open_file() {
    let epoll = Epoll::new();
    let a = event(1);
    let Event { event, file } = a;
    let dup = file.clone();
    epoll.ctl(EPOLL_CTL_ADD, 3, &file, want(EPOLLIN, 7)).unwrap();
    drop(file);
    assert_eq!(got(&epoll, 8), [(EPOLLIN, 7)]);
    drop(dup);
    assert_eq!(got(&epoll, 8), []);
    assert!(epoll.core.items.lock().map.is_empty());
    drop(event);
    // Those nobody collects are swept when there are many.
    for fd in 0..1000 {
        let a = super::tests::event(0);
        epoll.ctl(EPOLL_CTL_ADD, fd, &a.file, want(EPOLLIN, 0)).unwrap();
    }
    assert!(epoll.core.items.lock().map.len() <= 64);
}

#[test]
fn removed_items_leave_no_trace() {
    let epoll = Epoll::new();
    let a = event(1);
    for _ in 0..3 {
        epoll.ctl(EPOLL_CTL_ADD, 3, &a.file, want(EPOLLIN, 7)).unwrap();
        epoll.ctl(EPOLL_CTL_DEL, 3, &a.file, want(0, 0)).unwrap();
    }
    a.event.signal();
    assert!(epoll.core.ready.lock().is_empty());
    epoll.ctl(EPOLL_CTL_ADD, 3, &a.file, want(EPOLLIN, 7)).unwrap();
    drop(epoll);
    a.event.signal();
}

#[test]
fn a_waiter_is_woken_and_nested_epolls_pass_events_on() {
    let (outer, inner) = (Epoll::new(), Epoll::new());
    let a = event(0);
    inner.ctl(EPOLL_CTL_ADD, 3, &a.file, want(EPOLLIN, 1)).unwrap();
    let inner_file = open(&inner);
    outer.ctl(EPOLL_CTL_ADD, 4, &inner_file, want(EPOLLIN, 2)).unwrap();
    let ops: Arc<dyn FileOps> = outer.clone();
    let run = Run::new();
    let mut ready = wait::ready(&ops, POLLIN);
    assert_eq!(run.poll(&mut ready), None);
    a.event.signal();
    assert!(run.wakes() > 0);
    assert_eq!(run.poll(&mut ready), Some(POLLIN));
    assert_eq!(got(&outer, 8), [(EPOLLIN, 2)]);
    assert_eq!(got(&inner, 8), [(EPOLLIN, 1)]);
    drain(&a);
    assert_eq!(outer.poll(None), 0);
    assert_eq!(got(&outer, 8), []);
}

#[test]
fn no_loops_and_no_deep_chains() {
    let epolls: Vec<Arc<Epoll>> = (0..6).map(|_| Epoll::new()).collect();
    let files: Vec<Arc<File>> = epolls.iter().map(open).collect();
    let e = want(EPOLLIN, 0);
    for at in 0..4 {
        epolls[at].ctl(EPOLL_CTL_ADD, 1, &files[at + 1], e).unwrap();
    }
    assert_eq!(epolls[4].ctl(EPOLL_CTL_ADD, 1, &files[0], e), Err(Errno::ELOOP));
    assert_eq!(epolls[1].ctl(EPOLL_CTL_ADD, 1, &files[0], e), Err(Errno::ELOOP));
    assert_eq!(epolls[4].ctl(EPOLL_CTL_ADD, 1, &files[5], e), Err(Errno::ELOOP));
    assert_eq!(epolls[5].ctl(EPOLL_CTL_ADD, 1, &files[0], e), Err(Errno::ELOOP));
    assert_eq!(epolls[5].ctl(EPOLL_CTL_ADD, 1, &files[1], e), Ok(()));
    epolls[0].ctl(EPOLL_CTL_DEL, 1, &files[1], e).unwrap();
    assert_eq!(epolls[1].core.parents.lock().len(), 1);
    assert_eq!(epolls[5].ctl(EPOLL_CTL_ADD, 1, &files[0], e), Ok(()));
}

#[test]
fn wakes_do_not_fan_out_without_bound() {
    // Three levels of a hundred epolls, each watching all of the next: the second step is refused.
    let levels: Vec<Vec<Arc<File>>> =
        (0..3).map(|_| (0..30).map(|_| open(&Epoll::new())).collect()).collect();
    let mut refused = false;
    for pair in levels.windows(2) {
        for (fd, child) in pair[1].iter().enumerate() {
            for parent in &pair[0] {
                let parent = parent.downcast::<Epoll>().unwrap();
                match parent.ctl(EPOLL_CTL_ADD, fd as i32, child, want(EPOLLIN, 0)) {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error, Errno::EINVAL);
                        refused = true;
                    }
                }
            }
        }
    }
    assert!(refused);
}

#[test]
fn events_of_the_other_end() {
    let epoll = Epoll::new();
    let (read, write) = Pipe::pair(0).unwrap();
    epoll.ctl(EPOLL_CTL_ADD, 1, &write, want(EPOLLOUT | EPOLLET, 1)).unwrap();
    assert_eq!(got(&epoll, 8), [(EPOLLOUT, 1)]);
    drop(read);
    assert_eq!(got(&epoll, 8), [(EPOLLOUT | EPOLLERR, 1)]);
    assert!(write.downcast::<PipeEnd>().is_some());
}

/// Writers, an edge-triggered nested reader and someone who keeps changing the set: nothing is lost, nobody hangs.
#[test]
fn many_threads() {
    const BYTES: usize = 20_000;
    let (outer, inner) = (Epoll::new(), Epoll::new());
    let inner_file = open(&inner);
    outer.ctl(EPOLL_CTL_ADD, 1, &inner_file, want(EPOLLIN | EPOLLET, 1)).unwrap();
    let pipes: Vec<(Arc<File>, Arc<File>)> = (0..2).map(|_| Pipe::pair(0).unwrap()).collect();
    for (at, (read, _)) in pipes.iter().enumerate() {
        inner.ctl(EPOLL_CTL_ADD, at as i32, read, want(EPOLLIN | EPOLLET, at as u64)).unwrap();
    }
    std::thread::scope(|scope| {
        for (_, write) in &pipes {
            scope.spawn(move || {
                let mut sent = 0;
                while sent < BYTES {
                    match write.write(&mut SliceSource::new(&[1; 7][..7.min(BYTES - sent)])) {
                        Ok(count) => sent += count,
                        Err(_) => std::thread::yield_now(),
                    }
                }
            });
        }
        let (churned, churn_outer) = (&inner, &outer);
        scope.spawn(move || {
            for _ in 0..2000 {
                let Event { event, file } = event(1);
                churned.ctl(EPOLL_CTL_ADD, 100, &file, want(EPOLLIN | EPOLLONESHOT, 100)).unwrap();
                event.signal();
                drop(file);
                churn_outer.poll(None);
            }
        });
        let start = std::time::Instant::now();
        let mut received = 0;
        while received < 2 * BYTES {
            assert!(start.elapsed().as_secs() < 60, "an edge was lost after {received} bytes");
            if events(&outer, 1).is_empty() {
                std::thread::yield_now();
                continue;
            }
            for event in events(&inner, 10) {
                let Some((read, _)) = pipes.get(event.data as usize) else { continue };
                let mut buf = [0; 512];
                while let Ok(count) = read.read(&mut buf.as_mut_slice()) {
                    received += count;
                }
            }
        }
    });
}
