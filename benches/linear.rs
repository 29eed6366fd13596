//! How fast the CPU's matrix products are, beside what its memory can give.
//!
//! Multiplies the matrices of a 1.1B model (22 layers of TinyLlama-1.1B's dimensions, far more
//! than any cache holds) with rows of activations. A sample is one layer; before each, a plain
//! loop reads as many bytes as a layer of bfloat16 has on as many threads, so that both see the
//! same neighbours. On a machine that is not idle the best samples say what the code can do, the
//! medians what it got. Prints per precision, threads and rows: weights read per second, their
//! share of the plain loop (median of one by median of the other, best by best), and operations
//! per second.
//!
//! `cargo bench --no-default-features --bench linear -- [--rounds N] [--layers N]
//! [--precision P,…] [--threads N,…] [--rows N,…] [--isa NAME]`

#![expect(clippy::print_stdout, reason = "a table is what this is for")]
#![expect(clippy::expect_used, reason = "a benchmark that cannot run has nothing to return")]

use std::hint::black_box;
use std::time::Instant;

use gemba::backend::cpu::linear::{
    Activations, Arena, Arrangement, Epilogue, Isa, PackedMatrix, PackedShape, Source, multiply,
};
use gemba::backend::cpu::pool::Pool;
use gemba::model::Precision;

const HIDDEN: usize = 2048;
const FFN: usize = 5632;
const QKV: usize = 2560;

struct Options {
    rounds: usize,
    layers: usize,
    precisions: Vec<Precision>,
    threads: Vec<usize>,
    rows: Vec<usize>,
    isa: Isa,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self {
            rounds: 8,
            layers: 22,
            precisions: vec![Precision::Bf16, Precision::Q8_0, Precision::Q4_0],
            threads: vec![1, 2],
            rows: vec![1, 4, 16, 512],
            isa: Isa::detect(),
        };
        let mut words = std::env::args().skip(1);
        let numbers = |text: String| -> Vec<usize> {
            text.split(',').map(|word| word.parse().expect("a number")).collect()
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().expect("a value after an option");
            match word.as_str() {
                "--bench" => {}
                "--rounds" => options.rounds = value().parse().expect("a number"),
                "--layers" => options.layers = value().parse().expect("a number"),
                "--threads" => options.threads = numbers(value()),
                "--rows" => options.rows = numbers(value()),
                "--precision" => {
                    options.precisions = value().split(',').map(precision).collect();
                }
                "--isa" => {
                    let name = value();
                    let named = Isa::ALL.into_iter().find(|isa| isa.code() == name);
                    options.isa = named.expect("the name of an instruction set");
                }
                _ => panic!("option {word} is not known"),
            }
        }
        options
    }
}

fn precision(name: &str) -> Precision {
    let named = Precision::ALL.into_iter().find(|precision| precision.code() == name);
    named.expect("the name of a precision")
}

/// A weight that looks random and costs little to make.
fn weight(row: usize, column: usize) -> f32 {
    let mixed = (row as u32).wrapping_mul(0x9e37_79b9) ^ (column as u32).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x2c1b_3c6d);
    mixed.cast_signed() as f32 / (i32::MAX as f32) * 0.05
}

/// The matrices of a layer in the order in which a step reads them.
type Layer = [PackedMatrix; 4];

fn layers(pool: &Pool, isa: Isa, precision: Precision, layers: usize) -> Vec<Layer> {
    let arena = Arena::new();
    let pack = |outputs, inputs, arrangement| {
        let shape = PackedShape { precision, outputs, inputs, arrangement };
        let fill = |row: usize, weights: &mut [f32]| {
            for (column, value) in weights.iter_mut().enumerate() {
                *value = weight(row, column);
            }
        };
        PackedMatrix::pack(pool, &arena, isa, shape, Source::F32(&fill)).expect("pack a matrix")
    };
    let layer = |_| {
        [
            pack(QKV, HIDDEN, Arrangement::Plain),
            pack(HIDDEN, HIDDEN, Arrangement::Plain),
            pack(2 * FFN, HIDDEN, Arrangement::GateUp),
            pack(HIDDEN, FFN, Arrangement::Plain),
        ]
    };
    (0..layers).map(layer).collect()
}

/// Room for the rows of a product.
struct Buffers {
    values: Vec<f32>,
    narrow: Activations,
    wide: Activations,
    output: Vec<f32>,
}

impl Buffers {
    fn new(isa: Isa, precision: Precision, rows: usize) -> Self {
        let new = |inputs| Activations::new(isa, precision, rows, inputs).expect("activations");
        let values = (0..rows * FFN).map(|index| weight(index, 7)).collect();
        let output = vec![0.0; rows * 2 * FFN];
        Self { values, narrow: new(HIDDEN), wide: new(FFN), output }
    }

