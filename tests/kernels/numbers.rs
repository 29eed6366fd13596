//! Number formats, random numbers, and how far a result may be from the exact one.

use half::{bf16, f16};

/// The type of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Bf16,
    F16,
}

pub const ACTS: [Act; 2] = [Act::Bf16, Act::F16];

impl Act {
    pub fn value(self, bits: u16) -> f64 {
        match self {
            Self::Bf16 => bf16::from_bits(bits).to_f64(),
            Self::F16 => f16::from_bits(bits).to_f64(),
        }
    }

    pub fn bits(self, value: f64) -> u16 {
        match self {
            Self::Bf16 => bf16::from_f32(value as f32).to_bits(),
            Self::F16 => f16::from_f32(value as f32).to_bits(),
        }
    }

    /// The farthest that rounding moves a number, beside its size: half a unit in the last place of
    /// 8 or 11 bits.
    pub const fn roundoff(self) -> f64 {
        match self {
            Self::Bf16 => 1.0 / 256.0,
            Self::F16 => 1.0 / 2048.0,
        }
    }

    /// The farthest that rounding moves a number: small ones by half a step of the subnormals.
    pub fn rounding(self, value: f64) -> f64 {
        let tiny = match self {
            Self::Bf16 => 2_f64.powi(-134),
            Self::F16 => 2_f64.powi(-25),
        };
        (self.roundoff() * value.abs()).max(tiny)
    }
}

/// Half a unit in the last place of an f32.
pub const F32_ROUNDOFF: f64 = 1.0 / 16_777_216.0;

/// The value of an e4m3.
pub fn e4m3_value(bits: u8) -> f64 {
    let (exponent, mantissa) = (bits >> 3 & 15, f64::from(bits & 7));
    let size = match (exponent, bits & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2_f64.powi(i32::from(exponent) - 7),
    };
    if bits & 128 == 0 { size } else { -size }
}

/// The nearest e4m3, ties to even, saturating.
pub fn e4m3_bits(value: f64) -> u8 {
    let nearest = (0..127_u8).min_by(|a, b| {
        let far = |bits: u8| (e4m3_value(bits) - value.abs()).abs();
        far(*a).total_cmp(&far(*b)).then((a % 2).cmp(&(b % 2)))
    });
    nearest.unwrap() | if value.is_sign_negative() { 128 } else { 0 }
}

/// Numbers that look random and are the same on every machine.
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// From 0 to just below 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// From −1 to 1, and now and then ten times as far.
    pub fn number(&mut self) -> f64 {
        let number = 2.0 * self.share() - 1.0;
        if self.next().is_multiple_of(64) { 10.0 * number } else { number }
    }

    pub fn numbers(&mut self, length: usize) -> Vec<f64> {
        (0..length).map(|_| self.number()).collect()
    }

    /// Activations, as bits and as the values that these have.
    pub fn acts(&mut self, act: Act, length: usize) -> Acts {
        Acts::of(act, (0..length).map(|_| self.number()))
    }
}

/// Numbers of the activations' type.
#[derive(Clone)]
pub struct Acts {
    pub bits: Vec<u16>,
    pub values: Vec<f64>,
}

impl Acts {
    pub fn of(act: Act, values: impl IntoIterator<Item = f64>) -> Self {
        let bits: Vec<u16> = values.into_iter().map(|value| act.bits(value)).collect();
        let values = bits.iter().map(|bits| act.value(*bits)).collect();
        Self { bits, values }
    }
}

/// Wants each of `found` within its bound of the exact value: pairs of (exact, bound).
pub fn close(what: &str, found: &[f64], exact: impl IntoIterator<Item = (f64, f64)>) {
    let mut count = 0;
    for (at, (exact, bound)) in exact.into_iter().enumerate() {
        let error = (found[at] - exact).abs();
        // Written so that what is not a number fails.
        assert!(
            error <= bound,
            "{what}: element {at} is {}, exactly {exact}: off by {error:e}, allowed {bound:e}",
            found[at]
        );
        count += 1;
    }
    assert_eq!(count, found.len(), "{what}: elements");
}

#[test]
fn e4m3_is_what_its_name_says() {
    assert_eq!(e4m3_value(0x7e), 448.0);
    assert_eq!(e4m3_value(0x01), 1.0 / 512.0);
    assert_eq!(e4m3_value(0x38), 1.0);
    for bits in (0..=0x7e).chain(0x80..=0xfe) {
        assert_eq!(e4m3_bits(e4m3_value(bits)), bits);
    }
    assert_eq!(e4m3_bits(17.0), e4m3_bits(16.0), "a tie to even");
    assert_eq!(e4m3_bits(1e9), 0x7e);
}
