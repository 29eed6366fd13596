//! A session in which much happens.

use gemba::event::{Fact, Outcome};
use gemba::trace::{EnergyModel, Header, Price};
use gemba::unit::Nanos;
use gemba::workload::RequestSpec;

use super::session::{options, run, workload};

/// A session with a promise, a price and declared power, in which clients leave, memory runs
/// short and prompts interrupt answers: something for every page.
pub fn eventful() -> (Header, Vec<Fact>) {
    let mut options = options();
    options.engine.memory.max_sequence_tokens = 200;
    options.engine.memory.kv_blocks = 24;
    options.engine.batching.max_num_seqs = 6;
    options.engine.batching.max_num_batched_tokens = 48;
    options.engine.stopping.check_interval = 4;
    let spec = |id: u64| {
        let (wave, place) = (id / 12, id % 12);
        let at = Nanos(wave * 90_000_000 + place * place * 400_000);
        let prompt = 16 + (id * 29 % 80) as u32;
        let mut spec = RequestSpec::new(at, prompt, 8 + (id * 17 % 50) as u32);
        if id % 11 == 7 {
            spec.cancel_after = Some(Nanos(12_000_000));
        }
        if id % 17 == 5 {
            spec.outcome = Outcome::Malformed;
        }
        spec
    };
    let (mut header, facts) = run(&options, &workload((0..48).map(spec).collect()));
    header.slo.ttft_ns = Some(Nanos(15_000_000));
    header.slo.tpot_ns = Some(Nanos(1_000_000));
    header.price = Some(Price { picodollars_per_device_hour: 2_000_000_000_000 });
    header.energy = Some(EnergyModel { idle_mw: 8_000, busy_mw: 35_000 });
    (header, facts)
}
