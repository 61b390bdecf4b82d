//! Attention against its definition, and in eight bits against what those say.

use super::*;
use crate::test_noise::noise;

const LAYOUT: KvLayout = KvLayout {
    layers: 2,
    kv_heads: 2,
    heads: 6,
    head_dim: 32,
    format: KvFormat::F32,
};
const EIGHT_BITS: KvLayout = KvLayout {
    format: KvFormat::Q8_0,
    ..LAYOUT
};

fn pages(keys: &[f32], values: &[f32], count: usize) -> Vec<KvPage> {
    pages_in(LAYOUT, keys, values, count)
}

fn pages_in(layout: KvLayout, keys: &[f32], values: &[f32], count: usize) -> Vec<KvPage> {
    let mut pages: Vec<_> = (0..count.div_ceil(PAGE_TOKENS))
        .map(|_| KvPage::new(layout, &mut Arena::with_capacity(0)))
        .collect();
    for i in 0..count {
        let width = layout.kv_heads * layout.head_dim;
        let row = i * width..(i + 1) * width;
        let (k, v) = (&keys[row.clone()], &values[row]);
        pages[i / PAGE_TOKENS].write(1, i % PAGE_TOKENS, k, v);
    }
    pages
}

fn exact(q: &[f32], keys: &[f32], values: &[f32], row: usize, head: usize) -> Vec<f64> {
    let q = &q[(row * 6 + head) * 32..][..32];
    let at = |x: &[f32], i: usize, d: usize| f64::from(x[i * 64 + head / 3 * 32 + d]);
    let weights: Vec<f64> = (0..=row)
        .map(|i| {
            (0..32)
                .map(|d| f64::from(q[d]) * at(keys, i, d))
                .sum::<f64>()
                .exp()
        })
        .collect();
    let total: f64 = weights.iter().sum();
    (0..32)
        .map(|d| {
            weights
                .iter()
                .enumerate()
                .map(|(i, w)| w / total * at(values, i, d))
                .sum()
        })
        .collect()
}

#[test]
fn attention_equals_its_definition_however_it_is_cut() {
    let count = 71;
    let (q, keys, values) = (
        noise(1, count * 192),
        noise(2, count * 64),
        noise(3, count * 64),
    );
    let pages = pages(&keys, &values, count);
    let mut whole = vec![f32::NAN; q.len()];
    let query = |first: usize, count: usize| Query {
        first_row: first,
        count,
        first_position: first,
        window: usize::MAX,
        pages: pages.iter().collect(),
    };
    attend(LAYOUT, 1, &[query(0, count)], &q, &mut whole);
    for row in 0..count {
        for head in 0..6 {
            let found = &whole[(row * 6 + head) * 32..][..32];
            for (a, b) in found.iter().zip(exact(&q, &keys, &values, row, head)) {
                assert!((f64::from(*a) - b).abs() < 1e-4);
            }
        }
    }
    let mut cut = vec![f32::NAN; q.len()];
    let queries = [query(0, 1), query(1, 30), query(31, 1), query(32, 39)];
    attend(LAYOUT, 1, &queries, &q, &mut cut);
    assert_eq!(whole, cut);
}

#[test]
fn in_a_window_the_last_positions_alone_count() {
    let (count, window) = (71, 33);
    let (q, keys, values) = (
        noise(1, count * 192),
        noise(2, count * 64),
        noise(3, count * 64),
    );
    let run = |first: usize, end: usize, window: usize, start: usize| {
        let pages = pages(&keys[start * 64..], &values[start * 64..], count - start);
        let query = Query {
            first_row: 0,
            count: end - first,
            first_position: first - start,
            window,
            pages: pages.iter().collect(),
        };
        let mut out = vec![f32::NAN; (end - first) * 192];
        attend(LAYOUT, 1, &[query], &q[first * 192..end * 192], &mut out);
        out
    };
    let all = run(0, count, window, 0);
    assert_eq!(all[..window * 192], run(0, window, usize::MAX, 0));
    for row in window..count {
        let alone = run(row, row + 1, usize::MAX, row + 1 - window);
        let found = &all[row * 192..(row + 1) * 192];
        for (a, b) in found.iter().zip(&alone) {
            assert!((a - b).abs() < 1e-5, "{row}: {a} against {b}");
        }
        assert_eq!(found, run(row, row + 1, window, 0), "cut at {row}");
    }
}

#[test]
fn what_another_sequence_left_in_a_page_is_not_seen() {
    let (q, keys, values) = (noise(1, 5 * 192), noise(2, 5 * 64), noise(3, 5 * 64));
    let clean = pages(&keys, &values, 5);
    let mut dirty = pages(&keys, &values, 5);
    for slot in 5..PAGE_TOKENS {
        dirty[0].write(1, slot, &[f32::NAN; 64], &[f32::INFINITY; 64]);
    }
    let run = |pages: &[KvPage]| {
        let mut out = vec![0.0; q.len()];
        let pages = pages.iter().collect();
        let query = Query {
            first_row: 0,
            count: 5,
            first_position: 0,
            window: usize::MAX,
            pages,
        };
        attend(LAYOUT, 1, &[query], &q, &mut out);
        out
    };
    assert_eq!(run(&clean), run(&dirty));
}

