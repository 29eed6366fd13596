//! The floor: bytes and operations an operation must take.
