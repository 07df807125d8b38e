//! Signal and noise power of a quantization.

use crate::quantization::statistics::ErrorSums;
use serde::{Deserialize, Serialize};

/// Signal and noise power of quantized elements, which is what SQNR needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Σx²
    pub signal: f64,
    /// Σ(x−x̂)²
    pub noise: f64,
}

impl Loss {
    /// Adds the loss of other elements.
    pub fn merge(&mut self, next: &Loss) {
        self.signal += next.signal;
        self.noise += next.noise;
    }

    /// The relative noise power Σ(x−x̂)² / Σx²; 0 if there is no noise.
    pub fn noise_share(&self) -> f64 {
        if self.noise == 0.0 { 0.0 } else { self.noise / self.signal }
    }

    /// The signal-to-quantization-noise ratio in dB, 10·log10(Σx² / Σ(x−x̂)²); infinite if there
    /// is no noise.
    pub fn sqnr_db(&self) -> f64 {
        10.0 * self.sqnr().log10()
    }

    /// The signal-to-quantization-noise ratio Σx² / Σ(x−x̂)²; infinite if there is no noise.
    pub fn sqnr(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { self.signal / self.noise }
    }
}

impl From<&ErrorSums> for Loss {
    fn from(sums: &ErrorSums) -> Loss {
        Loss { signal: sums.signal, noise: sums.noise }
    }
}
