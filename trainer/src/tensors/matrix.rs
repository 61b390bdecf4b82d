//! A frozen matrix on a device, and its product.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Error, Layout, Result, Shape, Storage, Tensor,
};
use model::DeviceMatrix;
use model::quant::QuantMatrix;

use super::Tensors;

/// A matrix, `[rows, cols]`. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Matrix(DeviceMatrix);

/// `x · Wᵀ`; W gets no gradient.
struct FrozenProduct(Matrix);

impl Matrix {
    pub(super) fn load(on: &Tensors, matrix: &QuantMatrix) -> Result<Self> {
        DeviceMatrix::load(matrix, &on.device, on.dtype).map(Self)
    }

    /// Its numbers in a type, on its device.
    pub(super) fn values(&self, dtype: DType) -> Result<Tensor> {
        match &self.0 {
            DeviceMatrix::Blocks(blocks) => blocks.dequantize(&blocks.device())?.to_dtype(dtype),
            DeviceMatrix::Plain(values) => values.to_dtype(dtype),
        }
    }

    /// `x · Wᵀ`, `[n, rows]`, for a contiguous `x`, `[n, cols]`; in x's type.
    pub(super) fn multiply(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1(FrozenProduct(self.clone()))
    }
}

impl FrozenProduct {
    /// The product on a device, given how the matrix is found in a storage of it.
    fn product<S: BackendStorage>(
        &self,
        x: &S,
        layout: &Layout,
        of: impl Fn(&Storage) -> Option<&S>,
    ) -> Result<(S, Shape)> {
        let values = self.0.values(x.dtype())?;
        let (storage, values_layout) = values.storage_and_layout();
        let storage: &Storage = &storage;
        let Some(values) = of(storage) else {
            return Err(Error::Msg("a matrix is on another device than its input".into()).bt());
        };
        let ((n, cols), (rows, _)) = (layout.shape().dims2()?, values_layout.shape().dims2()?);
        let transposed = values_layout.transpose(0, 1)?;
        let y = x.matmul(values, (1, n, rows, cols), layout, &transposed)?;
        Ok((y, (n, rows).into()))
    }
}

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.product(x, layout, |storage| match storage {
            Storage::Cpu(values) => Some(values),
            _ => None,
        })
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.product(x, layout, |storage| match storage {
            Storage::Cuda(values) => Some(values),
            _ => None,
        })
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let values = self.0.values(dy.dtype())?;
        dy.contiguous()?.matmul(&values).map(Some)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Device;
    use model::quant::Format;

    use super::*;
    use crate::ops::check::{finite_differences, random};
    use crate::ops::tensor;

    fn on() -> Tensors {
        Tensors::new(Device::Cpu, DType::F32)
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        for format in [Format::F32, Format::Q8_0] {
            let weight = QuantMatrix::quantize_from_f32(format, 8, 32, &random(1, 8 * 32)).unwrap();
            let matrix = Matrix::load(&on(), &weight).unwrap();
            let x = tensor(random(2, 3 * 32), (3, 32)).unwrap();
            finite_differences(&[x], |x| matrix.multiply(&x[0]));
        }
    }

    #[test]
    fn every_format_has_the_values_that_ours_has() {
        for format in Format::ALL {
            let (rows, cols) = (3, 256);
            let Ok(weight) =
                QuantMatrix::quantize_from_f32(format, rows, cols, &random(3, rows * cols))
            else {
                continue; // formats that are only read
            };
            let mut ours = vec![0.0; rows * cols];
            weight.dequantize_rows(0..rows, &mut ours);
            let theirs = Matrix::load(&on(), &weight).unwrap().values(DType::F32);
            let theirs = theirs
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            for (a, b) in ours.iter().zip(&theirs) {
                assert!((a - b).abs() < 1e-5, "{format:?}: {a} is not {b}");
            }
        }
    }
}
