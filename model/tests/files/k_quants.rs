//! Super-blocks against the weights that ggml's Python package makes of them
//! (`make_k_quant_golden.py`).

use model::quant::{Format, QuantMatrix};
use safetensors::SafeTensors;

use crate::golden;

const FORMATS: [Format; 5] = [
    Format::Q2K,
    Format::Q3K,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
];

#[test]
fn weights_of_super_blocks_are_ggmls_bit_for_bit() {
    let file = std::fs::read(golden("k_quants.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for format in FORMATS {
        let blocks = tensors
            .tensor(&format!("{}.blocks", format.name()))
            .unwrap();
        let expected = tensors
            .tensor(&format!("{}.weights", format.name()))
            .unwrap();
        let (rows, cols) = (expected.shape()[0], expected.shape()[1]);
        let matrix = QuantMatrix::new(format, rows, cols, blocks.data().to_vec().into()).unwrap();
        let mut weights = vec![f32::NAN; rows * cols];
        matrix.dequantize_rows(0..rows, &mut weights);
        let expected = expected.data().as_chunks::<4>().0;
        assert_eq!(expected.len(), weights.len());
        for (i, (found, expected)) in weights.iter().zip(expected).enumerate() {
            let expected = f32::from_le_bytes(*expected);
            assert_eq!(found, &expected, "{} {i}", format.name());
        }
    }
}

#[test]
fn columns_for_the_gradient_are_the_same_weights() {
    let file = std::fs::read(golden("k_quants.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for format in FORMATS {
        let blocks = tensors
            .tensor(&format!("{}.blocks", format.name()))
            .unwrap();
        let matrix = QuantMatrix::new(format, 2, 768, blocks.data().to_vec().into()).unwrap();
        let mut weights = vec![f32::NAN; 2 * 768];
        matrix.dequantize_rows(0..2, &mut weights);
        let mut dx = vec![f32::NAN; 2 * 768];
        matrix.matmul_transposed_f32(&[1.0, 0.0, 0.0, 1.0], 2, &mut dx);
        assert_eq!(weights, dx, "{}", format.name());
    }
}
