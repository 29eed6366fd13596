//! What a reader pushes rows into: holds them within limits, then sorts, rebases and inspects.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::error::{Place, WorkloadError, quoted};
use super::note::{Note, NoteKind};
use super::request::{Class, RequestSpec, Slo, Workload};
use super::{Format, inspect};
use crate::unit::Nanos;

/// The most requests of one workload: about 1.5 GB of records.
const MOST_REQUESTS: usize = 8_000_000;
/// The most block ids and literal token ids of one workload: 1 GB.
const MOST_IDS: usize = 128_000_000;
/// The most bytes of literal text of one workload.
const MOST_TEXT: usize = 1 << 30;
/// The most classes; a column with more values is no class.
const MOST_CLASSES: usize = 1_000;
/// The longest name of a class or session, in bytes.
const LONGEST_NAME: usize = 128;
/// The longest time between the first and the last arrival.
const LONGEST_SPAN_DAYS: u64 = 3_660;

/// Rows as they come, with times as the file has them.
pub(super) struct Draft {
    path: PathBuf,
    requests: Vec<RequestSpec>,
    classes: Vec<Class>,
    class_of_name: HashMap<String, u16>,
    block_tokens: Option<NonZeroU32>,
    notes: Vec<Note>,
    ids: usize,
    text: usize,
    number_of_task: HashMap<String, u64>,
    recorded_start: Option<u64>,
    absolute_times: bool,
    timeless: bool,
}

