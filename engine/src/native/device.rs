//! Where a model is computed, as configurations name it.
//!
//! Every name is always known, so that a program without the code for one can
//! say what it lacks.

use std::fmt;
use std::str::FromStr;

/// The device of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Device {
    /// This machine's CPU, by the kernels of [`model::kernels`].
    #[default]
    Cpu,
    /// This machine's CPU, by the code for CUDA: how that is tested without a
    /// GPU. Needs the cargo feature `candle`.
    Candle {
        /// Computes in BF16, as CUDA does, and not in f32.
        bf16: bool,
    },
    /// The NVIDIA GPU with this number. Needs the cargo feature `cuda`.
    Cuda(usize),
}

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device; there are \"cpu\" and \"cuda:0\", \"cuda:1\" and so on")]
pub struct UnknownDevice(String);

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.strip_prefix("cuda:")?.parse().ok();
        match text {
            "cpu" => Ok(Self::Cpu),
            "candle" => Ok(Self::Candle { bf16: false }),
            "candle-bf16" => Ok(Self::Candle { bf16: true }),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match number(text) {
                Some(number) => Ok(Self::Cuda(number)),
                None => Err(UnknownDevice(text.to_owned())),
            },
        }
    }
}

impl TryFrom<String> for Device {
    type Error = UnknownDevice;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Candle { bf16: false } => f.write_str("candle"),
            Self::Candle { bf16: true } => f.write_str("candle-bf16"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for device in [
            Device::Cpu,
            Device::Candle { bf16: false },
            Device::Candle { bf16: true },
            Device::Cuda(0),
            Device::Cuda(12),
        ] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:0x1", "CPU", "cuda0"] {
            let error = text.parse::<Device>().unwrap_err();
            assert!(error.to_string().contains("cuda:0"), "{error}");
        }
    }
}
