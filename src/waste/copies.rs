//! Copies: what their time and bytes are booked to.
//!
//! A copy is what it is: no floor, no calibration, no mechanism. It owns the instants in which
//! nothing computes, KV blocks before anything else; in all others it is hidden and keeps its
//! bytes. What its step's copies owned is paid by the step's requests in equal parts, as host time
//! is; a copy outside any step is paid by nobody.

use super::catalogue::Cause;
use super::posting::{Account, Basis, Commodity, SubReason};
use crate::event::{Cargo, Direction, MemoryCopy};

/// Kinds of copies: cargo and direction.
const KINDS: usize = Cargo::ALL.len() * Direction::ALL.len();

/// What copies owned and moved, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    amounts: [[u128; 2]; KINDS],
}

impl Carried {
    /// Adds a copy that owned `nanos` of the device's time.
    pub(super) const fn add(&mut self, copy: &MemoryCopy, nanos: u64) {
        let amounts = &mut self.amounts[kind(copy.cargo, copy.direction)];
        amounts[0] += nanos as u128;
        amounts[1] += copy.moved() as u128;
    }

    /// Time that they owned, in nanoseconds.
    pub(super) fn nanos(&self) -> u128 {
        self.amounts.iter().map(|[nanos, _]| nanos).sum()
    }

    /// Bytes that they moved.
    pub(super) fn bytes(&self) -> u128 {
        self.amounts.iter().map(|[_, bytes]| bytes).sum()
    }

    /// What is to be posted, in the order of the kinds.
    pub(super) fn postings(&self) -> impl Iterator<Item = (Commodity, Account, u128)> + use<> {
        let amounts = self.amounts;
        let kinds = Cargo::ALL.iter().flat_map(|cargo| Direction::ALL.iter().map(|d| (*cargo, *d)));
        kinds.flat_map(move |(cargo, direction)| {
            let [nanos, bytes] = amounts[kind(cargo, direction)];
            let of = |basis| account(cargo, direction, basis);
            [
                (Commodity::DeviceTime, of(Basis::Measured), nanos),
                (Commodity::Bytes, of(Basis::Counted), bytes),
            ]
        })
    }
}

const fn kind(cargo: Cargo, direction: Direction) -> usize {
    cargo as usize * Direction::ALL.len() + direction as usize
}

const fn account(cargo: Cargo, direction: Direction, basis: Basis) -> Account {
    let cause = match cargo {
        Cargo::Data => Cause::HostCopy,
        Cargo::KvBlocks => Cause::KvMove,
    };
    Account::of(cause, basis).because(match direction {
        Direction::ToDevice => SubReason::ToDevice,
        Direction::ToHost => SubReason::ToHost,
        Direction::Within => SubReason::Within,
    })
}

/// Whether what stands on an account went over the link between host and device, and not through
/// the device's memory alone.
pub(super) const fn over_host_link(account: &Account) -> bool {
    matches!(account.sub_reason, Some(SubReason::ToDevice | SubReason::ToHost))
}

