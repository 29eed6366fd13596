//! What each operation does with the rows of a step.

use crate::backend::{DeviceError, Norm, Op, Projection, Sampled};

use super::attention::{Queries, attend_decode, attend_prefill};
use super::device::{Cpu, KvPool};
use super::kv::{Element, Geometry, Run, append};
use super::linear::{Epilogue, multiply};
use super::norm::{norm_in_place, norm_row};
use super::parallel::{Disjoint, for_ranges};
use super::rope::turn_head;
use super::sample::sample;
use super::simd::{Isa, LANES, dispatch};

/// Floats that a worker takes at a time from operations that only pass over them: below it, a
/// fork costs more than it saves.
const PASS_FLOATS: usize = 8192;

/// Rows of `width` floats that a worker takes at a time.
const fn pass_rows(width: usize) -> usize {
    let rows = PASS_FLOATS / width;
    if rows == 0 { 1 } else { rows }
}

impl Cpu {
    /// Runs `op` on the step's rows. Its layer, if it has one, is a layer of the model.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is not a fused form: there are no others here.
    pub(super) fn run(&mut self, op: Op) -> Result<(), DeviceError> {
        match op {
            Op::Embed => self.embed(),
            Op::Norm { layer, norm } => self.norm(layer as usize, norm),
            Op::Linear { layer, projection } => self.linear(layer as usize, projection),
            Op::RopeAppend { layer } => self.rope_append(layer as usize),
            Op::AttentionDecode { layer } => self.attention_decode(layer as usize),
            Op::AttentionPrefill { layer } => self.attention_prefill(layer as usize),
            Op::Sample => self.sample(),
            other => return Err(DeviceError::Unsupported(format!("{other:?} on cpu"))),
        }
        Ok(())
    }

    fn embed(&mut self) {
        let width = self.shape.hidden as usize;
        let (tokens, weights) = (&self.step.tokens, &self.weights);
        let residual = Disjoint::new(&mut self.rows.residual);
        let stored = Disjoint::new(&mut self.rows.stored);
        let stored_len = weights.row_bytes();
        for_ranges(&self.pool, tokens.len(), pass_rows(width), |worker, rows| {
            // SAFETY: each worker has its own stored row, each row its own part.
            let stored = unsafe { stored.part(worker * stored_len..(worker + 1) * stored_len) };
            for row in rows {
                // SAFETY: as above.
                let out = unsafe { residual.part(row * width..(row + 1) * width) };
                weights.embed(tokens[row] as usize, stored, out);
            }
        });
    }

    fn norm(&mut self, layer: usize, norm: Norm) {
        let width = self.shape.hidden as usize;
        let weights = &self.weights;
        let (weight, picked) = match norm {
            Norm::Attention => (&weights.layers[layer].attention_norm, None),
            Norm::Ffn => (&weights.layers[layer].ffn_norm, None),
            Norm::Final => (&weights.final_norm, Some(&self.step.logits_rows)),
        };
        let rows = picked.map_or(self.step.tokens.len(), Vec::len);
        let (isa, epsilon, residual) = (self.isa, self.shape.norm_eps, &self.rows.residual);
        let normed = Disjoint::new(&mut self.rows.normed);
        for_ranges(&self.pool, rows, pass_rows(width), |_, rows| {
            for row in rows {
                let from = picked.map_or(row, |picked| picked[row]);
                // SAFETY: each row has its own part.
                let out = unsafe { normed.part(row * width..(row + 1) * width) };
                norm_row(isa, &residual[from * width..(from + 1) * width], weight, epsilon, out);
            }
        });
    }

