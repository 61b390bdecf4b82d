//! A matrix of a base model in candle's storage, for whoever computes on a device.
//! Knows no products.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Error, Result, Tensor};

use crate::quant::{Format, QuantMatrix};

/// The strictest alignment of the formats' values.
const ALIGNMENT: usize = 4;

/// A matrix, `[rows, cols]`, on a device. Cloning is cheap.
#[derive(Clone)]
pub enum DeviceMatrix {
    /// The file's blocks.
    Blocks(Arc<QTensor>),
    /// Numbers.
    Plain(Tensor),
}

impl DeviceMatrix {
    /// Copies a matrix to a device: a quantized one as its blocks, any other as
    /// numbers of the type `dtype`.
    ///
    /// # Errors
    /// The device's, and where the blocks lie so in memory that candle cannot read
    /// them.
    pub fn load(matrix: &QuantMatrix, device: &Device, dtype: DType) -> Result<Self> {
        let (shape, bytes) = ([matrix.rows(), matrix.cols()], matrix.bytes());
        let plain = |stored| {
            let tensor = Tensor::from_raw_buffer(bytes, stored, &shape, &Device::Cpu)?;
            tensor.to_dtype(dtype)?.to_device(device).map(Self::Plain)
        };
        let blocks = match matrix.format() {
            Format::F32 => return plain(DType::F32),
            Format::F16 => return plain(DType::F16),
            Format::Bf16 => return plain(DType::BF16),
            Format::Q4_0 => GgmlDType::Q4_0,
            Format::Q4_1 => GgmlDType::Q4_1,
            Format::Q5_0 => GgmlDType::Q5_0,
            Format::Q5_1 => GgmlDType::Q5_1,
            Format::Q8_0 => GgmlDType::Q8_0,
            Format::Q2K => GgmlDType::Q2K,
            Format::Q3K => GgmlDType::Q3K,
            Format::Q4K => GgmlDType::Q4K,
            Format::Q5K => GgmlDType::Q5K,
            Format::Q6K => GgmlDType::Q6K,
        };
        // candle panics where ours would read byte by byte
        if !bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(Error::Msg(format!(
                "a {matrix:?} does not begin at a multiple of {ALIGNMENT} bytes"
            )));
        }
        let storage = QStorage::from_data(bytes.into(), device, blocks)?;
        Ok(Self::Blocks(Arc::new(QTensor::new(storage, &shape[..])?)))
    }
}
