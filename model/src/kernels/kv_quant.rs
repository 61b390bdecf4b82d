//! Keys and values of a page in eight bits: blocks of 32 elements of a head with
//! one scale each, as ggml's Q8_0 has them.
//!
//! A position is quantized on its own when it is written, so what is read does
//! not depend on its neighbours. Codes lie in the order of the f32 page's rows;
//! they become f32 rows again in the cache of the core that scores them.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::attention::{KvLayout, PAGE_TOKENS};
use super::gemm::PanelRow;
use super::memory::{Arena, Slice};
use super::multiversion::multiversion;
use crate::quant::GROUP;

/// Elements with one scale.
const BLOCK: usize = 2 * GROUP;
/// Added to a small number it rounds it to a whole one, which is then in the low bits.
const ROUND: f32 = 12_582_912.0;

type CodeRow = [i8; GROUP];

/// Blocks of a head; the last one may be shorter.
fn blocks(layout: &KvLayout) -> usize {
    layout.head_dim.div_ceil(BLOCK)
}

/// Scales of one head in a page: of its keys, then of its values.
fn head_scales(layout: &KvLayout) -> usize {
    2 * blocks(layout) * PAGE_TOKENS
}

/// Bytes of a page.
pub(super) fn page_bytes(layout: &KvLayout) -> usize {
    let heads = layout.layers * layout.kv_heads;
    Arena::slice_bytes::<CodeRow>(heads * layout.head_rows())
        + Arena::slice_bytes::<f16>(heads * head_scales(layout))
}

/// The codes and scales of a page.
pub(super) struct QuantPage {
    codes: Slice<CodeRow>,
    /// For each layer and head: of keys `[2][blocks][16 positions]`, of values
    /// `[blocks][32 positions]`.
    scales: Slice<f16>,
}

impl QuantPage {
    pub(super) fn new(layout: &KvLayout, arena: &mut Arena) -> Self {
        let heads = layout.layers * layout.kv_heads;
        Self {
            codes: arena.zeroed(heads * layout.head_rows()),
            scales: arena.zeroed(heads * head_scales(layout)),
        }
    }

    /// Stores one head of a position; `head` counts over all layers.
    pub(super) fn write(
        &mut self,
        layout: &KvLayout,
        (head, slot): (usize, usize),
        keys: &[f32],
        values: &[f32],
    ) {
        let (dim, blocks) = (layout.head_dim, blocks(layout));
        let codes = &mut self.codes[head * layout.head_rows()..][..layout.head_rows()];
        let (key_codes, value_codes) = codes.split_at_mut(layout.key_rows());
        let scales = &mut self.scales[head * head_scales(layout)..][..head_scales(layout)];
        let (key_scales, value_scales) = scales.split_at_mut(blocks * PAGE_TOKENS);
        let (panel, lane) = (slot / GROUP, slot % GROUP);
        let mut block = [0; BLOCK];
        for (b, keys) in keys.chunks(BLOCK).enumerate() {
            key_scales[(panel * blocks + b) * GROUP + lane] = quantize(keys, &mut block);
            let rows = &mut key_codes[panel * dim + b * BLOCK..][..keys.len()];
            for (row, code) in rows.iter_mut().zip(&block) {
                row[lane] = *code;
            }
        }
        for (b, values) in values.chunks(BLOCK).enumerate() {
            value_scales[b * PAGE_TOKENS + slot] = quantize(values, &mut block);
            for (half, codes) in block.as_chunks::<GROUP>().0.iter().enumerate() {
                value_codes[(2 * b + half) * PAGE_TOKENS + slot] = *codes;
            }
        }
    }

    /// The keys of a head as `[2][head_dim]` rows of 16 positions.
    pub(super) fn expand_keys(&self, layout: &KvLayout, head: usize, out: &mut [PanelRow]) {
        let (dim, blocks) = (layout.head_dim, blocks(layout));
        let codes = &self.codes[head * layout.head_rows()..][..layout.key_rows()];
        let scales = &self.scales[head * head_scales(layout)..][..blocks * PAGE_TOKENS];
        let mut scales = scales.as_chunks::<GROUP>().0.iter();
        for (codes, out) in codes.chunks(dim).zip(out.chunks_mut(dim)) {
            for (codes, out) in codes.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
                let mut scale = [0.0; GROUP];
                if let Some(scales) = scales.next() {
                    scales.convert_to_f32_slice(&mut scale);
                }
                expand_columns(codes, &scale, out);
            }
        }
    }

    /// The first `positions` of the 32 value elements from `dim`, in two halves
    /// of [`PAGE_TOKENS`] rows.
    pub(super) fn expand_values(
        &self,
        layout: &KvLayout,
        (head, dim): (usize, usize),
        positions: usize,
        out: &mut [PanelRow],
    ) {
        let b = dim / BLOCK;
        let start = head * layout.head_rows() + layout.key_rows() + 2 * b * PAGE_TOKENS;
        let codes = &self.codes[start..][..2 * PAGE_TOKENS];
        let start = head * head_scales(layout) + (blocks(layout) + b) * PAGE_TOKENS;
        let mut scales = [0.0; PAGE_TOKENS];
        self.scales[start..][..PAGE_TOKENS].convert_to_f32_slice(&mut scales);
        let halves = codes.chunks(PAGE_TOKENS).zip(out.chunks_mut(PAGE_TOKENS));
        for (codes, out) in halves {
            expand_rows(&codes[..positions], &scales, out);
        }
    }
}