    fn linear(&mut self, layer: usize, projection: Projection) {
        let (shape, weights, activations) = (&self.shape, &self.weights, &mut self.rows);
        let rows = match projection {
            Projection::Head => self.step.logits_rows.len(),
            _ => self.step.tokens.len(),
        };
        if rows == 0 {
            return;
        }
        let (matrix, from, output) = match projection {
            Projection::Qkv => {
                (&weights.layers[layer].qkv, &activations.normed, &mut activations.qkv)
            }
            Projection::Output => {
                (&weights.layers[layer].output, &activations.attended, &mut activations.residual)
            }
            Projection::GateUp => {
                (&weights.layers[layer].gate_up, &activations.normed, &mut activations.ffn)
            }
            Projection::Down => {
                (&weights.layers[layer].down, &activations.ffn, &mut activations.residual)
            }
            Projection::Head => (&weights.head, &activations.normed, &mut activations.logits),
        };
        let inputs = matrix.shape().inputs;
        let width = match projection {
            Projection::GateUp => shape.ffn as usize,
            _ => matrix.shape().outputs,
        };
        let output = &mut output[..rows * width];
        let bias = weights.layers.get(layer).and_then(|layer| layer.qkv_bias.as_deref());
        let epilogue = match (projection, bias) {
            (Projection::Qkv, Some(bias)) => Epilogue::Bias { output, bias },
            (Projection::Qkv | Projection::Head, _) => Epilogue::Store { output },
            (Projection::Output | Projection::Down, _) => Epilogue::Add { residual: output },
            (Projection::GateUp, _) => Epilogue::SwiGlu { output },
        };
        activations.prepared.prepare(&self.pool, &from[..rows * inputs], inputs);
        multiply(&self.pool, matrix, &activations.prepared, epilogue);
    }

    fn rope_append(&mut self, layer: usize) {
        let isa = self.isa;
        let head_norms = self.weights.layers[layer].head_norms.as_ref();
        let turn = Turn {
            isa,
            geometry: self.geometry,
            heads: self.shape.heads as usize,
            epsilon: self.shape.norm_eps,
            norms: head_norms.map(|[query, key]| [&query[..], &key[..]]),
        };
        let row_len = (self.shape.q_width() + 2 * self.shape.kv_width()) as usize;
        let (runs, turns) = (&self.step.runs, &self.turns);
        let qkv = Disjoint::new(&mut self.rows.qkv);
        let mut stores = Stores::of(&mut self.cache, layer);
        let stores = stores.shared();
        let grain = if self.step.rows() <= 2 { runs.len() } else { 1 };
        for_ranges(&self.pool, runs.len(), grain, |_, items| {
            for run in &runs[items] {
                // SAFETY: each row lies in one run.
                let rows = unsafe { qkv.part(run.row * row_len..(run.row + run.rows) * row_len) };
                for (r, row) in rows.chunks_exact_mut(row_len).enumerate() {
                    let (cosines, sines) = turns.at(run.position + r);
                    turn.row(row, cosines, sines);
                }
                match &stores {
                    // SAFETY: no two runs lie in one group: those of a sequence are cut where
                    // groups end, and no two sequences write one block.
                    SharedStores::F16(store) => unsafe { turn.store(run, rows, row_len, store) },
                    // SAFETY: as above.
                    SharedStores::F32(store) => unsafe { turn.store(run, rows, row_len, store) },
                }
            }
        });
    }

    fn attention_decode(&mut self, layer: usize) {
        let queries = queries(&self.shape, self.geometry, &self.rows.qkv, &self.step.tables);
        let sequences = &self.step.sequences[..self.step.decodes];
        let (scratch, out) = (&mut self.decode, &mut self.rows.attended);
        let (pool, isa) = (&self.pool, self.isa);
        match &self.cache {
            KvPool::F16(layers) => {
                attend_decode(pool, isa, queries, &layers[layer], sequences, scratch, out);
            }
            KvPool::F32(layers) => {
                attend_decode(pool, isa, queries, &layers[layer], sequences, scratch, out);
            }
        }
    }

    fn attention_prefill(&mut self, layer: usize) {
        let queries = queries(&self.shape, self.geometry, &self.rows.qkv, &self.step.tables);
        let sequences = &self.step.sequences[self.step.decodes..];
        let (scratch, out) = (&mut self.prefill, &mut self.rows.attended);
        let (pool, isa) = (&self.pool, self.isa);
        match &self.cache {
            KvPool::F16(layers) => {
                attend_prefill(pool, isa, queries, &layers[layer], sequences, scratch, out);
            }
            KvPool::F32(layers) => {
                attend_prefill(pool, isa, queries, &layers[layer], sequences, scratch, out);
            }
        }
    }

