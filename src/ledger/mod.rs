//! Double entry over several commodities, and the trial balance.
