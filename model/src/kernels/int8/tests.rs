use proptest::prelude::*;

use super::*;
use crate::kernels::Terms;
use crate::kernels::memory::Span;
use crate::kernels::project::project_at;
use crate::quant::{Format, QuantMatrix};
use crate::test_noise::noise;

const QUANTIZED: [Format; 5] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
];

fn product(level: Level, matrix: &QuantMatrix, x: &[f32], n: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; n * matrix.rows()];
    project_at(
        level,
        &[matrix],
        (x, n),
        &mut [&mut y],
        Some(Passes::One),
        Terms::default(),
    );
    y
}

/// Matrices whose parts are not split evenly among threads, one without 8-bit products.
#[test]
fn what_is_announced_changes_nothing() {
    let matrix = |format, rows| {
        QuantMatrix::quantize_from_f32(format, rows, 64, &noise(rows as u64, rows * 64)).unwrap()
    };
    let (x, first) = (noise(3, 2 * 64), matrix(Format::Q4_1, 100));
    let alone = product(Level::detect(), &first, &x, 2);
    let next = [
        matrix(Format::Q8_0, 17),
        matrix(Format::Q4_1, 200),
        matrix(Format::F16, 64),
    ];
    let mut team = crate::kernels::Team::new(3, "test").unwrap();
    for count in 0..=next.len() {
        let next: Vec<_> = next[..count].iter().collect();
        let terms = Terms {
            next: &next,
            ..Terms::default()
        };
        let mut y = vec![f32::NAN; alone.len()];
        let outputs = &mut [y.as_mut_slice()];
        let project = || {
            let (level, passes) = (Level::detect(), Some(Passes::One));
            project_at(level, &[&first], (&x, 2), outputs, passes, terms);
        };
        team.lead(project);
        assert_eq!(y, alone);
    }
}

/// Ten times what one group's steps fetch by a line each: a tenth of it is gone then.
#[test]
fn a_group_takes_as_many_steps_as_are_counted() {
    let matrix = QuantMatrix::quantize_from_f32(Format::Q4_1, 16, 96, &noise(5, 16 * 96)).unwrap();
    let packed = matrix.packed().unwrap();
    // of the scalar level nothing is counted, and NEON fetches nothing
    let fetches = |level: &&Level| !matches!(level, Level::Scalar) && cfg!(target_arch = "x86_64");
    for &level in Level::available().iter().filter(fetches) {
        for n in 1..20 {
            let x = noise(6, n * 96);
            let x = Activations::quantize((&x, n, 96), Passes::One);
            let lines = vec![[0i8; 16]; 10 * 64 / 16 * steps_of(packed, &x)];
            let mut ahead = Ahead::of(std::iter::empty());
            ahead.begin(std::iter::once(Span::of(&lines)), 1, 1);
            ahead.spread(10, steps_of(packed, &x));
            let mut y = vec![0.0; n * 16];
            let y = SharedOutput::new(&mut y, 16);
            // SAFETY: there is no other task, and the level is available.
            unsafe { matmul_group(level, packed, 0, (&x, 0..n), &mut ahead, &y) };
            assert_eq!(
                ahead.left(),
                9 * 64 * steps_of(packed, &x),
                "{level:?}, {n} rows"
            );
        }
    }
}

proptest! {
    #[test]
    fn every_level_gives_the_bits_of_the_scalar_one(
        format in proptest::sample::select(&QUANTIZED), rows in 1usize..70, blocks in 1usize..5,
        n in 1usize..20, seed: u64,
    ) {
        let matrix = QuantMatrix::quantize_from_f32(
            format, rows, blocks * 32, &noise(seed, rows * blocks * 32)).unwrap();
        let x = noise(seed ^ 1, n * blocks * 32);
        let expected = product(Level::Scalar, &matrix, &x, n);
        for &level in Level::available() {
            let found = product(level, &matrix, &x, n);
            prop_assert!(expected.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()), "{level:?}");
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch(
        format in proptest::sample::select(&QUANTIZED), n in 2usize..20, seed: u64,
    ) {
        let (rows, cols) = (40, 96);
        let matrix = QuantMatrix::quantize_from_f32(format, rows, cols, &noise(seed, rows * cols)).unwrap();
        let x = noise(seed ^ 1, n * cols);
        let batch = product(Level::detect(), &matrix, &x, n);
        for i in 0..n {
            let alone = product(Level::detect(), &matrix, &x[i * cols..(i + 1) * cols], 1);
            prop_assert_eq!(&batch[i * rows..(i + 1) * rows], &alone[..]);
        }
    }
}

#[test]
fn extreme_codes_do_not_saturate() {
    for format in QUANTIZED {
        let matrix = QuantMatrix::quantize_from_f32(
            format,
            32,
            64,
            &(0..32 * 64)
                .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
                .collect::<Vec<_>>(),
        )
        .unwrap();
        let x: Vec<f32> = (0..64)
            .map(|i| if i % 2 == 0 { 5.0 } else { -5.0 })
            .collect();
        let mut exact = vec![0.0; 32];
        matrix.matmul(&x, 1, &mut exact, crate::quant::Precision::F32);
        for &level in Level::available() {
            for (found, exact) in product(level, &matrix, &x, 1).iter().zip(&exact) {
                assert!(
                    (found - exact).abs() < 0.01 * exact.abs(),
                    "{format:?} {level:?}"
                );
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_stays_so() {
    let matrix = QuantMatrix::quantize_from_f32(Format::Q4_1, 16, 32, &noise(3, 512)).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = vec![0.5; 32];
        x[7] = bad;
        assert!(
            product(Level::detect(), &matrix, &x, 1)
                .iter()
                .all(|y| !y.is_finite())
        );
    }
}
