//! Connections, limits and addresses.

mod body;
mod complete;
mod feed;
mod listen;
mod patience;
mod routes;
mod stream;

pub(super) use complete::seconds_since_1970;
pub(super) use listen::listen;
pub(super) use routes::Site;
