//! A gate's policy: whatever is accepted can be looked at, and spends no more error than it says.

#![no_main]

use gemba::gate::{Level, Policy};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(policy) = Policy::parse(text) else { return };
    let looks: Vec<_> = policy.looks().iter().collect();
    assert!(looks.len() == policy.looks().len() && looks.last().is_some_and(|look| look.last));
    assert!(looks.windows(2).all(|pair| pair[0].count < pair[1].count));
    let spent: f64 = looks.iter().map(|look| Level::of_figure(&policy, *look).alarm).sum();
    assert!(spent <= policy.statistics.false_alarm * (1.0 + 1e-9));
});
