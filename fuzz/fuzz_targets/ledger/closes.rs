//! What must hold of the books of any run.

use gemba::event::Fact;
use gemba::trace::{Header, Run};
use gemba::waste::{Books, BooksOptions, Commodity, Headline, Latency, requests};

pub fn check(header: Header, facts: Vec<Fact>, options: &BooksOptions) {
    let Ok(run) = Run::from_facts(header, facts) else { return };
    let Ok(books) = Books::of(&run, options) else { return };
    // Facts may contradict each other, and then the seal must say so: rows are told twice, with
    // their step and one by one; and more memory may be held than the device has.
    let launched: u64 = run.steps.iter().map(|step| u64::from(step.rows())).sum();
    let told: u64 = run.rows.iter().map(|row| u64::from(row.rows)).sum();
    for commodity in books.commodities() {
        let balance = books.trial_balance(commodity).expect("a commodity has a book");
        let holds = match commodity {
            Commodity::Rows => balance.balanced() == (launched == told),
            Commodity::Memory => balance.posted >= balance.capacity,
            _ => balance.balanced(),
        };
        assert!(holds, "{commodity:?}: {balance:?}");
    }
    let _ = Headline::of(&run, &books);
    let _ = Latency::of(&run);
    let _ = requests(&run, &books);
}
