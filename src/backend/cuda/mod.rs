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
//! on, with the events between their kernels.
//!
//! The duties of [`Backend`](super::Backend) are kept, with two exceptions. In duty 4: a step's
//! graph is made when its form is first met. In duty 5: a row does
//! not depend on the other rows of its step *within one kernel*, but which kernel multiplies and
//! attends depends on how many there are. Products of up to 16 rows, of 17 to 64 and of more sum
//! in three different orders, and a row that is decoded attends in another order than one that is
//! read with its prompt. So batching, chunking, a prefix hit and a recomputation may change a
//! row's last bits, and a token where two are almost equally likely.

mod device;
mod driver;
mod gpm;
mod graphs;
mod image;
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
mod unfused;
mod weights;

pub use device::{Cuda, Options};
pub use driver::{Address, Arguments, Card, Driver, DriverError, Event, Function, Graph};
pub use gpm::Counters;
pub use image::{Activation, Program};
pub use library::{Found, Library, Missing, NvidiaLibraries, Presence, ThisMachine, look};
pub use nvidia::{OpenError, open};
pub use nvml::Nvml;
pub use roofs::ReadProbe;
