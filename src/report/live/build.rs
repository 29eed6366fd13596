//! From live books to what is shown of them.

use super::super::build::{UNATTRIBUTED_LIMIT, ledgers, tables};
use super::super::{CauseRow, SealRow};
use super::{Detail, Focus, Live, LiveCause, LiveSeal, MemoryNow, Page, parts};
use crate::unit::{Share, grouped, si_nanos};
use crate::waste::live::{Interval, LiveBooks, Sums};
use crate::waste::{Account, Cause, Commodity, KernelTotals, Level, RequestLine};

/// Requests in the list.
const REQUESTS_SHOWN: usize = 100;

/// The state of a run at this moment, with the detail of what is looked at.
#[must_use]
pub fn live(books: &LiveBooks, focus: &Focus) -> Live {
    let sums = books.sums();
    let balances = books.trial_balances(&sums);
    let total = balances.iter().find(|(commodity, _)| *commodity == Commodity::DeviceTime);
    let total = total.map_or(0, |(_, balance)| balance.capacity);
    let ledger = ledgers::lay_out(
        Commodity::DeviceTime,
        total,
        device_time(&sums).map(|(account, amount)| (*account, books.level(account), amount)),
        |cause| books.muda(cause),
    );
    let unattributed: u128 = device_time(&sums)
        .filter(|(a, _)| matches!(a.cause, Cause::UnattributedIdle | Cause::UnattributedBusy))
        .map(|(_, amount)| amount)
        .sum();
    let unattributed = Share::new(unattributed as i128, total as i128);
    let rows = balances.iter().map(|(commodity, balance)| SealRow {
        name: ledgers::name(*commodity).to_owned(),
        capacity: ledgers::amount(*commodity, balance.capacity),
        posted: ledgers::amount(*commodity, balance.posted),
        residual: grouped(balance.residual()),
    });
    let rows = rows.collect();
    let broken = balances.iter().position(|(_, balance)| !balance.balanced());
    let charts = parts::charts(books);
    let latency = books.latency();
    let header = books.header();
    let window_start = header.window.start_ns;
    let detail = focus.cause.as_ref().and_then(|(code, level)| {
        let row = ledger.causes.iter().find(|row| row.code == *code && row.level == *level)?;
        Some(detail(books, &sums, row))
    });
    fn only<T>(looked_at: bool, list: &dyn Fn() -> Vec<T>) -> Vec<T> {
        if looked_at { list() } else { Vec::new() }
    }
    Live {
        title: format!("{} under {}", header.model.name, header.workload.name),
        subtitle: parts::subtitle(books),
        status: header.status.code().to_owned(),
        clock: si_nanos(books.now().saturating_sub(window_start)),
        state: books.state().map_or_else(|| "unknown".to_owned(), |s| s.code().to_owned()),
        seal: seal(rows, broken, unattributed),
        lamps: parts::lamps(books, unattributed, UNATTRIBUTED_LIMIT),
        total: ledger.total.clone(),
        levels: ledger.levels.clone(),
        causes: courses(books, ledger.causes),
        detail,
        throughput: charts.throughput,
        queue: charts.queue,
        gaps: charts.gaps,
        kv: charts.kv,
        power: charts.power,
        latencies: tables::latencies(&latency),
        takt: parts::takt(books, &sums),
        jitter: parts::jitter(books, &latency),
        budgets: parts::budgets(books, &latency),
        counts: parts::counts(books),
        kernels: only(focus.page == Page::Kernels, &|| kernels(books)),
        requests: only(focus.page == Page::Requests, &|| requests(books)),
        memory: match focus.page {
            Page::Memory => parts::memory(books),
            _ => MemoryNow::default(),
        },
        steps: only(focus.page == Page::Batch, &|| books.steps().map(parts::step_bar).collect()),
        fates: only(focus.page == Page::Batch, &|| parts::fates(books)),
        energy: parts::energy(books, total),
        notes: parts::notes(books),
    }
}

fn device_time(sums: &Sums) -> impl Iterator<Item = (&Account, u128)> {
    sums.iter()
        .filter(|((commodity, _), _)| *commodity == Commodity::DeviceTime)
        .map(|((_, account), amount)| (account, *amount))
}

