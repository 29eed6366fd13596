//! Splitting a kernel's time: what of it was thrown away, and the mechanism of the rest.
//!
//! Useful first: the rows that were thrown away cost the difference between the kernel's time
//! at all rows and its time at the useful ones. What is left is laid against the floor of the
//! useful work, part by part, each clipped to what is left.

use std::collections::HashMap;

use super::clock::Held;
use super::projection::KernelTotals;
use crate::cost::{Floor, Roofs};
use crate::event::{Calibration, Driver, Launch};
use crate::trace::DeviceHeader;
use crate::unit::{Bytes, Ops};

/// The calibrated time of each kernel: piecewise linear between measured points.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelModel {
    curves: Vec<Option<Curve>>,
}

#[derive(Clone, Debug)]
struct Curve {
    driver: Driver,
    points: Vec<(u64, u64)>,
}

impl KernelModel {
    /// The model of a device, for kernels numbered as in `kernels`.
    pub(super) fn new(calibration: &[Calibration], kernels: &[String]) -> Self {
        let by_name: HashMap<&str, &Calibration> =
            calibration.iter().map(|c| (c.kernel.as_str(), c)).collect();
        let curve = |name: &String| {
            let calibration = by_name.get(name.as_str())?;
            let mut points = calibration.points.clone();
            points.sort_unstable();
            // A curve that falls would make more rows cheaper: noise.
            let mut highest = 0;
            for point in &mut points {
                highest = highest.max(point.1);
                point.1 = highest;
            }
            (!points.is_empty()).then_some(Curve { driver: calibration.driver, points })
        };
        Self { curves: kernels.iter().map(curve).collect() }
    }

    /// The time of a kernel at `amount`, if it was calibrated for that driver.
    fn time(&self, kernel: u16, driver: Driver, amount: u64) -> Option<u64> {
        let curve = self.curves.get(usize::from(kernel))?.as_ref()?;
        (curve.driver == driver).then(|| curve.time(amount))
    }
}

impl Curve {
    fn time(&self, amount: u64) -> u64 {
        if amount == 0 {
            return 0;
        }
        let above = self.points.partition_point(|point| point.0 < amount);
        let Some(&(x1, y1)) = self.points.get(above) else {
            // Beyond the last point: along the line from the origin through it.
            let (x, y) = self.points[self.points.len() - 1];
            return scale(y, amount, x.max(1));
        };
        let Some(&(x0, y0)) = above.checked_sub(1).and_then(|below| self.points.get(below)) else {
            // Below the first point nothing is known but that it takes no longer.
            return y1;
        };
        y0 + scale(y1 - y0, amount - x0, x1 - x0)
    }
}

/// `value × part ÷ whole`, rounded down.
pub(super) fn scale(value: u64, part: u64, whole: u64) -> u64 {
    if value == 0 || whole == 0 || part == whole {
        return value;
    }
    match value.checked_mul(part) {
        Some(product) => product / whole,
        None => (u128::from(value) * u128::from(part) / u128::from(whole)) as u64,
    }
}

/// How thrown-away rows are priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Costing {
    /// By the calibrated kernel model: what the useful rows alone would have taken is theirs.
    #[default]
    UsefulFirst,
    /// By rows: every row costs the same.
    Proportional,
}

/// A class of a kernel's time or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Value,
    Weights,
    Underfilled,
    Kv,
    Activations,
    Excess,
    ThrottlePower,
    ThrottleThermal,
    SlackLatency,
    SlackBandwidth,
    SlackCompute,
    Thrown,
    ThrownByRows,
    WeightBytes,
    UnderfilledBytes,
    KvBytes,
    ActivationBytes,
    ExcessBytes,
    ThrownWeightBytes,
}

/// How many parts there are.
pub(super) const PARTS: usize = Part::ThrownWeightBytes as usize + 1;

/// What a launch worked on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// All of its driver's amount.
    pub(super) all: u64,
    /// The part of requests whose answer was or may still be delivered.
    pub(super) useful: u64,
    /// Useful rows, or useful rows that ask for logits.
    pub(super) useful_rows: u64,
}

/// Time of a device that a launch owned: all of its own, or its share of an overlap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owned {
    pub(super) nanos: u64,
    /// A limit that held the clock down when the launch began.
    pub(super) held: Option<Held>,
}

/// Floors that were longer than what they bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokenCeilings {
    /// Launches that were faster than their floor.
    pub launches: u64,
    /// By how much in all.
    pub nanos: u64,
}

