//! Reads bytes as a workload; what is accepted must keep the record's promises, survive a replay
//! and give prompts of the right length.

use std::num::NonZeroU32;
use std::path::Path;

use gemba::event::Outcome;
use gemba::workload::{Format, Lengths, OpenOptions, Prompts, Replay, Summary};

pub fn read(format: Option<Format>, bytes: &[u8]) {
    let words = |text: &str| text.split_whitespace().count();
    let options = OpenOptions { format, seed: None, count_tokens: Some(&words) };
    let workload = match gemba::workload::read(bytes, Path::new("fuzz/x"), &options) {
        Ok(workload) => workload,
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "{error}");
            return;
        }
    };
    assert!(!workload.requests.is_empty());
    assert!(workload.requests.windows(2).all(|pair| pair[0].arrival <= pair[1].arrival));
    for request in &workload.requests {
        assert!(request.prompt_tokens > 0);
        assert!(request.output_tokens > 0 || request.outcome == Outcome::Failed);
        assert!(usize::from(request.class) < workload.classes.len());
        assert!(request.parent.is_none_or(|parent| (parent as usize) < workload.requests.len()));
    }
    let share = Summary::of(&workload).ideal_prefix_hit_share;
    assert!((0.0..=1.0).contains(&share));
    let lengths = Lengths { context_tokens: Some(512), ..Lengths::default() };
    let Ok(replayed) = workload.replayed(&Replay { lengths, ..Replay::default() }) else { return };
    assert!(replayed.max_context_tokens() <= 512);
    let prompts = Prompts::new(&replayed, NonZeroU32::new(50).expect("fifty is not zero"));
    for (index, request) in replayed.requests.iter().enumerate().take(4) {
        assert_eq!(prompts.prompt(index, request).len(), request.prompt_tokens as usize);
        assert_eq!(prompts.output(index, request).len(), request.output_tokens as usize);
    }
}
