//! The reference backend: an NVIDIA GPU, by the kernels of `kernels/`.
//!
//! [`Cuda`] holds weights in the kernels' layouts, a KV cache in blocks and the activations of one
//! step, all allocated when it is loaded, and launches each operation of a step in its fused form,
//! or in the forms that stand in its place where a technique is switched off.
//! It stands on a [`Driver`], so that everything but the driver itself runs where there is no GPU:
//! [`open`] gives the one that speaks to a card; tests bring one that runs the same kernels on a
//! host, and one that only writes down what it is asked.
//!
//! Steps of decoded rows alone are captured once for each form and replayed as a whole from then
//! on. A step may be handed over while another one runs; the tokens that it awaits do not leave the
//! device.
//!
//! Times of operations come from records of kernels where the machine has CUPTI, else from events
//! between kernels (`timing`); steps that nobody times run with nothing between their kernels.
//! Records can be had when nothing runs: a few times a second the device is let run empty for them,
//! and until then it tells tokens and not times (`late`).
//!
//! Events tell when a step's inputs and what it chose were copied (`copies`); they stand before and
//! behind its kernels.
//!
//! Products of 16-bit weights with more than 64 rows go to NVIDIA's library of dense products where
//! the machine has it; every other product is a kernel of `kernels/`. The products of a layer with
//! weights in 8 bits take more than 64 rows in the same 8 bits, each quantized by its own largest
//! magnitude: e4m3 where the library multiplies them, i8 by a kernel. Fewer rows stay activations:
//! there the weights' bytes bound a product, and a row in 16 bits costs nothing.
//!
//! The duties of [`Backend`](super::Backend) are kept, with two exceptions. In duty 4: a step's
//! graph is made when its form is first met, room for the records of the largest step when it first
//! runs, and the library looks for an algorithm when a product like none before is. In duty 5: a
//! row does not depend on the other rows of its step *within one kernel*, but which kernel
//! multiplies and attends depends on how many there are. Products of up to 16 rows, of 17 to 64 and
//! of more sum in three different orders, and a row that is decoded attends in another order than
//! one that is read with its prompt. Beyond 64 rows the library has an order for each of its
//! algorithms, which it chooses by the number of rows, in steps of a quarter at most, and it leaves
//! gates and ups in 16 bits before SwiGLU, where the kernels here round once, behind it. So
//! batching, chunking, a prefix hit, a recomputation and the library itself may change a row's last
//! bits, and a token where two are almost equally likely. Beside weights in 8 bits more than 64
//! rows are rounded to 8 bits before a product, and fewer are not: that is more than last bits.

mod copies;
mod cublas;
mod cupti;
mod dense;
mod device;
mod driver;
mod flights;
mod gpm;
mod graphs;
mod image;
mod join;
mod late;
mod launches;
mod layout;
mod library;
mod nvidia;
mod nvml;
mod nvrtc;
mod plan;
mod quantize;
mod roofs;
mod rooms;
mod step;
mod timeline;
mod timing;
mod tracer;
mod unfused;
mod weights;

pub use device::{Cuda, Options};
pub use driver::{
    Address, Arguments, Card, Dense, Driver, DriverError, Event, Function, Graph, Scales, Shelf,
};
pub use gpm::Counters;
pub use image::{Activation, Program};
pub use library::{Found, Library, Missing, NvidiaLibraries, Presence, ThisMachine, look};
pub use nvidia::{OpenError, open};
pub use nvml::Nvml;
pub use roofs::ReadProbe;
pub use timeline::Record;
pub use tracer::Tracer;
