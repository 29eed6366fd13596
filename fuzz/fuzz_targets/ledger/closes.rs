//! What must hold of the books of any run.

use gemba::event::Fact;
use gemba::trace::{Header, Run};
use gemba::waste::{Books, BooksOptions, Headline, Latency, requests};

pub fn check(header: Header, facts: Vec<Fact>, options: &BooksOptions) {
    let Ok(run) = Run::from_facts(header, facts) else { return };
    let Ok(books) = Books::of(&run, options) else { return };
    for commodity in books.commodities() {
        let balance = books.trial_balance(commodity).expect("a commodity has a book");
        assert!(balance.balanced(), "{commodity:?}: {balance:?}");
    }
    let _ = Headline::of(&run, &books);
    let _ = Latency::of(&run);
    let _ = requests(&run, &books);
}
