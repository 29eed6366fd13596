//! The page's colours can be told apart, in light and in dark: the ratios of WCAG 2.2.

const STYLE: &str = include_str!("page.css");

/// The light and the dark value of a colour of the style sheet.
fn colour(name: &str) -> [[f64; 3]; 2] {
    let start = format!("--{name}: light-dark(");
    let rest = STYLE.split(&start).nth(1).unwrap_or_else(|| panic!("no colour --{name}"));
    let pair = rest.split(')').next().unwrap();
    let parse = |hex: &str| {
        let hex = hex.trim().trim_start_matches('#');
        assert_eq!(hex.len(), 6, "--{name} is not written in six digits");
        [0, 2, 4].map(|at| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0)
    };
    let values: Vec<[f64; 3]> = pair.split(',').map(parse).collect();
    values.try_into().unwrap()
}

fn luminance(colour: [f64; 3]) -> f64 {
    let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
    let [r, g, b] = colour.map(linear);
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

fn ratio(a: [f64; 3], b: [f64; 3]) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

fn assert_ratio(pairs: &[(&str, &str)], least: f64) {
    for (front, back) in pairs {
        for (theme, (a, b)) in
            ["light", "dark"].into_iter().zip(colour(front).into_iter().zip(colour(back)))
        {
            let ratio = ratio(a, b);
            assert!(ratio >= least, "{front} on {back}, {theme}: {ratio:.2} < {least}");
        }
    }
}

#[test]
fn the_ratio_is_that_of_the_guideline() {
    assert!((ratio([0.0; 3], [1.0; 3]) - 21.0).abs() < 1e-9);
    assert!((ratio([0.2; 3], [0.2; 3]) - 1.0).abs() < 1e-9);
}

#[test]
fn text_can_be_read() {
    assert_ratio(
        &[
            ("ink", "paper"),
            ("quiet", "paper"),
            ("ink", "raised"),
            ("quiet", "raised"),
            ("alarm", "paper"),
            ("alarm", "alarm-paper"),
        ],
        4.5,
    );
}

#[test]
fn drawings_can_be_seen() {
    assert_ratio(
        &[
            ("value", "paper"),
            ("waste", "paper"),
            ("necessary-line", "paper"),
            ("edge", "paper"),
            ("focus", "paper"),
            ("focus", "raised"),
        ],
        3.0,
    );
}
