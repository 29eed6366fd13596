//! Sessions on the modelled device, each with another kind of loss in it.

use gemba::backend::modelled::Timing;
use gemba::event::{Fact, Outcome};
use gemba::schedule::Scheduling;
use gemba::session::SessionOptions;
use gemba::trace::Header;
use gemba::unit::Nanos;
use gemba::workload::RequestSpec;

use super::session::{options, run, run_on, workload};

/// Ten requests of unlike length, one each 5 ms.
fn demand() -> Vec<RequestSpec> {
    let spec = |id: u64| RequestSpec::new(Nanos(id * 5_000_000), 20 + id as u32, 6 + id as u32 * 5);
    (0..10).map(spec).collect()
}

/// Every kind by name; the first loses nothing.
pub fn all() -> Vec<(&'static str, Header, Vec<Fact>)> {
    let mut all = Vec::new();
    let mut add = |name, options: &SessionOptions, requests| {
        let (header, facts) = run(options, &workload(requests));
        all.push((name, header, facts));
    };
    add("continuous", &options(), demand());
    for scheduling in [Scheduling::Static, Scheduling::Window] {
        let mut batched = options();
        batched.engine.batching.scheduling = scheduling;
        add(scheduling.code(), &batched, demand());
    }
    let mut lost = demand();
    lost[1].cancel_after = Some(Nanos(9_000_000));
    lost[3].timeout = Some(Nanos(8_000_000));
    lost[4].outcome = Outcome::Malformed;
    lost[5].outcome = Outcome::Failed;
    add("clients that leave and answers that fail", &options(), lost.clone());
    let mut deaf = options();
    deaf.engine.stopping.honour_cancel = false;
    deaf.engine.stopping.check_interval = 3;
    add("an engine that does not notice", &deaf, lost);
    let mut tight = options();
    tight.engine.memory.max_sequence_tokens = 96;
    tight.engine.memory.kv_blocks = 9;
    add("little memory", &tight, demand());
    let mut chunked = options();
    chunked.engine.batching.max_num_batched_tokens = 8;
    add("small chunks", &chunked, demand());
    for (name, async_steps) in
        [("a link to the host", false), ("a link to the host, two steps in flight", true)]
    {
        let linked = |timing: &mut Timing| {
            timing.host_link_bytes_per_s = 10_000_000;
            timing.async_steps = async_steps;
        };
        let (header, facts) = run_on(linked, &options(), &workload(demand()));
        assert!(facts.iter().any(|fact| matches!(fact, Fact::Copy(_))));
        all.push((name, header, facts));
    }
    all
}