fn seal(rows: Vec<SealRow>, broken: Option<usize>, unattributed: Share) -> LiveSeal {
    let text = match broken.and_then(|place| rows.get(place)) {
        None => format!(
            "books balance so far: residual 0 in {} ledgers, unattributed {unattributed}",
            rows.len()
        ),
        Some(row) => format!(
            "BOOKS DO NOT BALANCE: residual {} in {}",
            row.residual,
            row.name.to_lowercase()
        ),
    };
    LiveSeal { balanced: broken.is_none(), text, ledgers: rows }
}

/// Each cause with its share of every recent interval.
fn courses(books: &LiveBooks, rows: Vec<CauseRow>) -> Vec<LiveCause> {
    let (_, _, intervals) = books.recent();
    let intervals: Vec<_> = intervals.map(|i| (i, i.device_nanos())).collect();
    let course = |row: CauseRow| {
        let cause = Cause::from_code(&row.code);
        let share = |(interval, all): &(&Interval, u64)| match cause {
            Some(cause) if *all > 0 => interval.cause(cause) as f64 / *all as f64,
            _ => 0.0,
        };
        LiveCause { course: intervals.iter().map(share).collect(), row }
    };
    rows.into_iter().map(course).collect()
}

fn detail(books: &LiveBooks, sums: &Sums, row: &CauseRow) -> Detail {
    let time = |amount: u128| ledgers::amount(Commodity::DeviceTime, amount);
    let Some(cause) = Cause::from_code(&row.code) else {
        return Detail { row: row.clone(), ..Detail::default() };
    };
    let mut kernels: std::collections::BTreeMap<String, u128> = std::collections::BTreeMap::new();
    for (account, amount) in device_time(sums).filter(|(account, _)| account.cause == cause) {
        if let Some(kernel) = account.kernel {
            let name = books.kernel_name(account).map(str::to_owned);
            let name = name.unwrap_or_else(|| format!("kernel {}", kernel.0));
            *kernels.entry(name).or_default() += amount;
        }
    }
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by_key(|(name, amount)| (std::cmp::Reverse(*amount), name.clone()));
    let named = |top: Vec<(u64, u128)>| -> Vec<(String, String)> {
        top.into_iter().map(|(id, amount)| (id.to_string(), time(amount))).collect()
    };
    Detail {
        row: row.clone(),
        steps: named(books.top_steps(cause)),
        requests: named(books.top_requests(cause)),
        kernels: kernels.into_iter().map(|(name, amount)| (name, time(amount))).collect(),
    }
}

fn kernels(books: &LiveBooks) -> Vec<super::KernelRow> {
    let totals: Vec<KernelTotals> = books.kernels().cloned().collect();
    tables::kernels(&totals)
}

fn requests(books: &LiveBooks) -> Vec<super::RequestRow> {
    let now = books.now();
    let line = |request: crate::waste::live::LiveRequest| {
        let (arrival, finish) = (&request.arrival, request.finish);
        let since = |at: crate::unit::Nanos| at.saturating_sub(arrival.at);
        let mut paid = [0; 3];
        for (cause, amount) in &request.paid {
            let level = books.level(&Account::of(*cause, crate::waste::Basis::Apportioned));
            let place = Level::ALL.iter().position(|other| *other == level).unwrap_or(0);
            paid[place] += amount.unsigned_abs();
        }
        tables::request(&RequestLine {
            request: arrival.request.0,
            class: arrival.class.clone(),
            outcome: finish.map(|finish| finish.outcome),
            arrival: arrival.at,
            lead: since(finish.map_or(now, |finish| finish.at)),
            to_first_token: finish.and_then(|finish| finish.first_token).map(since),
            prompt_tokens: arrival.prompt_tokens,
            cached_tokens: finish.map_or(0, |finish| finish.cached_tokens),
            output_tokens: request.tokens,
            time: request.time.iter().map(|(cause, n)| (*cause, u128::from(*n))).collect(),
            paid,
        })
    };
    books.requests().take(REQUESTS_SHOWN).map(line).collect()
}
