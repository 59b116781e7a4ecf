use super::*;
use crate::sqlstate::{Report, SqlState};

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    slots: Slots<u32>,
    now: Instant,
}

impl Bench {
    fn new(max: usize, reserve: usize) -> Self {
        let limits = Limits { max, reserve, reserve_after: 3 * SECOND, max_pause: SECOND };
        Self { slots: Slots::new(limits), now: Instant::now() }
    }

    fn request(&self, rank: Rank) -> Request {
        Request { rank, now: self.now, deadline: Deadline::after(self.now, 5 * SECOND), waits_out_pause: true }
    }

    fn ask(&mut self, rank: Rank) -> Place<u32> {
        let request = self.request(rank);
        self.slots.acquire(&request)
    }

    /// Asks for the right to open, and uses it.
    fn open(&mut self, rank: Rank) {
        assert!(matches!(self.ask(rank), Place::Now(Turn::Open)));
        self.slots.opened(self.now);
    }

    fn wait(&mut self, rank: Rank) -> oneshot::Receiver<Turn<u32>> {
        match self.ask(rank) {
            Place::Queued { turn, .. } => turn,
            Place::Now(turn) => panic!("did not wait: {turn:?}"),
        }
    }

    fn fail(&mut self, error: &ConnectError) -> Option<Place<u32>> {
        let request = self.request(Rank::Newcomer);
        self.slots.failed(error, self.now, &request, 0.0)
    }
}

fn is_open(turn: &mut oneshot::Receiver<Turn<u32>>) -> bool {
    matches!(turn.try_recv(), Ok(Turn::Open))
}

fn idle(turn: &mut oneshot::Receiver<Turn<u32>>) -> Option<u32> {
    match turn.try_recv() {
        Ok(Turn::Idle(connection)) => Some(connection),
        _ => None,
    }
}

fn server_error(sqlstate: SqlState) -> ConnectError {
    ConnectError::Server(Report::new(sqlstate, "no"))
}

#[test]
fn the_queue_is_first_come_first_served() {
    let mut bench = Bench::new(1, 0);
    bench.open(Rank::Newcomer);
    let (mut first, mut second) = (bench.wait(Rank::Newcomer), bench.wait(Rank::Newcomer));
    assert_eq!(bench.slots.give_back(7, bench.now), None);
    assert_eq!((idle(&mut first), idle(&mut second)), (Some(7), None));
    bench.slots.lost(bench.now);
    assert!(is_open(&mut second), "a connection that was closed makes room for another");
}

#[test]
fn who_has_left_is_passed_over() {
    let mut bench = Bench::new(1, 0);
    bench.open(Rank::Newcomer);
    drop(bench.wait(Rank::Newcomer));
    let mut second = bench.wait(Rank::Newcomer);
    bench.slots.give_back(7, bench.now);
    assert_eq!(idle(&mut second), Some(7));
    let Place::Queued { ticket, turn } = bench.ask(Rank::Newcomer) else { panic!("did not wait") };
    drop(turn);
    assert!(bench.slots.leave(ticket) && !bench.slots.leave(ticket));
    assert_eq!(bench.slots.figures(bench.now).n_waiting, 0);
}

#[test]
fn holders_go_first_and_have_the_reserve() {
    let mut bench = Bench::new(1, 1);
    bench.open(Rank::Newcomer);
    let mut newcomer = bench.wait(Rank::Newcomer);
    bench.open(Rank::Holder);
    let mut holder = bench.wait(Rank::Holder);
    bench.slots.give_back(1, bench.now);
    assert_eq!((idle(&mut holder), idle(&mut newcomer)), (Some(1), None));
    // One in use is as many as newcomers may have: the reserve stays free for the next holder.
    bench.slots.give_back(1, bench.now);
    assert_eq!(idle(&mut newcomer), None);
    assert!(matches!(bench.ask(Rank::Holder), Place::Now(Turn::Idle(1))));
}

#[test]
fn a_newcomer_gets_the_reserve_after_its_wait() {
    let mut bench = Bench::new(1, 1);
    bench.open(Rank::Newcomer);
    let (mut first, since) = (bench.wait(Rank::Newcomer), bench.now);
    assert_eq!(bench.slots.next_event(since, bench.now), Some(since + 3 * SECOND));
    bench.now += 2 * SECOND;
    bench.slots.grant(bench.now);
    assert!(first.try_recv().is_err());
    bench.now += SECOND;
    let mut second = bench.wait(Rank::Newcomer);
    bench.slots.grant(bench.now);
    assert!(is_open(&mut first) && second.try_recv().is_err());
    assert_eq!(bench.slots.next_event(since, bench.now), None);
}

#[test]
fn after_a_failure_all_wait_for_one_attempt() {
    let mut bench = Bench::new(9, 0);
    let refused = ConnectError::Io("refused".into());
    for _ in 0..3 {
        assert!(matches!(bench.ask(Rank::Newcomer), Place::Now(Turn::Open)));
    }
    // Three attempts that fail together make one pause, of the first length.
    let began = bench.now;
    bench.now += Duration::from_millis(1);
    for _ in 0..3 {
        let request = bench.request(Rank::Newcomer);
        assert!(bench.slots.failed(&refused, began, &request, 0.0).is_none());
    }
    assert_eq!(bench.slots.figures(bench.now).pause_left, FIRST_PAUSE);
    let (mut first, mut second) = (bench.wait(Rank::Newcomer), bench.wait(Rank::Newcomer));
    bench.now += FIRST_PAUSE;
    bench.slots.grant(bench.now);
    assert!(is_open(&mut first) && second.try_recv().is_err());
    // The attempt fails: who waited for it gets its error, and the pause doubles.
    assert!(bench.fail(&refused).is_none());
    assert!(matches!(second.try_recv(), Ok(Turn::Failed(ConnectError::Io(_)))));
    assert_eq!(bench.slots.figures(bench.now).pause_left, 2 * FIRST_PAUSE);
    // One that succeeds ends the pause, and all may open.
    let (mut third, mut fourth) = (bench.wait(Rank::Newcomer), bench.wait(Rank::Newcomer));
    bench.now += 2 * FIRST_PAUSE;
    bench.slots.grant(bench.now);
    assert!(is_open(&mut third) && fourth.try_recv().is_err());
    bench.slots.opened(bench.now);
    assert!(is_open(&mut fourth));
}

