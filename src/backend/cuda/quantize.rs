//! Floats to the codes of formats that no file has.

use half::f16;

/// The quantiles of NF4, as QLoRA's code has them.
pub(super) const QUANTILES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The nearest e4m3, ties to even, at most 448.
pub(super) fn e4m3(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let size = x.abs().min(448.0);
    // The exponent of the float, but not below that of the least normal number, 2⁻⁶.
    let exponent = ((size.to_bits() >> 23) as i32 - 127).max(-6);
    // In steps of the mantissa's last bit; a power of two, so that the quotient is exact.
    let steps = (size * 2.0_f32.powi(3 - exponent)).round_ties_even() as u8;
    // From eight steps on the exponent counts; sixteen of them are the next one.
    sign | ((((exponent + 6) as u8) << 3) + steps)
}

/// The code of the nearest quantile.
pub(super) fn nearest_quantile(x: f32) -> u8 {
    let middle = |pair: &[f32]| (pair[0] + pair[1]) / 2.0;
    QUANTILES.windows(2).take_while(|pair| x > middle(pair)).count() as u8
}

/// The scale of a group and what its weights are multiplied with. `signed`: the weight of the
/// largest size becomes −8; else 1 or −1.
pub(super) fn group(signed: bool, weights: &[f32]) -> (f16, f32) {
    let largest = weights.iter().fold(0.0_f32, |a, b| if b.abs() > a.abs() { *b } else { a });
    let scale = f16::from_f32(if signed { largest / -8.0 } else { largest.abs() });
    let rounded = scale.to_f32();
    (scale, if rounded == 0.0 { 0.0 } else { 1.0 / rounded })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What an e4m3 stands for.
    pub(in super::super) fn e4m3_value(code: u8) -> f32 {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
        let size = match exponent {
            0 => mantissa * 2.0_f32.powi(-9),
            _ => (8.0 + mantissa) * 2.0_f32.powi(exponent - 10),
        };
        if code & 0x80 == 0 { size } else { -size }
    }

    #[test]
    fn every_number_goes_to_the_nearest_code() {
        // 0x7f is not a number.
        let codes: Vec<u8> = (0..0x7f).collect();
        for &code in &codes {
            assert_eq!(e4m3(e4m3_value(code)), code);
            assert_eq!(e4m3(-e4m3_value(code)), code | 0x80);
        }
        for pair in codes.windows(2) {
            let (a, b) = (e4m3_value(pair[0]), e4m3_value(pair[1]));
            let even = if pair[0] % 2 == 0 { pair[0] } else { pair[1] };
            assert_eq!(e4m3((a + b) / 2.0), even);
            assert_eq!(e4m3(a + (b - a) * 0.49), pair[0]);
            assert_eq!(e4m3(a + (b - a) * 0.51), pair[1]);
        }
        assert_eq!((e4m3(1e9), e4m3(-1e9)), (0x7e, 0xfe));
    }

    #[test]
    fn quantiles_are_found_from_either_side() {
        for (code, quantile) in QUANTILES.iter().enumerate() {
            for off in [-0.03, 0.0, 0.03] {
                assert_eq!(nearest_quantile(quantile + off), code as u8);
            }
        }
    }
}