/// What a device's kernels are laid against.
pub(super) struct Bench {
    pub(super) model: KernelModel,
    pub(super) roofs: Roofs,
    pub(super) launch_floor: u64,
    pub(super) reference_batch: u64,
    pub(super) costing: Costing,
    pub(super) broken: BrokenCeilings,
    /// By kernel number.
    pub(super) totals: Vec<KernelTotals>,
    /// By kernel number, the last question to the model and its answer: the layers of a step all
    /// ask the same.
    pub(super) asked: Vec<Option<Asked>>,
}

/// What the calibrated model was asked, and what it said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    driver: Driver,
    work: (u64, u64),
    times: Option<(u64, u64)>,
}

impl Bench {
    /// What the kernels of `device` are laid against, numbered as in `kernels`.
    pub(super) fn new(
        device: &DeviceHeader,
        reference_batch: u32,
        costing: Costing,
        kernels: &[String],
    ) -> Self {
        let totals = |name: &String| KernelTotals { name: name.clone(), ..KernelTotals::default() };
        Self {
            model: KernelModel::new(&device.calibration, kernels),
            roofs: Roofs::of(&device.ceilings),
            launch_floor: device.ceilings.launch_floor_ns.0,
            reference_batch: u64::from(reference_batch.max(1)),
            costing,
            broken: BrokenCeilings::default(),
            totals: kernels.iter().map(totals).collect(),
            asked: vec![None; kernels.len()],
        }
    }

    /// Kernels have other names or more of them from now on; what they did stays.
    pub(super) fn rename(&mut self, calibration: &[Calibration], kernels: &[String]) {
        self.model = KernelModel::new(calibration, kernels);
        self.asked = vec![None; kernels.len()];
        self.totals.resize_with(kernels.len(), KernelTotals::default);
        for (totals, name) in self.totals.iter_mut().zip(kernels) {
            totals.name.clone_from(name);
        }
    }

    /// The floor of all of a launch's work.
    pub(super) fn floor(&self, launch: &Launch) -> Floor {
        let Launch { weight_bytes, kv_bytes, activation_bytes, excess_bytes, ops, .. } = *launch;
        let bytes = [weight_bytes, kv_bytes, activation_bytes, excess_bytes];
        self.roofs.floor(bytes, ops, launch.dtype)
    }

    /// Adds a launch that owned `time` to its kernel's totals; gives its floor.
    pub(super) fn count(&mut self, launch: &Launch, time: u64) -> Floor {
        let Launch { weight_bytes, kv_bytes, activation_bytes, excess_bytes, ops, .. } = *launch;
        let floor = self.floor(launch);
        let Some(totals) = self.totals.get_mut(usize::from(launch.kernel.0)) else { return floor };
        totals.launches += 1;
        totals.nanos += u128::from(time);
        totals.floor_nanos += u128::from(floor.least().0);
        totals.compute_nanos += u128::from(floor.compute.0);
        totals.weight_bytes += u128::from(weight_bytes.0);
        totals.kv_bytes += u128::from(kv_bytes.0);
        totals.activation_bytes += u128::from(activation_bytes.0);
        totals.excess_bytes += u128::from(excess_bytes.0);
        totals.ops += u128::from(ops.0);
        totals.dtype = Some(launch.dtype);
        floor
    }

    /// Splits the time that `launch` owned into parts; `floor` is that of all its work.
    pub(super) fn split_time(
        &mut self,
        (launch, floor): (&Launch, Floor),
        Owned { nanos: time, held }: Owned,
        work: Work,
        mut each: impl FnMut(Part, u64),
    ) {
        let (thrown, calibrated) = self.thrown(launch, time, work);
        each(if calibrated { Part::Thrown } else { Part::ThrownByRows }, thrown);
        let floor = if work.useful < work.all { self.useful(launch, work) } else { floor };
        let mut left = time - thrown;
        let mut take = |wanted: u64| {
            let taken = wanted.min(left);
            left -= taken;
            taken
        };
        let (memory, compute) = (floor.memory().0, floor.compute.0);
        let value = take(compute);
        each(Part::Value, value);
        // Memory and arithmetic overlap: only what sticks out is exposed.
        let mut exposed = memory.saturating_sub(compute);
        let mut expose = |wanted: u64| {
            let part = wanted.min(exposed);
            exposed -= part;
            part
        };
        let weights = take(expose(floor.weights.0));
        let shared = self.at_reference(weights, work.useful_rows);
        each(Part::Weights, shared);
        each(Part::Underfilled, weights - shared);
        each(Part::Kv, take(expose(floor.kv.0)));
        each(Part::Activations, take(expose(floor.activations.0)));
        each(Part::Excess, take(floor.excess.0));
        if let Some(held) = held {
            // What moving bytes explains does not go with the clock.
            let lost = held.lost(value + left).min(left);
            left -= lost;
            each(held.part, lost);
        }
        let slack = match floor.least().0 {
            least if least <= self.launch_floor => Part::SlackLatency,
            _ if compute >= memory => Part::SlackCompute,
            _ => Part::SlackBandwidth,
        };
        each(slack, left);
        // Only a launch seen whole and wholly useful can break a ceiling.
        let whole = time == launch.end.0 - launch.start.0 && thrown == 0;
        if whole && floor.least().0 > time {
            self.broken.launches += 1;
            self.broken.nanos += floor.least().0 - time;
        }
    }