    fn run(&mut self, pool: &Pool, layer: &Layer, rows: usize) {
        for matrix in layer {
            let shape = matrix.shape();
            let activations = if shape.inputs == FFN { &mut self.wide } else { &mut self.narrow };
            activations.prepare(pool, &self.values[..rows * shape.inputs], shape.inputs);
            let epilogue = match shape.arrangement {
                Arrangement::Plain => {
                    Epilogue::Store { output: &mut self.output[..rows * shape.outputs] }
                }
                Arrangement::GateUp => {
                    Epilogue::SwiGlu { output: &mut self.output[..rows * shape.outputs / 2] }
                }
            };
            multiply(pool, matrix, activations, epilogue);
        }
        black_box(&self.output);
    }
}

/// Memory for the plain loop, larger than any cache, on huge pages as the weights are.
struct Plain {
    memory: memmap2::MmapMut,
    next: usize,
}

impl Plain {
    const BYTES: usize = 1 << 30;
    const SAMPLE: usize = 64 << 20;

    fn new() -> Self {
        let mut memory = memmap2::MmapMut::map_anon(Self::BYTES).expect("map memory");
        #[cfg(target_os = "linux")]
        let _advised = memory.advise(memmap2::Advice::HugePage);
        memory.fill(1);
        Self { memory, next: 0 }
    }

    /// Reads a part that has not been read for long; bytes per second.
    fn read(&mut self, pool: &Pool) -> f64 {
        let bytes = &self.memory[self.next..self.next + Self::SAMPLE];
        self.next = (self.next + Self::SAMPLE) % Self::BYTES;
        let began = Instant::now();
        pool.share(Self::SAMPLE >> 12, 64, &|_, chunks| {
            for pages in chunks {
                black_box(sum(&bytes[pages.start << 12..pages.end << 12]));
            }
        });
        Self::SAMPLE as f64 / began.elapsed().as_secs_f64()
    }
}

fn sum(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[target_feature(enable = "avx512f")]
        fn wide(bytes: &[u8]) -> u64 {
            narrow(bytes)
        }
        // SAFETY: the processor has it.
        return unsafe { wide(bytes) };
    }
    narrow(bytes)
}

#[inline(always)]
fn narrow(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 64];
    for chunk in bytes.as_chunks::<512>().0 {
        for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *sum ^= u64::from_ne_bytes(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

/// Median and best.
fn spread(mut samples: Vec<f64>) -> [f64; 2] {
    samples.sort_by(f64::total_cmp);
    [samples[samples.len() / 2], samples[samples.len() - 1]]
}

fn main() {
    if !std::env::args().any(|word| word == "--bench") {
        println!("a benchmark: run it with cargo bench");
        return;
    }
    let options = Options::parse();
    let mut plain = Plain::new();
    println!(
        "{}; {} layers, each {} times; median and best of their samples",
        options.isa.code(),
        options.layers,
        options.rounds
    );
    println!(
        "{:9} {:>7} {:>5} {:>14} {:>14} {:>14} {:>14}",
        "precision", "threads", "rows", "read GB/s", "weights GB/s", "share %", "Gop/s"
    );
    for &precision in &options.precisions {
        let packing = Pool::new(2).expect("threads");
        let layers = layers(&packing, options.isa, precision, options.layers);
        drop(packing);
        for &threads in &options.threads {
            let pool = Pool::new(threads).expect("threads");
            for &rows in &options.rows {
                let mut buffers = Buffers::new(options.isa, precision, rows);
                let (mut times, mut reads) = (Vec::new(), Vec::new());
                // A sample of many rows takes long.
                let rounds = if rows > 64 { options.rounds.div_ceil(8) } else { options.rounds };
                for layer in std::iter::repeat_n(&layers, rounds).flatten() {
                    reads.push(plain.read(&pool));
                    let began = Instant::now();
                    buffers.run(&pool, layer, rows);
                    times.push(began.elapsed().as_secs_f64());
                }
                print!("{:9} {threads:>7} {rows:>5}", precision.code());
                print(&layers[0], rows, &times, reads);
            }
        }
    }
}

fn print(layer: &Layer, rows: usize, times: &[f64], reads: Vec<f64>) {
    let bytes = layer.iter().map(PackedMatrix::bytes).sum::<usize>() as f64;
    let elements = |matrix: &PackedMatrix| matrix.shape().outputs * matrix.shape().inputs;
    let operations = 2.0 * rows as f64 * layer.iter().map(elements).sum::<usize>() as f64;
    let per_second = |what: f64| spread(times.iter().map(|time| what / time / 1e9).collect());
    let read = spread(reads.into_iter().map(|read| read / 1e9).collect());
    let weights = per_second(bytes);
    let share = [0, 1].map(|of| 100.0 * weights[of] / read[of]);
    for (figures, places) in [(read, 1), (weights, 1), (share, 0), (per_second(operations), 0)] {
        let [median, best] = figures;
        print!(" {median:>7.places$} {best:>6.places$}");
    }
    println!();
}
