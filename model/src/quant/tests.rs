use super::*;
use crate::kernels::Terms;
use crate::test_noise::noise;

/// Formats that are written as well as read.
fn written() -> impl Iterator<Item = Format> {
    Format::ALL
        .into_iter()
        .filter(|f| !f.is_k_quant() || *f == Format::Q4K)
}

/// A matrix of any format: weights rounded to it, or super-blocks of random
/// codes with the given scale in every f16.
fn matrix(format: Format, rows: usize, cols: usize) -> QuantMatrix {
    if !format.is_k_quant() {
        let weights = noise(1, rows * cols);
        return QuantMatrix::quantize_from_f32(format, rows, cols, &weights).unwrap();
    }
    let scale = half::f16::from_f32(1e-3).to_le_bytes();
    let halves: &[usize] = match format {
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
        _ => &[0, 2],
    };
    let len = format.byte_len(rows, cols).unwrap();
    let mut bytes: Vec<u8> = noise(1, len)
        .iter()
        .map(|v| (v * 1e4) as i32 as u8)
        .collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for &at in halves {
            block[at..at + 2].copy_from_slice(&scale);
        }
    }
    QuantMatrix::new(format, rows, cols, bytes.into()).unwrap()
}

/// Largest step between neighbouring codes for weights in [-1, 1].
fn step(format: Format) -> f32 {
    match format {
        Format::F32 => 1e-9,
        Format::F16 => 1e-3,
        Format::Bf16 => 8e-3,
        Format::Q4_0 | Format::Q4_1 | Format::Q4K => 0.15,
        Format::Q5_0 | Format::Q5_1 => 0.07,
        Format::Q8_0 => 0.009,
        _ => panic!("{format:?} is not written"),
    }
}

#[test]
fn every_format_keeps_weights_within_a_step() {
    for format in written() {
        let weights = noise(7, 3 * 256);
        let matrix = QuantMatrix::quantize_from_f32(format, 3, 256, &weights).unwrap();
        let mut back = vec![0.0; 2 * 256];
        matrix.dequantize_rows(1..3, &mut back);
        for (a, b) in weights[256..].iter().zip(&back) {
            assert!((a - b).abs() <= step(format), "{format:?}: {a} became {b}");
        }
    }
}

#[test]
fn f32_products_equal_the_sums_they_stand_for() {
    for format in Format::ALL {
        let (rows, cols, n) = (50, if format.is_k_quant() { 512 } else { 64 }, 19);
        let matrix = matrix(format, rows, cols);
        let mut w = vec![0.0; rows * cols];
        matrix.dequantize_rows(0..rows, &mut w);
        let x = noise(2, n * cols);
        let mut y = vec![f32::NAN; n * rows];
        matrix.matmul(&x, n, &mut y, Precision::F32);
        let dy = noise(3, n * rows);
        let mut dx = vec![f32::NAN; n * cols];
        matrix.matmul_transposed_f32(&dy, n, &mut dx);
        for i in 0..n {
            for r in 0..rows {
                let sum: f64 = (0..cols)
                    .map(|c| f64::from(x[i * cols + c]) * f64::from(w[r * cols + c]))
                    .sum();
                assert!(
                    (sum - f64::from(y[i * rows + r])).abs() < 1e-4,
                    "{format:?}"
                );
            }
            for c in 0..cols {
                let sum: f64 = (0..rows)
                    .map(|r| f64::from(dy[i * rows + r]) * f64::from(w[r * cols + c]))
                    .sum();
                assert!(
                    (sum - f64::from(dx[i * cols + c])).abs() < 1e-4,
                    "{format:?}"
                );
            }
        }
    }
}