    /// Splits the bytes of `launch` into parts.
    pub(super) fn split_bytes(&self, launch: &Launch, work: Work, mut each: impl FnMut(Part, u64)) {
        if work.useful > 0 {
            let shared = self.at_reference(launch.weight_bytes.0, work.useful_rows);
            each(Part::WeightBytes, shared);
            each(Part::UnderfilledBytes, launch.weight_bytes.0 - shared);
        } else {
            each(Part::ThrownWeightBytes, launch.weight_bytes.0);
        }
        each(Part::KvBytes, launch.kv_bytes.0);
        each(Part::ActivationBytes, launch.activation_bytes.0);
        each(Part::ExcessBytes, launch.excess_bytes.0);
    }

    /// The floor of the useful part of a launch's work.
    fn useful(&self, launch: &Launch, work: Work) -> Floor {
        let useful = |amount: u64| scale(amount, work.useful, work.all);
        let bytes = [
            if work.useful > 0 { launch.weight_bytes } else { Bytes::ZERO },
            Bytes(useful(launch.kv_bytes.0)),
            Bytes(useful(launch.activation_bytes.0)),
            Bytes(useful(launch.excess_bytes.0)),
        ];
        self.roofs.floor(bytes, Ops(useful(launch.ops.0)), launch.dtype)
    }

    fn at_reference(&self, amount: u64, rows: u64) -> u64 {
        scale(amount, rows.min(self.reference_batch), self.reference_batch)
    }

    /// The time of thrown-away rows, and whether a calibration says so.
    fn thrown(&mut self, launch: &Launch, time: u64, work: Work) -> (u64, bool) {
        if work.useful >= work.all {
            return (0, true);
        }
        let by_rows = time - scale(time, work.useful, work.all);
        if self.costing == Costing::Proportional {
            return (by_rows, false);
        }
        match self.modelled(launch, (work.all, work.useful)) {
            Some((_, 0)) => (time, true),
            Some((all, useful)) => (all.saturating_sub(useful).min(time), true),
            None => (by_rows, false),
        }
    }

