//! A GPU in place of the shim: the same launches through the driver that the product uses.
//!
//! `GEMBA_CARD=0` puts every kernel's proof on card 0. Buffers stay on the host; a launch copies
//! them to the card and back, so that a proof looks at them as it does on the shim. On the card
//! each lies between guards that must stay as they are; with `GEMBA_CARD_EXACT` set they have none,
//! so that a memory checker sees where they end. A card takes its own order of blocks and threads:
//! three launches must leave the same bits all the same.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use gemba::backend::cuda::{self, Activation, Address, Driver, Function, Program};

use super::{Arguments, Buffer};
use crate::numbers::Act;

/// Bytes on either side of a buffer, and what they hold.
const GUARD: usize = 256;
const MARK: u8 = 0xa5;

thread_local! {
    /// This thread's card, once for each type of activations.
    static DRIVERS: RefCell<[Option<Box<dyn Driver>>; 2]> = const { RefCell::new([None, None]) };
}

/// The card that proofs are to run on; none for the shim.
pub fn asked() -> Option<u32> {
    let number = std::env::var("GEMBA_CARD").ok()?;
    Some(number.parse().unwrap_or_else(|_| panic!("GEMBA_CARD: expected a number, found {number}")))
}

/// Where compiled kernels are kept between processes, as the product keeps its own.
fn folder() -> Option<PathBuf> {
    std::env::var_os("XDG_CACHE_HOME").map(|home| PathBuf::from(home).join("gemba"))
}

/// The driver of the card that is asked for.
pub fn driver() -> Option<Box<dyn Driver>> {
    let number = asked()?;
    let opened = cuda::open(number, folder().as_deref());
    Some(opened.unwrap_or_else(|error| panic!("card {number}: {error}")))
}

fn opened(act: Act) -> Box<dyn Driver> {
    // One after another: the first compiles, the others find what it kept.
    static OPENING: Mutex<()> = Mutex::new(());
    let _turn = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let driver = driver().unwrap();
    let programs = match act {
        Act::Bf16 => Program::every(Activation::Bf16, None),
        Act::F16 => Program::every(Activation::F16, Some(16)),
    };
    driver.load(&programs).unwrap();
    driver
}

/// Launches, waits, and brings back what the kernel left in the buffers.
pub fn launch(
    act: Act,
    name: &str,
    grid: [u32; 3],
    threads: u32,
    arguments: &Arguments<'_>,
) -> Result<(), String> {
    DRIVERS.with_borrow_mut(|drivers| {
        let driver = drivers[act as usize].get_or_insert_with(|| opened(act));
        let function = driver.function(name).map_err(|error| error.to_string())?;
        on(&**driver, (function, grid, threads), arguments)
            .map_err(|error| format!("{name}: {error}"))
    })
}

fn on(
    driver: &dyn Driver,
    (function, grid, threads): (Function, [u32; 3], u32),
    arguments: &Arguments<'_>,
) -> Result<(), String> {
    let guard = if std::env::var_os("GEMBA_CARD_EXACT").is_some() { 0 } else { GUARD };
    let said = |error: cuda::DriverError| error.to_string();
    let mut values = arguments.values.clone();
    // A buffer that is given twice is one.
    let mut there: Vec<(&Buffer<'_>, Address)> = Vec::new();
    for (buffer, place) in arguments.buffers.iter().zip(&arguments.places) {
        let known = there.iter().find(|(known, _)| known.data == buffer.data);
        let base = match known {
            Some((_, base)) => *base,
            None => {
                let guards = vec![MARK; guard];
                let bytes = [&guards[..], buffer.bytes(), &guards[..]].concat();
                let base = driver.allocate(bytes.len() as u64).map_err(said)?;
                driver.write(base, &bytes).map_err(said)?;
                there.push((*buffer, base));
                base
            }
        };
        values[*place] = base.plus(guard as u64).0;
    }
    let values = values.into_iter().fold(cuda::Arguments::new(), cuda::Arguments::long);
    driver.launch(function, grid, threads, &values).map_err(said)?;
    driver.wait().map_err(said)?;
    for (at, (buffer, base)) in there.into_iter().enumerate() {
        let mut bytes = vec![0; buffer.bytes + 2 * guard];
        driver.read(base, &mut bytes).map_err(said)?;
        driver.free(base).map_err(said)?;
        let own = between(&bytes, guard)
            .ok_or_else(|| format!("wrote beside buffer {at} of {} bytes", buffer.bytes))?;
        buffer.write(own);
    }
    Ok(())
}

/// What lies between two guards, if these are as they were.
fn between(bytes: &[u8], guard: usize) -> Option<&[u8]> {
    let (before, rest) = bytes.split_at(guard);
    let (own, behind) = rest.split_at(rest.len() - guard);
    before.iter().chain(behind).all(|byte| *byte == MARK).then_some(own)
}

#[test]
fn a_guard_that_changed_is_seen() {
    let whole = [[MARK; 4], [1, 2, 3, 4], [MARK; 4]].concat();
    assert_eq!(between(&whole, 4), Some(&[1, 2, 3, 4][..]));
    assert_eq!(between(&whole, 0), Some(&whole[..]));
    for at in (0..4).chain(8..12) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        assert_eq!(between(&changed, 4), None, "byte {at}");
    }
}