#[test]
fn a_pause_is_never_longer_than_the_limit_or_the_client_s_patience() {
    let mut bench = Bench::new(9, 0);
    let refused = ConnectError::Io("refused".into());
    for _ in 0..10 {
        assert!(matches!(bench.ask(Rank::Newcomer), Place::Now(Turn::Open)));
        bench.now += SECOND;
        bench.fail(&refused);
        bench.now += SECOND;
    }
    bench.ask(Rank::Newcomer);
    bench.now += SECOND;
    bench.fail(&refused);
    assert_eq!(bench.slots.figures(bench.now).pause_left, SECOND);
    let hasty = Request { deadline: Deadline::after(bench.now, SECOND / 2), ..bench.request(Rank::Newcomer) };
    assert!(matches!(bench.slots.acquire(&hasty), Place::Now(Turn::Failed(ConnectError::Io(_)))));
    let elsewhere = Request { waits_out_pause: false, ..bench.request(Rank::Newcomer) };
    assert!(matches!(bench.slots.acquire(&elsewhere), Place::Now(Turn::Failed(ConnectError::Io(_)))));
    assert!(matches!(bench.ask(Rank::Newcomer), Place::Queued { .. }));
}

#[test]
fn a_server_that_is_full_is_waited_for_while_connections_are_out() {
    let mut bench = Bench::new(9, 0);
    bench.open(Rank::Newcomer);
    assert!(matches!(bench.ask(Rank::Newcomer), Place::Now(Turn::Open)));
    let Some(Place::Queued { mut turn, .. }) = bench.fail(&server_error(SqlState::TOO_MANY_CONNECTIONS)) else {
        panic!("did not wait")
    };
    bench.slots.give_back(7, bench.now);
    assert_eq!(idle(&mut turn), Some(7));
    bench.slots.lost(bench.now);
    bench.now += SECOND;
    // With none out there is nothing to wait for.
    assert!(matches!(bench.ask(Rank::Newcomer), Place::Now(Turn::Open)));
    assert!(bench.fail(&server_error(SqlState::TOO_MANY_CONNECTIONS)).is_none());
    assert!(bench.slots.last_error().is_some());
}

#[test]
fn spare_connections_are_opened_up_to_the_minimum() {
    let mut bench = Bench::new(2, 0);
    assert!(bench.slots.open_spare(3, bench.now) && bench.slots.open_spare(3, bench.now));
    assert!(!bench.slots.open_spare(3, bench.now), "never above the maximum");
    bench.slots.opened(bench.now);
    bench.slots.abandoned(bench.now);
    bench.slots.give_back(1, bench.now);
    assert_eq!(bench.slots.n_open(), 1);
    assert_eq!(bench.slots.retain_idle(|_| false), [1]);
    assert_eq!(bench.slots.n_open(), 0);
}

#[test]
fn closing_ends_waits_and_takes_nothing_back() {
    let mut bench = Bench::new(1, 0);
    bench.open(Rank::Newcomer);
    let mut waiting = bench.wait(Rank::Newcomer);
    assert!(bench.slots.close().is_empty());
    assert!(matches!(waiting.try_recv(), Ok(Turn::Closed)));
    assert_eq!(bench.slots.give_back(7, bench.now), Some(7));
    assert!(matches!(bench.ask(Rank::Holder), Place::Now(Turn::Closed)));
}

#[test]
fn a_retired_pool_keeps_nothing_idle_and_serves_who_waits() {
    let mut bench = Bench::new(1, 0);
    bench.open(Rank::Newcomer);
    let mut waiting = bench.wait(Rank::Newcomer);
    assert!(bench.slots.retire().is_empty());
    assert_eq!(bench.slots.give_back(7, bench.now), None);
    assert_eq!(idle(&mut waiting), Some(7));
    assert_eq!(bench.slots.give_back(7, bench.now), Some(7));
    assert!(matches!(bench.ask(Rank::Newcomer), Place::Now(Turn::Open)));
}

#[test]
fn a_dead_idle_connection_is_replaced_at_once() {
    let mut bench = Bench::new(2, 0);
    bench.open(Rank::Newcomer);
    bench.open(Rank::Newcomer);
    bench.slots.give_back(1, bench.now);
    bench.slots.give_back(2, bench.now);
    assert!(matches!(bench.ask(Rank::Newcomer), Place::Now(Turn::Idle(2))));
    let request = bench.request(Rank::Newcomer);
    assert!(matches!(bench.slots.replace_dead(&request), Place::Now(Turn::Idle(1))));
    assert!(matches!(bench.slots.replace_dead(&request), Place::Now(Turn::Open)));
    bench.slots.abandoned(bench.now);
    assert_eq!(bench.slots.n_open(), 0);
}