    /// The calibrated times of a kernel at two amounts of its driver.
    fn modelled(&mut self, launch: &Launch, work: (u64, u64)) -> Option<(u64, u64)> {
        let asked = self.asked.get_mut(usize::from(launch.kernel.0))?;
        match asked {
            Some(last) if last.driver == launch.driver && last.work == work => last.times,
            _ => {
                let time = |amount| self.model.time(launch.kernel.0, launch.driver, amount);
                let times = time(work.0).zip(time(work.1));
                *asked = Some(Asked { driver: launch.driver, work, times });
                times
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Ceilings, Dtype, KernelId};
    use crate::unit::Nanos;

    fn launch(time: u64, weight_bytes: u64, ops: u64) -> Launch {
        Launch {
            device: 0,
            stream: 0,
            step: None,
            layer: None,
            kernel: KernelId(0),
            start: Nanos(0),
            end: Nanos(time),
            weight_bytes: Bytes(weight_bytes),
            kv_bytes: Bytes(0),
            activation_bytes: Bytes(0),
            excess_bytes: Bytes(0),
            ops: Ops(ops),
            dtype: Dtype::Q8_0,
            driver: Driver::Rows,
        }
    }

    fn bench(points: Vec<(u64, u64)>) -> Bench {
        let calibration = Calibration { kernel: "down".into(), driver: Driver::Rows, points };
        let ceilings = Ceilings {
            read_bytes_per_s: 1_000_000_000,
            cache_bytes_per_s: 1_000_000_000,
            ops_per_s: [(Dtype::Q8_0, 1_000_000_000)].into(),
            ..Ceilings::default()
        };
        Bench {
            model: KernelModel::new(&[calibration], &["down".to_owned()]),
            roofs: Roofs::of(&ceilings),
            launch_floor: 10,
            reference_batch: 4,
            costing: Costing::UsefulFirst,
            broken: BrokenCeilings::default(),
            totals: Vec::new(),
            asked: vec![None],
        }
    }

    fn parts(bench: &mut Bench, launch: &Launch, work: Work) -> Vec<(Part, u64)> {
        parts_at(None, bench, launch, work)
    }

    fn parts_at(
        held: Option<Held>,
        bench: &mut Bench,
        launch: &Launch,
        work: Work,
    ) -> Vec<(Part, u64)> {
        let mut parts = Vec::new();
        let time = launch.end.0 - launch.start.0;
        let floor = bench.count(launch, time);
        let owned = Owned { nanos: time, held };
        bench.split_time((launch, floor), owned, work, |part, amount| parts.push((part, amount)));
        assert_eq!(parts.iter().map(|part| part.1).sum::<u64>(), time);
        parts.retain(|part| part.1 > 0);
        parts
    }

    #[test]
    fn a_memory_bound_step_half_padding_wastes_little_on_padding() {
        // 1 row takes 1000 ns, 8 rows 1010: streaming the weights decides.
        let mut bench = bench(vec![(1, 1000), (8, 1010)]);
        let work = Work { all: 8, useful: 2, useful_rows: 2 };
        let found = parts(&mut bench, &launch(1100, 900, 80), work);
        let expected = [
            (Part::Thrown, 9),
            (Part::Value, 20),
            (Part::Weights, 440),
            (Part::Underfilled, 440),
            (Part::SlackBandwidth, 191),
        ];
        assert_eq!(found, expected);
        bench.costing = Costing::Proportional;
        let found = parts(&mut bench, &launch(1100, 900, 80), work);
        assert_eq!(found[0], (Part::ThrownByRows, 825));
    }

    #[test]
    fn a_compute_bound_kernel_hides_its_weights() {
        let work = Work { all: 64, useful: 64, useful_rows: 64 };
        let found = parts(&mut bench(vec![]), &launch(1000, 300, 800), work);
        assert_eq!(found, [(Part::Value, 800), (Part::SlackCompute, 200)]);
    }

    #[test]
    fn a_held_clock_explains_slack_but_not_the_moving_of_bytes() {
        let held = Some(Held { clock: 800, full: 1600, part: Part::ThrottlePower });
        let work = Work { all: 4, useful: 4, useful_rows: 4 };
        let found = parts_at(held, &mut bench(vec![]), &launch(1100, 900, 80), work);
        let streaming = [
            (Part::Value, 80),
            (Part::Weights, 820),
            (Part::ThrottlePower, 140),
            (Part::SlackBandwidth, 60),
        ];
        assert_eq!(found, streaming);
        let found = parts_at(held, &mut bench(vec![]), &launch(1000, 300, 400), work);
        let computing = [(Part::Value, 400), (Part::ThrottlePower, 500), (Part::SlackCompute, 100)];
        assert_eq!(found, computing);
        let found = parts_at(held, &mut bench(vec![]), &launch(1000, 300, 800), work);
        assert_eq!(found, [(Part::Value, 800), (Part::ThrottlePower, 200)], "no more than slack");
        let thrown = Work { all: 4, useful: 0, useful_rows: 0 };
        let found = parts_at(held, &mut bench(vec![]), &launch(1000, 300, 400), thrown);
        assert_eq!(found, [(Part::ThrownByRows, 1000)], "fate goes first");
    }

    #[test]
    fn a_floor_above_the_time_is_reported() {
        let mut bench = bench(vec![]);
        let work = Work { all: 4, useful: 4, useful_rows: 4 };
        assert_eq!(parts(&mut bench, &launch(100, 150, 0), work), [(Part::Weights, 100)]);
        assert_eq!(bench.broken, BrokenCeilings { launches: 1, nanos: 50 });
    }

    #[test]
    fn nothing_useful_is_thrown_away_whole() {
        let work = Work { all: 4, useful: 0, useful_rows: 0 };
        for points in [vec![], vec![(1, 7)]] {
            let found = parts(&mut bench(points), &launch(100, 150, 9), work);
            assert_eq!(found.iter().map(|part| part.1).sum::<u64>(), 100);
            assert!(matches!(found[..], [(Part::Thrown | Part::ThrownByRows, 100)]));
        }
    }

    #[test]
    fn curves_interpolate_and_extrapolate() {
        let curve = Curve { driver: Driver::Rows, points: vec![(2, 100), (4, 140), (8, 200)] };
        for (amount, time) in [(0, 0), (1, 100), (2, 100), (3, 120), (4, 140), (6, 170), (16, 400)]
        {
            assert_eq!(curve.time(amount), time, "at {amount}");
        }
    }
}