/// What a page in eight bits says of some positions, `[count, kv_heads · head_dim]`.
fn kept(layout: KvLayout, pages: &[KvPage], count: usize) -> [Vec<f32>; 2] {
    let (dim, width) = (layout.head_dim, layout.kv_heads * layout.head_dim);
    let mut all = [vec![0.0; count * width], vec![0.0; count * width]];
    for i in 0..count {
        let (page, slot) = (&pages[i / PAGE_TOKENS], i % PAGE_TOKENS);
        for head in 0..layout.kv_heads {
            let start = i * width + head * dim;
            page.with_keys(1, head, |panels| {
                let panel = if slot < GROUP { panels.0 } else { panels.1 };
                for (out, row) in all[0][start..start + dim].iter_mut().zip(panel) {
                    *out = row.0[slot % GROUP];
                }
            });
            for first in (0..dim).step_by(2 * GROUP) {
                page.with_values((1, head, first), slot + 1, |panels| {
                    let row = panels.0[slot].0.iter().chain(&panels.1[slot].0);
                    let end = (first + 2 * GROUP).min(dim);
                    for (out, v) in all[1][start + first..start + end].iter_mut().zip(row) {
                        *out = *v;
                    }
                });
            }
        }
    }
    all
}

#[test]
fn eight_bits_are_read_as_they_were_written_however_it_is_cut() {
    // heads that are whole blocks, less than one, and one and a half
    for head_dim in [32, 16, 48, 64] {
        let layout = KvLayout {
            head_dim,
            ..EIGHT_BITS
        };
        let plain = KvLayout {
            format: KvFormat::F32,
            ..layout
        };
        let (count, width) = (71, layout.kv_heads * head_dim);
        let q = noise(1, count * layout.heads * head_dim);
        let (keys, values) = (noise(2, count * width), noise(3, count * width));
        let eight = pages_in(layout, &keys, &values, count);
        let [kept_keys, kept_values] = kept(layout, &eight, count);
        for (kept, exact) in [(&kept_keys, &keys), (&kept_values, &values)] {
            let error = |(a, b): (&f32, &f32)| (a - b).abs();
            let most = kept.iter().zip(exact).map(error).fold(0.0, f32::max);
            assert!(most > 0.0 && most <= 0.5 / 127.0 + 1e-5, "{most}");
        }
        let plain_pages = pages_in(plain, &kept_keys, &kept_values, count);
        let run = |layout, pages: &[KvPage], cuts: &[usize]| {
            let mut out = vec![f32::NAN; q.len()];
            let query = |ends: &[usize]| Query {
                first_row: ends[0],
                count: ends[1] - ends[0],
                first_position: ends[0],
                window: usize::MAX,
                pages: pages.iter().collect(),
            };
            let queries: Vec<_> = cuts.windows(2).map(query).collect();
            attend(layout, 1, &queries, &q, &mut out);
            out
        };
        let whole = run(layout, &eight, &[0, count]);
        assert_eq!(whole, run(plain, &plain_pages, &[0, count]), "{head_dim}");
        assert_eq!(whole, run(layout, &eight, &[0, 1, 31, 32, count]));
    }
}

#[test]
fn what_another_sequence_left_in_eight_bits_is_not_seen() {
    let (q, keys, values) = (noise(1, 5 * 192), noise(2, 5 * 64), noise(3, 5 * 64));
    let clean = pages_in(EIGHT_BITS, &keys, &values, 5);
    let mut dirty = pages_in(EIGHT_BITS, &keys, &values, 5);
    for slot in 5..PAGE_TOKENS {
        dirty[0].write(1, slot, &[f32::NAN; 64], &[f32::INFINITY; 64]);
    }
    let run = |pages: &[KvPage]| {
        let mut out = vec![0.0; q.len()];
        let query = Query {
            first_row: 0,
            count: 5,
            first_position: 0,
            window: usize::MAX,
            pages: pages.iter().collect(),
        };
        attend(EIGHT_BITS, 1, &[query], &q, &mut out);
        out
    };
    assert_eq!(run(&clean), run(&dirty));
}

#[test]
fn eight_bits_take_little_more_than_a_quarter() {
    let real = KvLayout {
        layers: 30,
        kv_heads: 3,
        heads: 9,
        head_dim: 64,
        format: KvFormat::F32,
    };
    let eight = KvLayout {
        format: KvFormat::Q8_0,
        ..real
    };
    // 34 bytes for 32 elements instead of 128
    assert_eq!(eight.page_bytes() * 128, real.page_bytes() * 34);
}