/// Whether a device worked for what stands on an account: it computed or copied.
pub(super) const fn works(account: &Account) -> bool {
    account.kernel.is_some() || matches!(account.cause, Cause::HostCopy | Cause::KvMove)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        DeviceState, Dtype, Fact, Fate, KernelId, Launch, Phase, RequestId, Row, StateChange, Step,
        StepId,
    };
    use crate::trace::{DeviceHeader, EnergyModel, Header, Run, Window};
    use crate::unit::{Bytes, Nanos, Ops};
    use crate::waste::{Books, BooksOptions};

    fn copy(step: Option<StepId>, span: (u64, u64), cargo: Cargo, direction: Direction) -> Fact {
        let (start, end) = (Nanos(span.0), Nanos(span.1));
        let (device, stream, bytes) = (0, 0, Bytes(100));
        Fact::Copy(MemoryCopy { device, stream, step, start, end, cargo, direction, bytes })
    }

    /// A step of two requests from 0 to 50 that computes from 10 to 20, and what else is told.
    fn books(others: impl IntoIterator<Item = Fact>) -> Books {
        let mut header = Header::begin();
        header.window = Window { start_ns: Nanos(0), end_ns: Nanos(100) };
        header.energy = Some(EnergyModel { idle_mw: 1_000_000, busy_mw: 3_000_000 });
        header.devices = vec![DeviceHeader {
            id: 0,
            kind: String::new(),
            name: String::new(),
            memory_bytes: Bytes(0),
            ceilings: crate::event::Ceilings::default(),
            calibration: Vec::new(),
        }];
        let row = |request| {
            Fact::Row(Row {
                step: StepId(0),
                request: Some(RequestId(request)),
                phase: Phase::Decode,
                rows: 1,
                context_tokens: 0,
                cached_tokens: 0,
                sequence_rows: 1,
                logits_rows: 1,
                fate: Fate::Delivered,
            })
        };
        let state = DeviceState::Empty;
        let mut facts = vec![
            Fact::Kernel { id: KernelId(0), name: "qkv".to_owned() },
            Fact::State(StateChange { device: 0, at: Nanos(0), state }),
            Fact::Step(Step { start: Nanos(4), end: Nanos(50), rows_decode: 2, ..Step::default() }),
            row(0),
            row(1),
            Fact::Launch(Launch {
                device: 0,
                stream: 1,
                step: Some(StepId(0)),
                layer: None,
                kernel: KernelId(0),
                start: Nanos(10),
                end: Nanos(20),
                weight_bytes: Bytes(0),
                kv_bytes: Bytes(0),
                activation_bytes: Bytes(0),
                excess_bytes: Bytes(0),
                ops: Ops(0),
                dtype: Dtype::F32,
                driver: crate::event::Driver::Rows,
            }),
        ];
        facts.extend(others);
        let books = Books::of(&Run::from_facts(header, facts).unwrap(), &BooksOptions::default());
        let books = books.unwrap();
        assert!(books.balanced());
        books
    }

    fn nanos(books: &Books, cause: Cause) -> u128 {
        books.sum(Commodity::DeviceTime, |account| account.cause == cause)
    }

    #[test]
    fn what_computes_owns_an_instant_before_kv_blocks_and_these_before_other_copies() {
        use Cargo::{Data, KvBlocks};
        use Direction::{ToDevice, ToHost, Within};
        let step = Some(StepId(0));
        for (copies, host_copy, kv_move) in [
            (vec![copy(step, (12, 18), Data, ToHost)], 0, 0),
            (vec![copy(step, (12, 18), KvBlocks, Within)], 0, 0),
            // From the preparation of the step, in which the host works, into the operation.
            (vec![copy(step, (1, 15), Data, ToDevice)], 9, 0),
            (
                vec![copy(step, (15, 30), Data, ToHost), copy(step, (25, 40), KvBlocks, ToHost)],
                5,
                15,
            ),
            // Two of a kind share what they own.
            (vec![copy(step, (20, 31), Data, ToHost), copy(step, (20, 31), Data, ToHost)], 11, 0),
            // Outside any step, over the end of one.
            (vec![copy(None, (45, 60), KvBlocks, ToHost)], 0, 15),
            (vec![copy(Some(StepId(9)), (90, 200), Data, ToHost)], 10, 0),
        ] {
            let count = copies.len() as u128;
            let said = format!("{copies:?}");
            let books = books(copies);
            let found = (nanos(&books, Cause::HostCopy), nanos(&books, Cause::KvMove));
            assert_eq!(found, (host_copy, kv_move), "{said}");
            let moved = books.sum(Commodity::Bytes, |_| true);
            assert_eq!(moved, if said.contains("Within") { 200 } else { 100 * count }, "{said}");
        }
    }

    #[test]
    fn a_failed_device_owns_its_copies_time_and_not_their_bytes() {
        let at = |at, state| Fact::State(StateChange { device: 0, at: Nanos(at), state });
        let copy = copy(None, (60, 80), Cargo::Data, Direction::ToHost);
        let books = books([copy, at(70, DeviceState::Faulted), at(90, DeviceState::Empty)]);
        assert_eq!(nanos(&books, Cause::HostCopy), 10);
        assert_eq!(nanos(&books, Cause::FaultRecovery), 20);
        assert_eq!(books.sum(Commodity::Bytes, |_| true), 100);
    }

    #[test]
    fn the_requests_of_a_step_pay_for_its_copies_and_nobody_for_others() {
        let copies = [
            copy(Some(StepId(0)), (20, 27), Cargo::Data, Direction::ToHost),
            copy(None, (60, 64), Cargo::Data, Direction::ToHost),
        ];
        let books = books(copies);
        let paid = |commodity, request| -> u128 {
            let of = books
                .postings(commodity)
                .filter(|(key, _)| key.account.cause == Cause::HostCopy && key.request == request);
            of.map(|(_, amount)| amount).sum()
        };
        let payers = [Some(0), Some(1), None];
        assert_eq!(payers.map(|payer| paid(Commodity::DeviceTime, payer)), [4, 3, 4]);
        assert_eq!(payers.map(|payer| paid(Commodity::Bytes, payer)), [50, 50, 100]);
        assert_eq!(books.moved_in_memory(), 0, "it all went over the link");
        // Three watts for the 11 ns, as for the operation's ten; one for the rest.
        let energy = |cause| books.sum(Commodity::Energy, |account| account.cause == cause);
        assert_eq!(books.trial_balance(Commodity::Energy).map(|b| b.capacity), Some(142));
        assert_eq!(energy(Cause::HostCopy), 33);
    }

    #[test]
    fn each_kind_has_an_account_of_its_own() {
        let mut carried = Carried::default();
        for (i, (cargo, direction)) in [
            (Cargo::Data, Direction::ToDevice),
            (Cargo::Data, Direction::ToHost),
            (Cargo::KvBlocks, Direction::Within),
        ]
        .into_iter()
        .enumerate()
        {
            let (start, end) = (Nanos(0), Nanos(9));
            let (device, stream, step, bytes) = (0, 0, None, Bytes(100));
            let copy = MemoryCopy { device, stream, step, start, end, cargo, direction, bytes };
            carried.add(&copy, i as u64);
        }
        let told: Vec<(Commodity, &str, Option<&str>, u128)> = carried
            .postings()
            .filter(|(_, _, amount)| *amount > 0)
            .map(|(commodity, account, amount)| {
                let reason = account.sub_reason.map(SubReason::code);
                (commodity, account.cause.code(), reason, amount)
            })
            .collect();
        let expected = [
            (Commodity::Bytes, "host_copy", Some("to_device"), 100),
            (Commodity::DeviceTime, "host_copy", Some("to_host"), 1),
            (Commodity::Bytes, "host_copy", Some("to_host"), 100),
            (Commodity::DeviceTime, "kv_move", Some("within"), 2),
            (Commodity::Bytes, "kv_move", Some("within"), 200),
        ];
        assert_eq!(told, expected);
        assert_eq!((carried.nanos(), carried.bytes()), (3, 400));
        let links = carried.postings().filter(|(_, account, _)| over_host_link(account));
        assert_eq!(links.count(), 8, "time and bytes of two directions of two cargoes");
    }
}
