//! The least that tells how good a quantization is.

use crate::quantization::ErrorSums;
use serde::{Deserialize, Serialize};

/// What quantizing elements loses, in the two sums that SQNR needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Σx²
    pub signal: f64,
    /// Σ(x−x̂)²
    pub noise: f64,
}

impl Loss {
    /// Adds what other elements lose.
    pub fn merge(&mut self, next: &Loss) {
        self.signal += next.signal;
        self.noise += next.noise;
    }

    /// 10·log10(Σx² / Σ(x−x̂)²) in dB, infinite where nothing is lost.
    pub fn sqnr_db(&self) -> f64 {
        10.0 * self.sqnr().log10()
    }

    /// Σx² / Σ(x−x̂)², infinite where nothing is lost.
    pub fn sqnr(&self) -> f64 {
        match self.noise == 0.0 {
            true => f64::INFINITY,
            false => self.signal / self.noise,
        }
    }
}

impl From<&ErrorSums> for Loss {
    fn from(sums: &ErrorSums) -> Loss {
        Loss { signal: sums.signal, noise: sums.noise }
    }
}