    fn sample(&mut self) {
        let rows = self.step.logits_rows.len();
        let logits = &self.rows.logits[..rows * self.shape.vocab as usize];
        self.sampled.clear();
        self.sampled.resize(rows, Sampled { token: 0, logprob: 0.0 });
        let (scratch, sampled) = (&mut self.sampling, &mut self.sampled);
        let asked = (&self.step.sampling[..], self.step.masks());
        sample(&self.pool, self.isa, logits, asked, scratch, sampled);
    }
}

fn queries<'a>(
    shape: &crate::model::Shape,
    geometry: Geometry,
    qkv: &'a [f32],
    tables: &'a [u32],
) -> Queries<'a> {
    Queries {
        geometry,
        qkv,
        row_len: (shape.q_width() + 2 * shape.kv_width()) as usize,
        sharing: (shape.heads / shape.kv_heads) as usize,
        window: shape.sliding_window.map_or(usize::MAX, |window| window as usize),
        tables,
    }
}

/// The KV pool of a layer.
enum Stores<'a> {
    F16(&'a mut [half::f16]),
    F32(&'a mut [f32]),
}

/// The same, for workers that write their own groups.
enum SharedStores<'a> {
    F16(Disjoint<'a, half::f16>),
    F32(Disjoint<'a, f32>),
}

impl<'a> Stores<'a> {
    fn of(cache: &'a mut KvPool, layer: usize) -> Self {
        match cache {
            KvPool::F16(layers) => Self::F16(&mut layers[layer]),
            KvPool::F32(layers) => Self::F32(&mut layers[layer]),
        }
    }

    fn shared(&mut self) -> SharedStores<'_> {
        match self {
            Self::F16(pool) => SharedStores::F16(Disjoint::new(pool)),
            Self::F32(pool) => SharedStores::F32(Disjoint::new(pool)),
        }
    }
}

dispatch! {
    fn append_token<E: Element>(
        group: &mut [E], lane: usize, key: &[f32], value: &[f32]
    ) = append
}

/// Norms, turns and stores the heads of rows.
struct Turn<'a> {
    isa: Isa,
    geometry: Geometry,
    /// Query heads.
    heads: usize,
    epsilon: f32,
    /// Of query and key heads.
    norms: Option<[&'a [f32]; 2]>,
}

impl Turn<'_> {
    /// Queries and keys of a row, in place. Queries are scaled for attention.
    fn row(&self, row: &mut [f32], cosines: &[f32], sines: &[f32]) {
        let Geometry { kv_heads, head_dim, .. } = self.geometry;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let heads = row.chunks_exact_mut(head_dim).take(self.heads + kv_heads);
        for (i, head) in heads.enumerate() {
            let is_key = i >= self.heads;
            if let Some(norms) = self.norms {
                norm_in_place(self.isa, head, norms[usize::from(is_key)], self.epsilon);
            }
            turn_head(self.isa, head, cosines, sines, if is_key { 1.0 } else { scale });
        }
    }

    /// Keys and values of a run's rows into their group.
    ///
    /// # Safety
    /// No other worker may write the group of the run.
    unsafe fn store<E: Element>(
        &self,
        run: &Run,
        rows: &[f32],
        row_len: usize,
        pool: &Disjoint<'_, E>,
    ) {
        let Geometry { kv_heads, head_dim, block_tokens } = self.geometry;
        let first_lane = run.position % block_tokens % LANES;
        for head in 0..kv_heads {
            // SAFETY: the caller's duty.
            let group = unsafe { pool.part(self.geometry.run_group(run, head)) };
            for (r, row) in rows.chunks_exact(row_len).enumerate() {
                let key = &row[(self.heads + head) * head_dim..][..head_dim];
                let value = &row[(self.heads + kv_heads + head) * head_dim..][..head_dim];
                append_token(self.isa, group, first_lane + r, key, value);
            }
        }
    }
}
