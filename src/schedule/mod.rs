//! Pure, deterministic decisions: queue, block pool, batch, preemption.