/// Writes the codes of at most 32 elements, and gives their scale: one that is
/// not a number where an element is not finite, so that nothing hides it.
fn quantize(x: &[f32], codes: &mut [i8; BLOCK]) -> f16 {
    *codes = [0; BLOCK];
    let largest = x.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    if !x.iter().all(|v| v.is_finite()) {
        return f16::NAN;
    }
    let scale = f16::from_f32((largest / 127.0).min(f16::MAX.to_f32()));
    // the codes are of the scale as it is kept
    let kept = scale.to_f32();
    if kept > 0.0 {
        let inverse = 1.0 / kept;
        for (code, v) in codes.iter_mut().zip(x) {
            *code = round((v * inverse).clamp(-127.0, 127.0));
        }
    }
    scale
}

/// The nearest whole number, of two the even one, of at most 127.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low byte is the number"
)]
fn round(v: f32) -> i8 {
    (v + ROUND).to_bits() as i8
}

multiversion! {
    /// Rows of codes whose columns have a scale each.
    fn expand_columns(codes: &[CodeRow], scales: &[f32; GROUP], out: &mut [PanelRow])
        = expand_columns_body;
}

multiversion! {
    /// Rows of codes that have a scale each.
    fn expand_rows(codes: &[CodeRow], scales: &[f32], out: &mut [PanelRow])
        = expand_rows_body;
}

#[inline(always)]
fn expand_columns_body(codes: &[CodeRow], scales: &[f32; GROUP], out: &mut [PanelRow]) {
    for (codes, out) in codes.iter().zip(out) {
        for ((v, code), scale) in out.0.iter_mut().zip(codes).zip(scales) {
            *v = f32::from(*code) * scale;
        }
    }
}

#[inline(always)]
fn expand_rows_body(codes: &[CodeRow], scales: &[f32], out: &mut [PanelRow]) {
    for ((codes, scale), out) in codes.iter().zip(scales).zip(out) {
        for (v, code) in out.0.iter_mut().zip(codes) {
            *v = f32::from(*code) * scale;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(len: usize) -> impl Strategy<Value = Vec<f32>> {
        let scale = prop_oneof![Just(1e-9f32), Just(1e-3), Just(1.0), Just(300.0), Just(1e8)];
        (scale, prop::collection::vec(-1.0f32..1.0, len))
            .prop_map(|(scale, x)| x.iter().map(|v| v * scale).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_element_is_off_by_half_a_step_at_most(x in values(32), len in 1usize..=32) {
            let mut codes = [0; BLOCK];
            let scale = quantize(&x[..len], &mut codes).to_f32();
            let largest = x[..len].iter().fold(0.0f32, |most, v| most.max(v.abs()));
            // a scale has 11 bits, and is a multiple of 2^-24; its largest is 65504
            let ideal = largest / 127.0;
            let slack = ideal / 2048.0 + 3.0e-8;
            if ideal <= 65504.0 {
                prop_assert!((scale - ideal).abs() <= slack, "{scale} {ideal}");
                for (v, code) in x[..len].iter().zip(codes) {
                    let error = (v - f32::from(code) * scale).abs();
                    let most = 0.5 * scale + 127.0 * slack;
                    prop_assert!(error <= most * 1.0001, "{v} {code} {scale}");
                }
            }
            prop_assert!(codes[len..].iter().all(|code| *code == 0));
        }

        #[test]
        fn the_forms_for_this_cpu_are_the_portable_ones(
            codes in prop::collection::vec(any::<[i8; GROUP]>(), 1..40),
            scales in prop::collection::vec(-10.0f32..10.0, 40),
        ) {
            let rows = || vec![PanelRow([f32::NAN; GROUP]); codes.len()];
            let (mut found, mut expected) = (rows(), rows());
            let equal = |a: &[PanelRow], b: &[PanelRow]| {
                let bits = |rows: &[PanelRow]| rows.iter().flat_map(|r| r.0.map(f32::to_bits)).collect::<Vec<_>>();
                bits(a) == bits(b)
            };
            expand_rows(&codes, &scales, &mut found);
            expand_rows_body(&codes, &scales, &mut expected);
            prop_assert!(equal(&found, &expected));
            let scales = scales.first_chunk().unwrap();
            expand_columns(&codes, scales, &mut found);
            expand_columns_body(&codes, scales, &mut expected);
            prop_assert!(equal(&found, &expected));
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_and_of_two_to_the_even() {
        for v in [
            -127.0f32, -126.5, -1.5, -0.5, -0.49, 0.0, 0.5, 0.51, 1.5, 2.5, 126.5, 127.0,
        ] {
            assert_eq!(f32::from(round(v)), v.round_ties_even(), "{v}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[17] = bad;
            let mut codes = [0; BLOCK];
            assert!(quantize(&x, &mut codes).is_nan());
        }
        let mut codes = [0; BLOCK];
        let scale = quantize(&[f32::MAX; 32], &mut codes);
        assert_eq!(
            (scale, codes[0]),
            (f16::MAX, 127),
            "too large is the largest"
        );
    }
}