#[test]
fn a_tall_matrix_is_transposed_in_parts() {
    let (rows, cols, n) = (2100, 48, 3);
    let matrix =
        QuantMatrix::quantize_from_f32(Format::F32, rows, cols, &noise(1, rows * cols)).unwrap();
    let w = noise(1, rows * cols);
    let dy = noise(3, n * rows);
    let mut dx = vec![f32::NAN; n * cols];
    matrix.matmul_transposed_f32(&dy, n, &mut dx);
    for i in 0..n {
        for c in 0..cols {
            let sum: f64 = (0..rows)
                .map(|r| f64::from(dy[i * rows + r]) * f64::from(w[r * cols + c]))
                .sum();
            assert!((sum - f64::from(dx[i * cols + c])).abs() < 1e-3);
        }
    }
}

#[test]
fn int8_products_are_close_to_f32_ones() {
    for format in [
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
    ] {
        let (rows, cols, n) = (48, 576, 5);
        let matrix =
            QuantMatrix::quantize_from_f32(format, rows, cols, &noise(1, rows * cols)).unwrap();
        let x = noise(2, n * cols);
        let (mut exact, mut fast) = (vec![0.0; n * rows], vec![0.0; n * rows]);
        matrix.matmul(&x, n, &mut exact, Precision::F32);
        matrix.matmul(&x, n, &mut fast, Precision::Int8);
        for (a, b) in exact.iter().zip(&fast) {
            assert!((a - b).abs() < 0.15, "{format:?}: {a} against {b}");
        }
        matrix.matmul(&x, n, &mut fast, Precision::Int8Twice);
        for (a, b) in exact.iter().zip(&fast) {
            assert!((a - b).abs() < 0.001, "{format:?}: {a} against {b}");
        }
    }
}

#[test]
fn k_quants_with_8_bit_activations_are_computed_in_f32() {
    for format in Format::ALL.into_iter().filter(|f| f.is_k_quant()) {
        let (rows, cols, n) = (17, 256, 3);
        let matrix = matrix(format, rows, cols);
        let x = noise(2, n * cols);
        let (mut exact, mut fast) = (vec![0.0; n * rows], vec![f32::NAN; n * rows]);
        matrix.matmul(&x, n, &mut exact, Precision::F32);
        for precision in [Precision::Int8, Precision::Int8Twice] {
            matrix.matmul(&x, n, &mut fast, precision);
            assert_eq!(exact, fast, "{format:?}");
        }
        assert!(exact.iter().any(|v| *v != 0.0));
        if format == Format::Q4K {
            continue;
        }
        let error = QuantMatrix::quantize_from_f32(format, rows, cols, &vec![0.0; rows * cols]);
        assert!(error.is_err(), "{format:?} is only read");
    }
}

#[test]
fn wrong_sizes_are_refused() {
    for (rows, cols, len) in [
        (2, 33, 40),
        (2, 32, 39),
        (2, 32, 41),
        (0, 32, 0),
        (usize::MAX, 64, 40),
    ] {
        assert!(QuantMatrix::new(Format::Q4_1, rows, cols, vec![0; len].into()).is_err());
    }
}

#[test]
fn many_products_equal_single_ones() {
    let x = noise(5, 7 * 64);
    let matrices: Vec<_> = [16usize, 40, 3]
        .iter()
        .map(|&rows| {
            QuantMatrix::quantize_from_f32(Format::Q4_1, rows, 64, &noise(9, rows * 64)).unwrap()
        })
        .collect();
    let mut ys: Vec<Vec<f32>> = matrices.iter().map(|m| vec![0.0; 7 * m.rows()]).collect();
    let refs: Vec<&QuantMatrix> = matrices.iter().collect();
    let mut outs: Vec<&mut [f32]> = ys.iter_mut().map(Vec::as_mut_slice).collect();
    matmul_many(&refs, (&x, 7), &mut outs, Precision::Int8, Terms::default());
    for (matrix, y) in matrices.iter().zip(&ys) {
        let mut alone = vec![0.0; y.len()];
        matrix.matmul(&x, 7, &mut alone, Precision::Int8);
        assert_eq!(&alone, y);
    }
}
