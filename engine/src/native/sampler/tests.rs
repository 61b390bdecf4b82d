use super::*;

fn sampler(params: SamplingParams) -> Sampler {
    Sampler::new(&params, 0, &[])
}

fn draws(params: &SamplingParams, logits: &[f32], count: usize) -> Vec<u32> {
    let mut sampler = sampler(params.clone());
    (0..count)
        .map(|_| sampler.next(&mut logits.to_vec(), None).unwrap())
        .collect()
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let mut sampler = sampler(SamplingParams::greedy());
    assert_eq!(sampler.next(&mut [1.0, 3.0, 3.0, 2.0], None), Some(1));
}

#[test]
fn what_is_not_finite_is_no_token() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for params in [SamplingParams::greedy(), SamplingParams::default()] {
            assert_eq!(sampler(params).next(&mut [1.0, bad, 3.0], None), None);
        }
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [0.0, 1.0, 2.0, -1.0];
    let params = SamplingParams {
        temperature: 0.7,
        seed: 5,
        ..SamplingParams::default()
    };
    let count = 20_000;
    let drawn = draws(&params, &logits, count);
    let weights: Vec<f64> = logits.iter().map(|l| f64::from(l / 0.7).exp()).collect();
    let total: f64 = weights.iter().sum();
    for (token, weight) in (0u32..).zip(&weights) {
        let expected = weight / total;
        let found = drawn.iter().filter(|&&t| t == token).count() as f64 / count as f64;
        let sigma = (expected * (1.0 - expected) / count as f64).sqrt();
        assert!(
            (found - expected).abs() < 4.5 * sigma,
            "{token}: {found} against {expected}"
        );
    }
}

#[test]
fn what_probabilities_lack_of_1_is_not_the_last_tokens() {
    // add up to 0.9; the last is next to impossible
    let candidates = [(0, 0.45), (1, 0.45), (2, 1e-12)];
    let picked = |uniform| pick(candidates.into_iter(), uniform);
    assert_eq!(picked(0.0), Some(0));
    assert_eq!(picked(0.499), Some(0));
    assert_eq!(picked(0.501), Some(1));
    assert_eq!(picked(0.999_999), Some(1));
    assert_eq!(pick([(0, 0.0)].into_iter(), 0.5), None);
}

#[test]
fn cut_offs_leave_only_the_likely() {
    let logits: Vec<f32> = (0..600).map(|i| 4.0 - 0.5 * (i as f32)).collect();
    let params = SamplingParams {
        temperature: 2.0,
        ..SamplingParams::default()
    };
    let seen = |params: &SamplingParams| draws(params, &logits, 2000).into_iter().max().unwrap();
    assert_eq!(
        seen(&SamplingParams {
            top_k: 3,
            ..params.clone()
        }),
        2
    );
    // shares fall by e^(1/4): 0.22, 0.17, 0.13 …
    assert_eq!(
        seen(&SamplingParams {
            top_p: 0.5,
            ..params.clone()
        }),
        2
    );
    assert_eq!(
        seen(&SamplingParams {
            min_p: 0.3,
            ..params.clone()
        }),
        4
    );
    assert!(seen(&params) > 10);
}

#[test]
fn a_flat_distribution_with_top_p_is_not_cut_short() {
    let logits = vec![1.0; 5000];
    let params = SamplingParams {
        top_p: 0.5,
        ..SamplingParams::default()
    };
    let drawn = draws(&params, &logits, 3000);
    assert!(*drawn.iter().max().unwrap() > 2300 && *drawn.iter().max().unwrap() <= 2500);
}

#[test]
fn the_same_seed_draws_the_same_and_choices_differ() {
    let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32 / 3.0).collect();
    let params = SamplingParams {
        seed: 11,
        ..SamplingParams::default()
    };
    assert_eq!(draws(&params, &logits, 50), draws(&params, &logits, 50));
    let mut other = Sampler::new(&params, 1, &[]);
    let other: Vec<u32> = (0..50)
        .map(|_| other.next(&mut logits.clone(), None).unwrap())
        .collect();
    assert_ne!(draws(&params, &logits, 50), other);
}

#[test]
fn penalties_and_biases_move_logits() {
    let params = SamplingParams {
        frequency_penalty: 1.0,
        presence_penalty: 0.5,
        ..SamplingParams::greedy()
    };
    // 3.0, then 3.0 − 1.5, then 3.0 − 2.5 …
    assert_eq!(draws(&params, &[3.0, 2.0, 1.0], 4), [0, 1, 0, 2]);
    let params = SamplingParams {
        logit_bias: BTreeMap::from([(2, 5.0), (9999, 1.0)]),
        ..SamplingParams::greedy()
    };
    assert_eq!(draws(&params, &[3.0, 2.0, 1.0], 2), [2, 2]);
    let params = SamplingParams {
        repetition_penalty: 2.0,
        ..SamplingParams::greedy()
    };
    assert_eq!(draws(&params, &[3.0, 2.0, 1.0], 3), [0, 1, 0]);
    let mut seen = Sampler::new(&params, 0, &[0, 0]);
    assert_eq!(seen.next(&mut [3.0, 2.0, 1.0], None), Some(1));
}

#[test]
fn log_probabilities_are_of_the_whole_distribution() {
    let logits = [0.0f32, 2.0, 1.0, 2.0];
    let total = logits.iter().map(|l| l.exp()).sum::<f32>().ln();
    let found = logprobs(&logits, 2, 3);
    assert!((found.chosen - (1.0 - total)).abs() < 1e-6);
    let tokens: Vec<u32> = found.top.iter().map(|t| t.0).collect();
    assert_eq!(tokens, [1, 3, 2]);
    assert!(logprobs(&logits, 2, 0).top.is_empty());
}

#[test]
fn only_what_is_allowed_is_chosen_and_by_its_own_share() {
    let logits = [5.0, 1.0, f32::ln(3.0), 0.0, 4.0];
    let mut greedy = sampler(SamplingParams::greedy());
    assert_eq!(greedy.next(&mut logits.clone(), Some(&[1, 2, 3])), Some(2));
    assert_eq!(greedy.next(&mut logits.clone(), Some(&[])), None);
    // an id without a logit ends the list
    assert_eq!(greedy.next(&mut logits.clone(), Some(&[3, 99])), Some(3));
    let params = SamplingParams {
        seed: 9,
        ..SamplingParams::default()
    };
    let mut drawn = sampler(params.clone());
    let count = 20_000;
    let threes = (0..count)
        .map(|_| drawn.next(&mut logits.clone(), Some(&[2, 3])).unwrap())
        .inspect(|token| assert!(matches!(token, 2 | 3)))
        .filter(|token| *token == 2)
        .count();
    // 3 to 1; four sigma are 0.012
    assert!((f64::from(u32::try_from(threes).unwrap()) / f64::from(count) - 0.75).abs() < 0.013);
    let all: Vec<u32> = (0..5).collect();
    let (mut with, mut without) = (sampler(params.clone()), sampler(params));
    for _ in 0..200 {
        let chosen = with.next(&mut logits.clone(), Some(&all));
        assert_eq!(chosen, without.next(&mut logits.clone(), None));
    }
}
