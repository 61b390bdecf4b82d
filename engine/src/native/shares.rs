//! How the prompts of a step share its budget of tokens. Pure.
//!
//! The oldest prompt gets at least half of it, so that every prompt's turn
//! comes; the other half lets those pass that have less left, the fewest first,
//! so that a short question does not wait for a huge one.

/// Tokens for each prompt, given what each has left, in order of arrival.
pub(super) fn share_out(left: &[usize], budget: usize) -> Vec<usize> {
    let mut shares = vec![0; left.len()];
    let Some(&oldest) = left.first() else {
        return shares;
    };
    let mut passing: Vec<usize> = (1..left.len()).filter(|&i| left[i] < oldest).collect();
    passing.sort_by_key(|&i| (left[i], i));
    let half = budget / 2;
    let mut give = |i: usize, limit: usize| {
        let share = limit.min(left[i] - shares[i]);
        shares[i] += share;
        share
    };
    let mut passed = 0;
    for i in passing {
        passed += give(i, half - passed);
    }
    let mut rest = budget - passed;
    for i in 0..left.len() {
        rest -= give(i, rest);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(left: &[usize], budget: usize, expected: &[usize]) {
        let shares = share_out(left, budget);
        assert_eq!(shares, expected);
        let wanted: usize = left.iter().sum();
        assert_eq!(shares.iter().sum::<usize>(), wanted.min(budget));
    }

    #[test]
    fn alone_a_prompt_gets_all() {
        check(&[], 100, &[]);
        check(&[1000], 100, &[100]);
        check(&[30], 100, &[30]);
    }

    #[test]
    fn short_prompts_pass_a_long_one_with_half_the_budget() {
        check(&[1000, 40], 100, &[60, 40]);
        check(&[1000, 200], 100, &[50, 50]);
        check(&[1000, 40, 20, 300], 100, &[50, 30, 20, 0]);
    }

    #[test]
    fn long_prompts_wait_for_the_oldest() {
        check(&[100, 100], 60, &[60, 0]);
        check(&[100, 2000], 60, &[60, 0]);
        check(&[50, 2000, 1000], 60, &[50, 10, 0]);
    }

    #[test]
    fn the_oldest_always_gets_half() {
        for budget in 1..9 {
            let shares = share_out(&[1000, 1, 1, 1, 1, 1, 1, 1], budget);
            assert!(shares[0] >= budget.div_ceil(2), "{shares:?}");
        }
    }
}
