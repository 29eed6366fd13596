//! Takes connections, and lets them end in order.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::patience::Patient;
use super::routes::{Site, router};
use crate::serve::Limits;

/// After a connection could not be taken, as when files run out, wait so long.
const BREATH: Duration = Duration::from_millis(100);
/// No more headers than this.
const HEADERS: usize = 64;

/// Takes connections until `closed`, then waits until all of them have ended.
pub(in crate::serve) async fn listen(
    listener: StdListener,
    site: Site,
    mut closed: watch::Receiver<bool>,
) {
    let nonblocking = listener.set_nonblocking(true);
    let Ok(listener) = nonblocking.and_then(|()| TcpListener::from_std(listener)) else { return };
    let limits = site.door.limits;
    let most = limits.connections.max(1);
    let places = Arc::new(Semaphore::new(most as usize));
    let router = router(site, closed.clone());
    loop {
        let place = tokio::select! {
            () = over(&mut closed) => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        let stream = tokio::select! {
            () = over(&mut closed) => break,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(router.clone());
                tokio::spawn(connection(stream, service, limits, closed.clone(), place));
            }
            Err(_) => tokio::time::sleep(BREATH).await,
        }
    }
    drop(listener);
    // Each connection holds one place until it has ended.
    let _ = places.acquire_many(most).await;
}

/// Returns when the server closes.
async fn over(closed: &mut watch::Receiver<bool>) {
    // Nobody left to close it has the same meaning.
    let _ = closed.wait_for(|closed| *closed).await;
}

async fn connection(
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    limits: Limits,
    mut closed: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) {
    // Pieces of a stream are small and each is awaited.
    let _ = stream.set_nodelay(true);
    let stall = Duration::from_nanos(limits.stall.0);
    let io = TokioIo::new(Patient::new(stream, stall));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_nanos(limits.read.0))
        .max_header_size(limits.head_bytes)
        .max_headers(HEADERS)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    // How a client broke off is its own affair: the answer's guard tells the engine.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = over(&mut closed) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    drop(place);
}
