//! When to ask whom: one upstream at first, the next one when it takes long, whoever answers first wins. Knows neither
//! sockets nor messages.

use std::{pin::Pin, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use super::health::Order;

/// When an upstream has not answered for so long, the next one is asked too. When all have been asked they are asked
/// again after twice that, and so on: a datagram may have been lost.
pub(super) const HEDGE: Duration = Duration::from_millis(400);
/// With an error at hand, how long the upstreams that still owe an answer may take to give a better one.
const GRACE: Duration = Duration::from_secs(1);

/// What came of asking one upstream once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<T> {
    /// An answer.
    Usable(T),
    /// An error, which is the answer if nobody has a better one.
    Error(T),
    /// None at all.
    Nothing,
}

/// An upstream being asked, and what came of it.
pub(super) type Asking<T> = Pin<Box<dyn Future<Output = (usize, Outcome<T>)> + Send>>;

/// Asks in that order until somebody answers; what they still owe is left in `running`. `ask` begins to ask one;
/// `overtaken` is told who takes so long that another one is asked.
pub(super) async fn race<T>(
    order: &Order,
    deadline: Instant,
    running: &mut FuturesUnordered<Asking<T>>,
    mut ask: impl FnMut(usize) -> Asking<T>,
    overtaken: impl Fn(usize),
) -> Option<(usize, T)> {
    let everyone = &order.upstreams;
    let mut begun = 0;
    let mut next = everyone.iter().copied().cycle();
    let mut last = next.next()?;
    running.push(ask(last));
    begun += 1;
    running.extend(order.probe.map(&mut ask));
    let mut wait = HEDGE;
    let mut hedge_at = Instant::now() + wait;
    let mut give_up_at = deadline;
    let mut error = None;
    loop {
        let all_asked = begun >= everyone.len();
        if all_asked && error.is_some() {
            // From the first time on: later ones are no earlier.
            give_up_at = give_up_at.min(Instant::now() + GRACE);
        }
        tokio::select! {
            biased;
            Some((which, outcome)) = running.next() => {
                match outcome {
                    Outcome::Usable(answer) => return Some((which, answer)),
                    Outcome::Error(answer) => error = error.or(Some((which, answer))),
                    Outcome::Nothing => {}
                }
                if all_asked && running.is_empty() {
                    return error;
                }
                let in_turn = everyone.iter().take(begun).any(|asked| *asked == which);
                if all_asked || !in_turn {
                    continue; // somebody still owes an answer; that a probe fails is no news
                }
            }
            () = sleep_until(give_up_at) => return error,
            () = sleep_until(hedge_at), if !all_asked || error.is_none() => {
                overtaken(last);
                if all_asked {
                    wait *= 2;
                }
            }
        }
        last = next.next()?;
        running.push(ask(last));
        begun += 1;
        hedge_at = Instant::now() + wait;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::sleep;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const DEADLINE: Duration = Duration::from_secs(4);

    /// What an upstream does each time it is asked.
    #[derive(Clone, Copy)]
    enum Does {
        Answer(Duration),
        Fail(Duration),
        Hang(Duration),
        Die,
    }
    use Does::{Answer, Die, Fail, Hang};

    /// Whose answer won and when, and who was asked when, in milliseconds.
    async fn run(
        order: Order,
        does: &[Does],
    ) -> (Option<(usize, u128)>, Vec<(usize, u128)>, Vec<usize>) {
        let start = Instant::now();
        let asked = RefCell::new(Vec::new());
        let overtaken = RefCell::new(Vec::new());
        let ask = |which: usize| -> Asking<()> {
            asked.borrow_mut().push((which, start.elapsed().as_millis()));
            let does = does[which];
            Box::pin(async move {
                match does {
                    Answer(after) => sleep(after).await,
                    Fail(after) | Hang(after) => sleep(after).await,
                    Die => std::future::pending().await,
                }
                let outcome = match does {
                    Answer(_) => Outcome::Usable(()),
                    Fail(_) => Outcome::Error(()),
                    Hang(_) | Die => Outcome::Nothing,
                };
                (which, outcome)
            })
        };
        let mut running = FuturesUnordered::new();
        let tell = |which| overtaken.borrow_mut().push(which);
        let winner = race(&order, start + DEADLINE, &mut running, ask, tell).await;
        let winner = winner.map(|(which, ())| (which, start.elapsed().as_millis()));
        if winner.is_none() && does.iter().all(|does| matches!(does, Die)) {
            assert_eq!(start.elapsed(), DEADLINE);
        }
        (winner, asked.into_inner(), overtaken.into_inner())
    }

    fn all(count: usize) -> Order {
        Order { upstreams: (0..count).collect(), probe: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_answer_asks_nobody_else() {
        let (winner, asked, overtaken) = run(all(3), &[Answer(399 * MS), Die, Die]).await;
        assert_eq!((winner, asked), (Some((0, 399)), vec![(0, 0)]));
        assert!(overtaken.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_is_hedged_and_may_still_win() {
        let (winner, asked, overtaken) =
            run(all(3), &[Answer(450 * MS), Answer(60 * MS), Die]).await;
        assert_eq!((winner, asked), (Some((0, 450)), vec![(0, 0), (1, 400)]));
        assert_eq!(overtaken, [0]);
        let (winner, _, _) = run(all(3), &[Answer(900 * MS), Answer(60 * MS), Die]).await;
        assert_eq!(winner, Some((1, 460)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_or_a_failure_moves_on_at_once() {
        let (winner, asked, _) = run(all(3), &[Fail(5 * MS), Hang(7 * MS), Answer(MS)]).await;
        assert_eq!((winner, asked), (Some((2, 13)), vec![(0, 0), (1, 5), (2, 12)]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_the_answer_when_nobody_has_a_better_one() {
        let (winner, _, _) = run(all(2), &[Fail(5 * MS), Fail(5 * MS)]).await;
        assert_eq!(winner, Some((0, 10)));
        let (winner, _, _) = run(all(2), &[Fail(5 * MS), Hang(5 * MS)]).await;
        assert_eq!(winner, Some((0, 10)));
        let (winner, asked, _) = run(all(2), &[Fail(5 * MS), Die]).await;
        assert_eq!((winner, asked), (Some((0, 1005)), vec![(0, 0), (1, 5)]), "not for long");
        let (winner, _, _) = run(all(2), &[Fail(5 * MS), Answer(900 * MS)]).await;
        assert_eq!(winner, Some((1, 905)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_one_is_asked_again_and_given_up_after_four_seconds() {
        let (winner, asked, _) = run(all(1), &[Die]).await;
        assert_eq!(winner, None);
        assert_eq!(asked, [(0, 0), (0, 400), (0, 1200), (0, 2800)]);
        let (winner, _, _) = run(all(1), &[Hang(MS)]).await;
        assert_eq!(winner, None);
    }

    #[tokio::test(start_paused = true)]
    async fn dead_ones_are_passed_by() {
        let (winner, asked, overtaken) = run(all(3), &[Die, Die, Answer(MS)]).await;
        assert_eq!((winner, asked), (Some((2, 801)), vec![(0, 0), (1, 400), (2, 800)]));
        assert_eq!(overtaken, [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_asked_along_and_its_silence_changes_nothing() {
        let order = || Order { upstreams: vec![0, 1], probe: Some(1) };
        let (winner, asked, _) = run(order(), &[Answer(100 * MS), Die]).await;
        assert_eq!((winner, asked), (Some((0, 100)), vec![(0, 0), (1, 0)]));
        let (winner, _, _) = run(order(), &[Answer(100 * MS), Answer(10 * MS)]).await;
        assert_eq!(winner, Some((1, 10)));
        for does in [Hang(MS), Fail(MS)] {
            let (winner, asked, _) = run(order(), &[Answer(100 * MS), does]).await;
            assert_eq!((winner, asked), (Some((0, 100)), vec![(0, 0), (1, 0)]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_to_ask_is_no_answer() {
        assert_eq!(run(all(0), &[Answer(MS)]).await.0, None);
    }
}