impl Draft {
    /// For the file at `path`.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            requests: Vec::new(),
            classes: Vec::new(),
            class_of_name: HashMap::new(),
            block_tokens: None,
            notes: Vec::new(),
            ids: 0,
            text: 0,
            number_of_task: HashMap::new(),
            recorded_start: None,
            absolute_times: false,
            timeless: false,
        }
    }

    /// Takes a row; gives its index.
    pub(super) fn push(&mut self, request: RequestSpec, at: &Place) -> Result<u32, WorkloadError> {
        use super::Content;
        let within = |count: usize, limit: usize, what: &'static str| {
            let error = || WorkloadError::TooMany { at: at.clone(), what, limit };
            if count <= limit { Ok(()) } else { Err(error()) }
        };
        self.ids += request.hash_ids.as_ref().map_or(0, |ids| ids.len());
        match request.content.as_deref() {
            Some(Content::Text(text)) => self.text += text.len(),
            Some(Content::Tokens { prompt, output }) => self.ids += prompt.len() + output.len(),
            None => {}
        }
        within(self.requests.len() + 1, MOST_REQUESTS, "requests")?;
        within(self.ids, MOST_IDS, "block and token ids")?;
        within(self.text, MOST_TEXT, "bytes of text")?;
        // In range: at most `MOST_REQUESTS`.
        let index = self.requests.len() as u32;
        self.requests.push(request);
        Ok(index)
    }

    /// The number of a class, which is made if it is new.
    pub(super) fn class(&mut self, name: &str, at: &Place) -> Result<u16, WorkloadError> {
        if let Some(&class) = self.class_of_name.get(name) {
            return Ok(class);
        }
        if name.trim().is_empty() {
            let (expected, found) = ("a class name".to_owned(), quoted(name));
            return Err(WorkloadError::Row { at: at.clone(), expected, found });
        }
        if name.len() > LONGEST_NAME {
            let expected = format!("a class name of at most {LONGEST_NAME} bytes");
            return Err(WorkloadError::Row { at: at.clone(), expected, found: quoted(name) });
        }
        if self.classes.len() >= MOST_CLASSES {
            let (at, what) = (at.clone(), "classes");
            return Err(WorkloadError::TooMany { at, what, limit: MOST_CLASSES });
        }
        // In range: at most `MOST_CLASSES`.
        let class = self.classes.len() as u16;
        self.classes.push(Class::named(name));
        self.class_of_name.insert(name.to_owned(), class);
        Ok(class)
    }

    /// Takes a class with all it says; gives its number.
    pub(super) fn add_class(&mut self, class: Class, at: &Place) -> Result<u16, WorkloadError> {
        if self.class_of_name.contains_key(&class.name) {
            let expected = "each class once".to_owned();
            let found = format!("{} twice", quoted(&class.name));
            return Err(WorkloadError::Row { at: at.clone(), expected, found });
        }
        let number = self.class(&class.name, at)?;
        self.classes[usize::from(number)] = class;
        Ok(number)
    }

    /// The number of a conversation or session, which is new if its name is.
    pub(super) fn task(&mut self, name: &str, at: &Place) -> Result<u64, WorkloadError> {
        if let Some(&task) = self.number_of_task.get(name) {
            return Ok(task);
        }
        if name.len() > LONGEST_NAME {
            let expected = format!("a session's name of at most {LONGEST_NAME} bytes");
            return Err(WorkloadError::Row { at: at.clone(), expected, found: quoted(name) });
        }
        let task = self.number_of_task.len() as u64;
        self.number_of_task.insert(name.to_owned(), task);
        Ok(task)
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Says how many tokens one block id stands for.
    pub(super) fn set_block_tokens(&mut self, tokens: NonZeroU32) {
        self.block_tokens = Some(tokens);
    }

    /// Adds what the reader itself has to say.
    pub(super) fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Says that times are nanoseconds since 1970.
    pub(super) fn absolute_times(&mut self) {
        self.absolute_times = true;
    }

    /// Says that the format has times and this file does not: all arrive at once.
    pub(super) fn no_times(&mut self) {
        self.timeless = true;
        let message = "the file has no arrival times: all requests arrive at 0 unless a request \
                       rate is given";
        self.note(Note::new(NoteKind::NoTimes, message));
    }

    /// Says when the first arrival was, in nanoseconds since 1970.
    pub(super) fn recorded_start(&mut self, unix_nanos: u64) {
        self.recorded_start = Some(unix_nanos);
    }

    /// The request of an index that [`Self::push`] gave.
    pub(super) fn request_mut(&mut self, index: u32) -> Option<&mut RequestSpec> {
        self.requests.get_mut(index as usize)
    }

    /// Whether one request arrives before another, or stands above it and arrives with it.
    pub(super) fn comes_before(&self, one: u32, other: u32) -> bool {
        let key = |index: u32| self.requests.get(index as usize).map(|r| (r.arrival, index));
        key(one) < key(other)
    }

    /// Gives every request the number of the conversation that its parents lead back to.
    /// Parents must come before their children, as [`Self::comes_before`] says.
    pub(super) fn number_tasks_by_root(&mut self) {
        let mut order: Vec<u32> = (0..self.requests.len() as u32).collect();
        order.sort_by_key(|&index| self.requests[index as usize].arrival);
        let mut tasks = 0..;
        for index in order {
            let parent = self.requests[index as usize].parent;
            let task = match parent {
                Some(parent) => self.requests[parent as usize].task,
                None => tasks.next(),
            };
            self.requests[index as usize].task = task;
        }
    }

    /// Sorts, rebases to the first arrival, and notes what the rows show.
    pub(super) fn finish(
        self,
        format: Format,
        name: String,
        sha256: String,
        seed: u64,
    ) -> Result<Workload, WorkloadError> {
        let Self { path, requests, mut classes, block_tokens, mut notes, .. } = self;
        let (mut requests, unsorted) = in_arrival_order(requests);
        let (Some(first), Some(last)) = (requests.first(), requests.last()) else {
            let found = "none".to_owned();
            return Err(WorkloadError::NoRequests { path, found });
        };
        let (origin, span) = (first.arrival, last.arrival.saturating_sub(first.arrival));
        let found_days = span.0 / 86_400_000_000_000;
        if found_days > LONGEST_SPAN_DAYS {
            return Err(WorkloadError::Span { path, most_days: LONGEST_SPAN_DAYS, found_days });
        }
        for request in &mut requests {
            request.arrival = request.arrival.saturating_sub(origin);
        }
        if classes.is_empty() {
            classes.push(Class::named("default"));
        }
        notes.extend(inspect::inspect(&requests, unsorted, self.timeless));
        Ok(Workload {
            name,
            format,
            sha256,
            seed,
            block_tokens,
            classes,
            slo: Slo::default(),
            requests,
            notes,
            recorded_start_unix_nanos: self
                .absolute_times
                .then_some(origin.0)
                .or(self.recorded_start),
        })
    }
}

/// Sorts by arrival, equal arrivals in their old order, and renumbers parents. Says how many
/// requests came before one that stood above them.
pub(super) fn in_arrival_order(mut requests: Vec<RequestSpec>) -> (Vec<RequestSpec>, usize) {
    let mut latest = Nanos::ZERO;
    let mut unsorted = 0;
    for request in &requests {
        unsorted += usize::from(request.arrival < latest);
        latest = latest.max(request.arrival);
    }
    if unsorted == 0 {
        return (requests, 0);
    }
    let mut order: Vec<u32> = (0..requests.len() as u32).collect();
    order.sort_by_key(|&old| requests[old as usize].arrival);
    let mut renumbered = vec![0u32; order.len()];
    for (new, &old) in order.iter().enumerate() {
        renumbered[old as usize] = new as u32;
    }
    requests.sort_by_key(|request| request.arrival);
    for request in &mut requests {
        request.parent = request.parent.map(|old| renumbered[old as usize]);
    }
    (requests, unsorted)
}
